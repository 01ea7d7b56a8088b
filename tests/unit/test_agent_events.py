"""ib_sriov_cni.agent.kube: events as an API server gets them, over TLS, and what becomes of failures."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from ib_sriov_cni.agent.kube import MESSAGE_MAX, QUEUE_MAX, Events, PodRef

POD = PodRef(namespace="train", name="worker-0", uid="u-1")


class Api(HTTPServer):
    """An API server that takes events, or answers with a refusal."""

    def __init__(self, certificate: Path, key: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.got: list[tuple[str, str, Any]] = []
        self.status = 201

    def handle_error(self, *_what: object) -> None:
        """A client that does not trust us is the case, not a fault."""


class Handler(BaseHTTPRequestHandler):
    server: Api

    def do_POST(self) -> None:
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.got.append((self.path, self.headers["Authorization"], event))
        answer = b"{}" if self.server.status == 201 else b'{"message": "events is forbidden"}'
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_what: object) -> None:
        """Not on the test's output."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    files = folder / "ca.crt", folder / "key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=kubernetes", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run([*command, "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    return files


@pytest.fixture
def api(certificate: tuple[Path, Path]) -> Iterator[Api]:
    server = Api(*certificate)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def account(tmp_path: Path, certificate: tuple[Path, Path]) -> Path:
    folder = tmp_path / "account"
    folder.mkdir()
    (folder / "token").write_text("t0ken\n")
    (folder / "ca.crt").write_text(certificate[0].read_text())
    return folder


class Ledger:
    def __init__(self, api: Api, account: Path, **environ: str) -> None:
        self.told: list[str] = []
        self.counted: list[str] = []
        where = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(api.server_address[1])}
        environ = {**where, "NODE_NAME": "node-7", **environ}
        self.events = Events(environ, on_failure=self.told.append, on_result=self.counted.append, root=str(account))

    def counts(self, number: int) -> None:
        """Wait until so many have been posted or have failed."""
        deadline = time.monotonic() + 60
        while len(self.counted) < number:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def post(self, message: str = "m", *, warning: bool = False) -> None:
        self.events.post(POD, reason="InfiniBandReleased", message=message, warning=warning)

    def close(self) -> None:
        self.events.close(60)


def test_an_event(api: Api, account: Path) -> None:
    ledger = Ledger(api, account)
    ledger.post("VF 0000:3b:00.2 was released")
    ledger.close()
    ((path, authorization, event),) = api.got
    assert path == "/api/v1/namespaces/train/events"
    assert authorization == "Bearer t0ken"
    assert event["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": "train",
        "name": "worker-0",
        "uid": "u-1",
    }
    assert (event["type"], event["reason"]) == ("Normal", "InfiniBandReleased")
    assert event["message"] == "VF 0000:3b:00.2 was released"
    assert event["source"] == {"component": "ib-sriov-agent", "host": "node-7"}
    assert event["metadata"]["name"].startswith("worker-0.")
    assert (ledger.told, ledger.counted) == ([], ["posted"])


def test_events_of_one_moment_have_names_of_their_own(api: Api, account: Path) -> None:
    ledger = Ledger(api, account)
    for _ in range(20):
        ledger.post(warning=True)
    ledger.close()
    names = [event["metadata"]["name"] for _, _, event in api.got]
    assert len(set(names)) == 20
    assert {event["type"] for _, _, event in api.got} == {"Warning"}


def test_a_refusal_is_told_once_until_one_succeeds(api: Api, account: Path) -> None:
    ledger = Ledger(api, account)
    api.status = 403
    ledger.post()
    ledger.post()
    ledger.counts(2)
    api.status = 201
    ledger.post()
    ledger.counts(3)
    api.status = 500
    ledger.post()
    ledger.close()
    assert ledger.counted == ["failed", "failed", "posted", "failed"]
    assert ledger.told == [f"the API server answered {status}: events is forbidden" for status in (403, 500)]


def test_the_token_is_read_each_time(api: Api, account: Path) -> None:
    ledger = Ledger(api, account)
    ledger.post()
    ledger.counts(1)
    (account / "token").write_text("rotated")
    ledger.post()
    ledger.close()
    assert [authorization for _, authorization, _ in api.got] == ["Bearer t0ken", "Bearer rotated"]


def test_a_server_that_is_not_the_clusters_gets_no_token(api: Api, account: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=other", "-days", "2", "-keyout", str(tmp_path / "key"), "-out", str(other)]
    subprocess.run(command, check=True, capture_output=True)
    (account / "ca.crt").write_text(other.read_text())
    ledger = Ledger(api, account)
    ledger.post()
    ledger.close()
    assert api.got == []
    assert ledger.counted == ["failed"]
    assert "certificate verify failed" in ledger.told[0]


@pytest.mark.parametrize("missing", ["token", "host"])
def test_outside_a_cluster_there_are_none(api: Api, account: Path, missing: str) -> None:
    if missing == "token":
        (account / "token").unlink()
    ledger = Ledger(api, account, **({"KUBERNETES_SERVICE_HOST": ""} if missing == "host" else {}))
    assert not ledger.events.enabled
    ledger.post()
    ledger.close()
    assert (api.got, ledger.told, ledger.counted) == ([], [], [])


def test_a_server_that_is_away_keeps_nobody_waiting(api: Api, account: Path) -> None:
    """More events than may wait are dropped; none of them is waited for."""
    ledger = Ledger(api, account, KUBERNETES_SERVICE_HOST="127.0.0.1", KUBERNETES_SERVICE_PORT="1")
    for _ in range(QUEUE_MAX * 3):
        ledger.post()
    ledger.close()
    ledger.counts(QUEUE_MAX * 2 + 1)  # some had to be dropped, the others wait their turn to fail
    assert set(ledger.counted) == {"dropped", "failed"}
    assert len(ledger.told) == 1


def test_long_messages_and_names(api: Api, account: Path) -> None:
    ledger = Ledger(api, account)
    ledger.events.post(PodRef(namespace="n", name="p" * 253), reason="r", message="x" * 5000)
    ledger.close()
    ((_, _, event),) = api.got
    assert len(event["message"]) == MESSAGE_MAX
    assert len(event["metadata"]["name"]) <= 253
    assert "uid" not in event["involvedObject"]
