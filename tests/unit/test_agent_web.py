"""ib_sriov_cni.agent: HTTP, systemd's socket, metrics as a client reads them."""

from __future__ import annotations

import http.client
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from ib_sriov_cni import __version__
from ib_sriov_cni.agent.metrics import Metrics
from ib_sriov_cni.agent.systemd import Systemd
from ib_sriov_cni.agent.web import Web, parse_listen

STATE = {"healthy": "", "ready": ""}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def web(metrics: Metrics) -> Iterator[Web]:
    STATE.update(healthy="", ready="no pass yet")
    web = Web("127.0.0.1:0", metrics.registry, healthy=lambda: STATE["healthy"], ready=lambda: STATE["ready"])
    yield web
    web.close()


def ask(web: Web, path: str, method: str = "GET", **headers: str) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=30)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read().decode()
    finally:
        connection.close()


def test_metrics_in_both_formats(web: Web, metrics: Metrics) -> None:
    metrics.publish({"ib_sriov_vfs": [(("0000:3b:00.0", "free"), 3)]})
    metrics.call_seconds.labels("ADD").observe(0.3)
    metrics.call_failures.labels("ADD", "101").inc()
    status, kind, text = ask(web, "/metrics")
    assert (status, kind.startswith("text/plain; version=0.0.4")) == (200, True)
    values = {
        (sample.name, *sample.labels.values()): sample.value for family in parse_text(text) for sample in family.samples
    }
    assert values["ib_sriov_vfs", "0000:3b:00.0", "free"] == 3
    assert values["ib_sriov_call_failures_total", "101", "ADD"] == 1
    assert values["ib_sriov_call_duration_seconds_count", "ADD"] == 1
    assert values["ib_sriov_call_duration_seconds_bucket", "ADD", "0.5"] == 1
    assert values["ib_sriov_call_duration_seconds_bucket", "ADD", "0.2"] == 0
    assert values["ib_sriov_agent_info", __version__] == 1
    assert values["process_open_fds",] > 3
    assert not [name for name, *_ in values if name.endswith("_created")]
    status, kind, text = ask(web, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert (status, kind.startswith("application/openmetrics-text")) == (200, True)
    families = parse_openmetrics(text)  # type: ignore[no-untyped-call]  # theirs has no annotations
    assert "ib_sriov_vfs" in {family.name for family in families}


def test_a_pass_replaces_the_last_ones_facts(web: Web, metrics: Metrics) -> None:
    metrics.publish({"ib_sriov_vfs": [(("0000:3b:00.0", "free"), 3)]})
    metrics.publish({"ib_sriov_attachments": [(("ib", "live"), 1)]})
    text = ask(web, "/metrics")[2]
    assert 'ib_sriov_attachments{network="ib",state="live"} 1.0' in text
    assert "ib_sriov_vfs{" not in text


def test_questions_of_health(web: Web) -> None:
    assert ask(web, "/healthz")[::2] == (200, "ok\n")
    assert ask(web, "/readyz")[::2] == (503, "no pass yet\n")
    STATE.update(healthy="stuck for 300 s", ready="")
    assert ask(web, "/healthz")[::2] == (503, "stuck for 300 s\n")
    assert ask(web, "/readyz?verbose")[::2] == (200, "ok\n")


def test_other_requests(web: Web) -> None:
    assert "/metrics" in ask(web, "/")[2]
    assert ask(web, "/etc/passwd")[0] == 404
    assert ask(web, "/metrics", "HEAD")[::2] == (200, "")
    assert ask(web, "/metrics", "POST")[0] == 501


def test_a_silent_client_keeps_nobody_waiting(web: Web) -> None:
    with socket.create_connection(("127.0.0.1", web.port)) as silent:
        silent.send(b"GET /metr")
        assert ask(web, "/healthz")[0] == 200


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9743", ("127.0.0.1", 9743)),
        ("[::1]:9743", ("::1", 9743)),
        ("fd00::5:9743", ("fd00::5", 9743)),
        (":9743", ("", 9743)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_listen(text) == address


@pytest.mark.parametrize("text", ["", "9743", "127.0.0.1", "127.0.0.1:http", "[::1]", "h:99999", "h:-1"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="not an address to listen on"):
        parse_listen(text)


def test_all_addresses_of_both_families(metrics: Metrics) -> None:
    web = Web(":0", metrics.registry, healthy=str, ready=str)
    try:
        assert ask(web, "/healthz")[0] == 200
    finally:
        web.close()


def test_a_port_that_is_taken(web: Web, metrics: Metrics) -> None:
    with pytest.raises(OSError, match="in use"):
        Web(f"127.0.0.1:{web.port}", metrics.registry, healthy=str, ready=str)


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(tmp_path: Path, abstract: bool) -> None:
    name = f"@ib-sriov-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind("\0" + name[1:] if abstract else name)
        ear.settimeout(30)
        systemd = Systemd({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())})
        systemd.notify(READY=1, STATUS="watching 2 attachments")
        assert ear.recv(1000) == b"READY=1\nSTATUS=watching 2 attachments"
        assert systemd.watchdog_seconds == 30


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"NOTIFY_SOCKET": "/nowhere/notify"},
        {"NOTIFY_SOCKET": "vsock:2:3"},
        {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"},
    ],
)
def test_without_systemd_nothing_happens(environ: dict[str, str]) -> None:
    systemd = Systemd(environ)
    systemd.notify(READY=1)
    assert systemd.watchdog_seconds == 0


def test_scrapes_while_a_pass_shows_facts_are_of_one_pass(web: Web, metrics: Metrics) -> None:
    """Free and used change together: no scrape may see one of the old pass and one of the new."""
    stop = threading.Event()

    def work() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            samples = [(("pf", "free"), float(number)), (("pf", "in_use"), float(number))]
            metrics.publish({"ib_sriov_vfs": samples})

    thread = threading.Thread(target=work)
    metrics.publish({"ib_sriov_vfs": [(("pf", "free"), 0.0), (("pf", "in_use"), 0.0)]})
    thread.start()
    try:
        for _ in range(20):
            text = ask(web, "/metrics")[2]
            found = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith("ib_sriov_vfs{")]
            assert len(found) == 2
            assert found[0] == found[1]
    finally:
        stop.set()
        thread.join()
