"""What the node agent receives: the lines of the plugin's log, and requests to its port."""

from __future__ import annotations

import http.client
import io
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from ib_sriov_cni.agent.call_log import COMMANDS, SECONDS_MAX, Call, CallLog, parse_line
from ib_sriov_cni.agent.metrics import Metrics, label
from ib_sriov_cni.agent.web import FAILED, STATUSES, Web
from tests.fuzz.budget import TALLY, descriptors, search
from tests.fuzz.calls import WATCH, assert_below
from tests.fuzz.corpus import damaged
from tests.fuzz.test_leases import put, things

# ---- the log

LINE = b"time=2026-01-01T00:00:00.000Z level=info cmd=ADD pod=train/w-0 container=c1 if=net1 msg=done code=0 ms=412.0\n"
REFUSAL = b'time=2026-01-01T00:00:00.000Z level=error cmd=DEL msg=refused code=101 error="a \\"b\\" code=7" ms=3.1\n'
LINES = (
    LINE,
    REFUSAL,
    b"cmd=ADD msg=done code=0 ms=nan\n",
    b"cmd=ADD msg=done code=0 ms=-inf\n",
    b"cmd=ADD msg=done code=-5 ms=1e400\n",
    b"cmd=ADD msg=done code=1_0 ms=1_0\n",
    b"cmd=ADD msg=done code=" + b"9" * 5000 + b" ms=1\n",
    b'cmd=ADD msg="internal fault" code=100 ms=1 cmd=DEL\n',
    b'cmd=ADD x="' + b"\\" * 3000 + b"\n",
    b'=" ' * 2000 + b"code=\n",
    b"x" * 70_000 + LINE,
)
lines = st.sampled_from(LINES) | damaged(st.sampled_from(LINES)) | st.binary(max_size=60)
acts = st.lists(
    st.tuples(st.just("append"), st.lists(lines, max_size=6).map(b"".join))
    | st.tuples(st.sampled_from(("rotate", "truncate", "remove", "restart", "read")), st.just(b""))
    | st.tuples(st.just("offset"), st.binary(max_size=30) | st.sampled_from((b"1 1 1 1", b"0 0 0 -5", b"9" * 190)))
    | st.tuples(st.just("replace"), things),
    min_size=1,
    max_size=8,
)


@search("log")
@given(acts)
def test_the_log(place: str, actions: list[tuple[str, Any]]) -> None:
    """Whatever happens to the file, only OSError is raised, and the lines returned can be counted."""
    folder = Path(place, "log-folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path, offset = folder / "log", folder / "offset"
    log = CallLog(str(path), str(offset))
    try:
        for act, content in actions:
            if act == "restart":
                log.close()
                log = CallLog(str(path), str(offset))
            else:
                change(path, offset, act, content)
            with WATCH.watching():
                read(log)
            assert_below(str(folder))
    finally:
        log.close()


def read(log: CallLog) -> None:
    TALLY.add()
    try:
        calls = log.read()
    except OSError:
        return
    assert_countable(calls)


def assert_countable(calls: list[Call]) -> None:
    for call in calls:
        assert call.command in COMMANDS
        assert 0 <= call.code < 1000, call
        assert call.seconds is None or 0 <= call.seconds <= SECONDS_MAX, call


def change(path: Path, offset: Path, act: str, content: Any) -> None:
    """Change the log and its offset file as the strategy has drawn; skip what cannot be done."""
    try:
        if act == "append":
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK), "wb") as file:
                file.write(content)
        elif act == "rotate":
            path.rename(f"{path}.1")
        elif act == "truncate":
            os.truncate(path, 0)
        elif act == "offset":
            offset.write_bytes(content)
        elif act in {"remove", "replace"}:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
            if act == "replace":
                put(path, content)
    except OSError:
        pass


@pytest.mark.parametrize("line", LINES)
def test_a_line_by_itself(line: bytes) -> None:
    assert_countable(parse_line(line.decode(errors="replace")))


# ---- requests to the agent's port

REQUESTS = (
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n\r\n",
    b"GET /healthz HTTP/1.0\r\n\r\n",
    b"HEAD /readyz?verbose HTTP/1.1\nHost: x\n\n",
    b"GET /metrics HTTP/1.1\r\nAccept: text/plain;version=x;escaping=allow-utf-8;q=z\r\n\r\n",
    b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
    b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
    b"GET http://x/metrics HTTP/1.1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\0\x01\0",
    b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * 300 + b"\r\n",
    b"\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n",
)
parts = st.sampled_from(REQUESTS) | damaged(st.sampled_from(REQUESTS)) | st.binary(max_size=80)
# The kernel hands over a connection once something was sent.
requests = st.lists(parts, min_size=1, max_size=3).filter(any)


class Server:
    """The agent's server, and the errors it refused requests with."""

    def __init__(self) -> None:
        self.refusals: list[tuple[str, str]] = []
        metrics = Metrics()
        metrics.call_failures.labels("ADD", label('7\\"\n\udcff\x1b')).inc()
        self.web = Web(
            "127.0.0.1:0",
            metrics.registry,
            healthy=str,
            ready=lambda: "the first pass is not over",
            on_refusal=lambda reason, _client, words: self.refusals.append((reason, words)),
            request_seconds=0.2,
            answer_seconds=2.0,
        )

    def ask(self, parts: list[bytes], *, ends: bool = True) -> bytes:
        """Send the parts and return the whole answer, b"" if the connection was closed without one."""
        with socket.create_connection(("127.0.0.1", self.web.port), timeout=30) as link:
            answer = b""
            try:
                for part in parts:
                    link.sendall(part)
                if ends:
                    link.shutdown(socket.SHUT_WR)
                while chunk := link.recv(1 << 16):
                    answer += chunk
            except OSError:
                pass  # the server closed the connection early
        return answer


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    before = descriptors()
    made = Server()
    yield made
    made.web.close()
    assert descriptors() == before, "the server left a descriptor open"


class Made:
    """Bytes in the shape of a socket, for http.client."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self.content)


@search("http", leaks=False)
@given(requests, st.integers(0, 20).map(bool))
def test_requests(server: Server, parts: list[bytes], ends: bool) -> None:
    """Each gets an HTTP answer or none, and the next probe gets its own."""
    TALLY.add(2)
    server.refusals.clear()
    answer = server.ask(parts, ends=ends)
    if answer:
        status, body = parse_answer(answer)
        assert status in STATUSES
        assert status != 500, answer
        if status == 200 and b"openmetrics" not in answer and body.startswith(b"# HELP"):
            list(text_string_to_metric_families(body.decode()))
    assert [words for reason, words in server.refusals if reason == FAILED] == []
    assert server.ask([b"GET /healthz HTTP/1.1\r\n\r\n"]).endswith(b"\r\n\r\nok\n")


def parse_answer(answer: bytes) -> tuple[int, bytes]:
    """Return status and body; the body is as long as announced, or absent (HEAD)."""
    made: Any = Made(answer)
    head, _, body = answer.partition(b"\r\n\r\n")
    response = http.client.HTTPResponse(made, method="GET" if body else "HEAD")
    response.begin()
    assert response.getheader("Connection") == "close"
    if body:
        assert response.read() == body
    assert all(32 <= letter < 127 or letter in b"\r\n" for letter in head)
    return response.status, body
