"""ib_sriov_cni.agent.kube: events as an API server receives them over TLS, and how failures are handled."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ib_sriov_cni.agent.kube import TRIES, Events, PodRef
from ipam.protocol.bounds import API_ANSWER_BYTES, EVENT_CHARACTERS, EVENTS, LOG_VALUE_BYTES
from tests.unit.api_double import Api, client, make_certificate

SECONDS, SHORT, PAUSE = 30.0, 1.0, 0.01
POD = PodRef(namespace="train", name="worker-0", uid="u-1")


class Garbler:
    """Answers each connection with the next of `answers`, repeating the last. `None` stands for a valid answer."""

    def __init__(self, certificate: tuple[Path, Path], *answers: Answer | None, is_tls: bool = True) -> None:
        self.answers, self.requests, self.is_tls = list(answers), [b""], is_tls
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*certificate)
        self.ear = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.ear.getsockname()[1])
        threading.Thread(target=self.work, daemon=True).start()

    def work(self) -> None:
        while True:
            try:
                raw = self.ear.accept()[0]
            except OSError:
                return  # closed
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            threading.Thread(target=self.serve, args=(raw, answer), daemon=True).start()

    def serve(self, raw: socket.socket, answer: Answer | None) -> None:
        try:
            with self.context.wrap_socket(raw, server_side=True) if self.is_tls else raw as link:
                link.settimeout(30)
                request = b""
                while self.is_tls and b'"count"' not in request:  # the end of an event as the agent writes it
                    request += link.recv(65536)
                self.requests.append(request)
                (answer or good)(link)
        except OSError:
            pass  # the client has given up

    def close(self) -> None:
        self.ear.close()


Answer = Callable[[socket.socket], None]


def says(answer: bytes) -> Answer:
    return lambda link: link.sendall(answer)


def trickles(answer: bytes) -> Answer:
    def act(link: socket.socket) -> None:
        link.sendall(answer)
        for _ in range(600):
            link.sendall(b"x")
            time.sleep(SHORT / 10)

    return act


def forever(part: bytes) -> Answer:
    def act(link: socket.socket) -> None:
        while True:
            link.sendall(part)

    return act


def with_body(body: bytes, status: str = "201 Created") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


good = says(with_body(b"{}"))
CHUNKED = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n"
WITHOUT_END = ("continue for ever", "a head that trickles", "a body that trickles")
GARBLED: dict[str, Answer] = {
    "nothing": says(b""),
    "no HTTP": says(b"\x15\x03\x03\0\x02\x02\x28" * 100),
    "a status that is no number": says(b"HTTP/1.1 two hundred\r\n\r\n"),
    "half a head": says(b"HTTP/1.1 201 Created\r\nContent-Len"),
    "a head without end": forever(b"X-Header: " + b"x" * 1000 + b"\r\n"),
    "a line without end": forever(b"x" * 1000),
    "continue for ever": forever(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "half a body": says(b"HTTP/1.1 201 Created\r\nContent-Length: 1000\r\n\r\n{"),
    "no JSON": says(with_body(b"<html>Bad gateway</html>")),
    "JSON that is no object": says(with_body(b"[1, 2]")),
    "deep JSON": says(with_body(b"[" * (API_ANSWER_BYTES - 1))),
    "no UTF-8": says(with_body(b"\xff\xfe{}")),
    "a huge body": says(with_body(b'"' + b"x" * 50_000_000 + b'"')),
    "a body without end": forever(b"HTTP/1.1 201 Created\r\n\r\n" + b"x" * 100_000),
    "garbage for chunks": says(CHUNKED + b"zzz\r\n{}\r\n"),
    "a negative chunk": says(CHUNKED + b"-5\r\n{}\r\n0\r\n\r\n"),
    "a chunk that is cut off": says(CHUNKED + b"ffffff\r\n{}"),
    "a length that is no number": says(b"HTTP/1.1 201 Created\r\nContent-Length: many\r\n\r\n"),
    "wrong types": says(with_body(b'{"message": [1]}', "503 Service Unavailable")),
    "a huge refusal": says(with_body(b'{"message": "' + b"x" * 60_000 + b'"}', "500 " + "y" * 60_000)),
    "a head that trickles": trickles(b"HTTP/1.1 "),
    "a body that trickles": trickles(b"HTTP/1.1 201 Created\r\nContent-Length: 1000\r\n\r\n"),
}


@pytest.mark.parametrize("kind", list(GARBLED))
def test_a_garbled_answer_is_counted_and_tried_again(certificate: tuple[Path, Path], account: Path, kind: str) -> None:
    server = Garbler(certificate, GARBLED[kind], None)
    ledger = Ledger(server, account, SHORT if kind in WITHOUT_END else SECONDS)
    try:
        ledger.post()
        ledger.counts(2)
        assert ledger.counted == ["retried", "posted"]
        assert len(ledger.told) == 1
        assert 0 < len(ledger.told[0].encode()) < LOG_VALUE_BYTES + 100
        ledger.post()
        ledger.counts(3)
    finally:
        ledger.close()
        server.close()
    assert ledger.counted[2:] == ["posted"]


@pytest.mark.parametrize("answer", [says(b""), says(b"SSH-2.0-x\r\n"), trickles(b"\x16\x03\x03\x40\0")])
def test_a_tls_failure_ends_and_is_tried_again(certificate: tuple[Path, Path], account: Path, answer: Answer) -> None:
    server = Garbler(certificate, answer, is_tls=False)
    ledger = Ledger(server, account, SHORT)
    try:
        ledger.post()
        ledger.counts(TRIES)
        assert ledger.counted == [*["retried"] * (TRIES - 1), "failed"]
    finally:
        ledger.close()
        server.close()


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "303 See Other", "307 Temporary Redirect"])
def test_a_redirection_is_not_followed(certificate: tuple[Path, Path], account: Path, api: Api, status: str) -> None:
    """Following it would send the token to another server."""
    where = f"HTTP/1.1 {status}\r\nLocation: https://127.0.0.1:{api.port}/\r\nContent-Length: 0\r\n\r\n"
    server = Garbler(certificate, says(where.encode()))
    ledger = Ledger(server, account)
    try:
        ledger.post()
        ledger.counts(1)
    finally:
        ledger.close()
        server.close()
    assert api.got == []
    assert ledger.counted == ["failed"]
    assert ledger.told == [f"the API server answered {status[:3]}: {status[4:]}"]


def test_an_event_that_was_posted_in_vain_is_not_posted_twice(certificate: tuple[Path, Path], account: Path) -> None:
    """The answer to the first try was lost; the second try gets 409, as the event exists already."""
    server = Garbler(certificate, says(b""), says(with_body(b'{"message": "exists"}', "409 Conflict")))
    ledger = Ledger(server, account)
    try:
        ledger.post()
        ledger.counts(2)
        ledger.post()  # here the first try gets 409: a different event has this name
        ledger.counts(3)
    finally:
        ledger.close()
        server.close()
    assert ledger.counted == ["retried", "posted", "failed"]


def test_pauses_grow_until_one_succeeds(certificate: tuple[Path, Path], account: Path) -> None:
    server = Garbler(certificate, *[says(b"")] * (TRIES + 2), None)
    ledger = Ledger(server, account)
    begun = time.monotonic()
    try:
        ledger.post()
        ledger.post()
        ledger.counts(TRIES + 3)
    finally:
        ledger.close()
        server.close()
    assert ledger.counted == [*["retried"] * (TRIES - 1), "failed", "retried", "retried", "posted"]
    assert time.monotonic() - begun > PAUSE * (2 ** (TRIES + 1) - 1)


@pytest.mark.parametrize("namespace", ["..", "a/b", "x\r\nHost: y", "\udcff", "", "n" * 100_000, "\0"])
def test_a_namespace_that_is_none(api: Api, account: Path, namespace: str) -> None:
    """The namespace comes from a record: it must not lead to another API path or end the thread."""
    ledger = Ledger(api, account)
    ledger.events.post(PodRef(namespace=namespace, name="p\ud800\0"), reason="r", message="\x1b[31m\udcff\n")
    ledger.post()
    ledger.counts(2)
    ledger.close()
    assert ledger.counted[-1] == "posted"
    for path, _, event in api.got:
        assert path.count("/") == 5
        assert event["message"] in {"m", "\ufffd[31m\ufffd\ufffd"}


def test_a_defect_does_not_end_the_thread(api: Api, account: Path) -> None:
    ledger = Ledger(api, account)
    ledger.events._queue.put({"no": "metadata"})  # noqa: SLF001  # as a bug in the agent might
    ledger.post()
    ledger.counts(2)
    ledger.close()
    assert ledger.counted == ["failed", "posted"]


class Ledger:
    def __init__(self, api: Api | Garbler, account: Path, seconds: float = SECONDS, **environ: str) -> None:
        self.told: list[str] = []
        self.counted: list[str] = []
        self.events = Events(
            client(api.port, account, seconds, **environ),
            on_failure=self.told.append,
            on_result=self.counted.append,
            first_pause=PAUSE,
        )

    def counts(self, number: int) -> None:
        """Wait until `number` results have been counted."""
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
    ledger.counts(3 + TRIES)
    ledger.close()
    assert ledger.counted == ["failed", "failed", "posted", *["retried"] * (TRIES - 1), "failed"]
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
    (account / "ca.crt").write_text(make_certificate(tmp_path, "other")[0].read_text())
    ledger = Ledger(api, account)
    ledger.post()
    ledger.close()
    assert api.got == []
    assert ledger.counted[-1] == "failed"
    assert "certificate verify failed" in ledger.told[0]


@pytest.mark.parametrize("missing", ["token", "host"])
def test_outside_a_cluster_there_are_none(api: Api, account: Path, missing: str) -> None:
    if missing == "token":
        (account / "token").unlink()
    ledger = Ledger(api, account, KUBERNETES_SERVICE_HOST="" if missing == "host" else "127.0.0.1")
    assert not ledger.events.enabled
    ledger.post()
    ledger.close()
    assert (api.got, ledger.told, ledger.counted) == ([], [], [])


def test_a_server_that_is_away_keeps_nobody_waiting(api: Api, account: Path) -> None:
    """Events beyond the queue's limit are dropped, and posting never blocks."""
    ledger = Ledger(api, account, KUBERNETES_SERVICE_HOST="127.0.0.1", KUBERNETES_SERVICE_PORT="1")
    for _ in range(EVENTS * 3):
        ledger.post()
    ledger.close()
    ledger.counts(EVENTS * 2 + 1)  # some were dropped at once, the others fail one after another
    assert set(ledger.counted) - {"retried"} == {"dropped", "failed"}
    assert len(ledger.told) == 1


def test_long_messages_and_names(api: Api, account: Path) -> None:
    ledger = Ledger(api, account)
    ledger.events.post(PodRef(namespace="n", name="p" * 253), reason="r", message="x" * 5000)
    ledger.close()
    ((_, _, event),) = api.got
    assert len(event["message"]) == EVENT_CHARACTERS
    assert len(event["metadata"]["name"]) <= 253
    assert "uid" not in event["involvedObject"]
