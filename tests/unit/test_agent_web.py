"""ib_sriov_cni.agent: HTTP, systemd socket activation, and the metrics as a client reads them."""

from __future__ import annotations

import http.client
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from ib_sriov_cni import __version__
from ib_sriov_cni.agent.metrics import Metrics, label
from ib_sriov_cni.agent.rare_warning import RareWarning
from ib_sriov_cni.agent.systemd import Systemd
from ib_sriov_cni.agent.web import Web, parse_listen, parse_request
from ib_sriov_cni.telemetry.log import Log
from ipam.protocol.bounds import HTTP_CLIENTS

STATE = {"healthy": "", "ready": ""}
REFUSALS: list[tuple[str, str, str]] = []
REQUEST_SECONDS = 0.3


def refuse(reason: str, client: str, words: str) -> None:
    REFUSALS.append((reason, client, words))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def web(metrics: Metrics) -> Iterator[Web]:
    yield from serve(metrics)


@pytest.fixture
def hasty(metrics: Metrics) -> Iterator[Web]:
    """A server with short timeouts."""
    yield from serve(metrics, REQUEST_SECONDS)


def serve(metrics: Metrics, seconds: float = 60.0) -> Iterator[Web]:
    STATE.update(healthy="", ready="no pass yet")
    REFUSALS.clear()
    web = Web(
        "127.0.0.1:0",
        metrics.registry,
        healthy=lambda: STATE["healthy"],
        ready=lambda: STATE["ready"],
        on_refusal=refuse,
        request_seconds=seconds,
        answer_seconds=seconds,
    )
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


def exchange(web: Web, *parts: bytes) -> bytes:
    """Send these parts, and return all that comes back."""
    with socket.create_connection(("127.0.0.1", web.port), timeout=30) as link:
        for part in parts:
            link.sendall(part)
        return read_to_end(link)


def read_to_end(link: socket.socket) -> bytes:
    answer = b""
    while data := link.recv(65536):
        answer += data
    return answer


def reasons() -> list[str]:
    return [reason for reason, _, _ in REFUSALS]


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
    families = parse_openmetrics(text)  # type: ignore[no-untyped-call]  # prometheus_client has no annotations here
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


def test_a_request_in_pieces(web: Web) -> None:
    pieces = [bytes((octet,)) for octet in b"\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"]
    assert exchange(web, *pieces).endswith(b"\r\n\r\nok\n")
    assert exchange(web, b"GET /healthz HTTP/1.0\n\n").endswith(b"\r\n\r\nok\n")
    assert REFUSALS == []


def test_one_answer_per_connection(web: Web) -> None:
    """Data after the first request is dropped, and the client still gets its answer."""
    answer = exchange(web, b"GET /healthz HTTP/1.1\r\n\r\n" * 20)
    assert answer.count(b"HTTP/1.1 200 OK") == 1
    assert b"\r\nConnection: close\r\n" in answer


def test_a_client_that_has_sent_all_gets_its_answer(web: Web) -> None:
    for path in (b"/healthz", b"/metrics"):
        with socket.create_connection(("127.0.0.1", web.port), timeout=30) as link:
            link.sendall(b"GET " + path + b" HTTP/1.1\r\n\r\n")
            link.shutdown(socket.SHUT_WR)
            assert read_to_end(link).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    "request_",
    [
        b"\0\1\2\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\n\n",  # the start of a TLS handshake
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /healthz\r\n\r\n",  # HTTP/0.9
        b"GET /healthz HTTP/9.9\r\n\r\n",
        b"GET  /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz\x1b[31m HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n: nameless\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nA: b\rInjected: c\r\n\r\n",
        b"G=T /healthz HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_request(web: Web, request_: bytes) -> None:
    answer = exchange(web, request_)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert reasons() == ["malformed"]
    assert REFUSALS[0][1] == "127.0.0.1"
    assert ask(web, "/healthz")[0] == 200


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nCookie: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
        b"\r\n" * 50_000,
    ],
)
def test_what_is_too_large(web: Web, request_: bytes) -> None:
    answer = exchange(web, request_)
    assert answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert reasons() == ["large"]


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text; version=one",
        "application/openmetrics-text; version=" + "9" * 5000,
        "text/plain; version=1.x",
        "text/plain; version=.",
        "text/plain; version=\xb2",
        ";;;===,,,",
        "*/*;q=\xff",
        "application/openmetrics-text;version=1.0.0;escaping=none",
        "application/openmetrics-text;" + "a=b;" * 1000,
    ],
)
def test_odd_accept_headers(web: Web, accept: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever the header says, the metrics are served, and nothing goes to stdout or stderr."""
    status, _, text = ask(web, "/metrics", Accept=accept.encode("latin-1"))  # type: ignore[arg-type]  # http.client takes bytes
    assert status == 200
    assert "ib_sriov_agent_info" in text
    assert set(reasons()) <= {"malformed"}
    assert capfd.readouterr() == ("", "")


def test_the_whole_request_has_a_deadline(hasty: Web) -> None:
    """A client that sends a byte now and then gets 408 and is closed."""
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", hasty.port), timeout=30) as link:
        while time.monotonic() < begun + 30 and not REFUSALS:
            link.send(b"x")
            time.sleep(REQUEST_SECONDS / 10)
        assert link.recv(1000).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert reasons() == ["slow"]


def test_a_client_that_does_not_read_is_closed(hasty: Web, metrics: Metrics) -> None:
    rows = [(("x" * 1000, str(number)), 1.0) for number in range(20_000)]  # more than both socket buffers hold
    metrics.publish({"ib_sriov_vfs": rows})
    with socket.create_connection(("127.0.0.1", hasty.port), timeout=30) as link:
        link.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        deadline = time.monotonic() + 60
        while not REFUSALS and time.monotonic() < deadline:
            time.sleep(0.01)
    assert reasons() == ["slow"]
    assert "not taken" in REFUSALS[0][2]


def test_the_slowest_client_makes_room(web: Web) -> None:
    links = [socket.create_connection(("127.0.0.1", web.port), timeout=30) for _ in range(HTTP_CLIENTS)]
    try:
        for link in links:
            link.send(b"G")
        assert ask(web, "/healthz")[0] == 200
        assert links[0].recv(1) == b""
        assert reasons()[0] == "crowded"
    finally:
        for link in links:
            link.close()


def test_a_scrape_that_fails_is_said(web: Web, metrics: Metrics) -> None:
    metrics.publish({"ib_sriov_vfs": [(("one label too few",), "no number")]})  # type: ignore[list-item]  # a defect
    assert ask(web, "/metrics")[0] == 500
    assert reasons() == ["failed"]
    metrics.publish({})
    assert ask(web, "/metrics")[0] == 200


def test_labels_are_text(web: Web, metrics: Metrics) -> None:
    """File and interface names are bytes: one that is not UTF-8 must not break the page."""
    metrics.publish({"ib_sriov_attachments": [(("ib\udcff\n", "live"), 1)]})
    metrics.releases.labels(label("ib\ud800")).inc()
    status, _, text = ask(web, "/metrics")
    assert status == 200
    assert 'ib_sriov_attachments{network="ib\\\\udcff\\n",state="live"} 1.0' in text
    assert 'ib_sriov_agent_releases_total{network="ib\\\\ud800"} 1.0' in text


def test_scrapes_at_once_are_rendered_once(metrics: Metrics) -> None:
    """Concurrent scrapes do not keep a probe waiting either."""
    begun, go_on, count = threading.Event(), threading.Event(), []

    def before_scrape() -> None:
        count.append(1)
        begun.set()
        go_on.wait(30)

    web = Web("127.0.0.1:0", metrics.registry, healthy=str, ready=str, before_scrape=before_scrape)
    threads = [threading.Thread(target=ask, args=(web, "/metrics")) for _ in range(20)]
    try:
        threads[0].start()
        assert begun.wait(30)
        for thread in threads[1:]:
            thread.start()
        assert ask(web, "/healthz")[0] == 200
    finally:
        go_on.set()
        for thread in threads:
            thread.join(30)
        web.close()
    assert len(count) < 20


def test_a_defect_before_a_scrape_costs_no_metrics(metrics: Metrics) -> None:
    REFUSALS.clear()

    def before_scrape() -> None:
        raise TypeError("odd")

    web = Web("127.0.0.1:0", metrics.registry, healthy=str, ready=str, before_scrape=before_scrape, on_refusal=refuse)
    try:
        assert ask(web, "/metrics")[0] == 200
    finally:
        web.close()
    assert REFUSALS == [("failed", "", "TypeError: odd")]


@given(head=st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode()))
def test_any_bytes_are_a_request_or_none(head: bytes) -> None:
    for octets in (head, b"GET / HTTP/1.1\r\n" + head):
        try:
            request = parse_request(octets)
        except ValueError:
            continue
        assert "?" not in request.path
        assert request.accept.isprintable() or "\t" in request.accept or not request.accept.isascii()


def test_a_warning_that_others_can_cause_is_rare(tmp_path: Path) -> None:
    now = [0.0]
    warning = RareWarning(Log(path=str(tmp_path / "log")), "refused", seconds=60, clock=lambda: now[0])
    for number in range(1000):
        warning.log(number=number)
    now[0] = 60
    warning.log(number="last")
    first, last = (tmp_path / "log").read_text().splitlines()
    assert "msg=refused number=0" in first
    assert "more" not in first
    assert 'number=last more="999 since the last such line"' in last


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
    """Free and used change together: no scrape may mix values from two passes."""
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
