"""ib_sriov_cni.agent.cri: one CRI call, against a socket that answers frame by frame."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ib_sriov_cni.agent.cri import METHOD, list_pods
from ipam.protocol.bounds import RUNTIME_ANSWER_BYTES, RUNTIME_WORDS_BYTES, SANDBOXES

SANDBOX = "4f5e6d" * 10
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113, 3.4
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK, END_STREAM, END_HEADERS, PADDED = 1, 1, 4, 8
FIRST_WINDOW = 65535


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def headers(flags: int = 0, /, **fields: str) -> bytes:
    """Return a HEADERS frame for stream 1; `status` is the pseudo-header, `_` in names stands for a hyphen."""
    texts = [(":status" if name == "status" else name.replace("_", "-"), text) for name, text in fields.items()]
    block = b""
    for name, text in texts:  # literals without indexing: RFC 7541, 6.2.2
        length = struct.pack(">B", len(text)) if len(text) < 127 else b"\x7f" + varint(len(text) - 127)
        block += b"\0" + bytes((len(name),)) + name.encode() + length + text.encode()
    return frame(HEADERS, END_HEADERS | flags, 1, block)


def varint(number: int) -> bytes:
    low = []
    while number > 127:
        low.append(number & 127 | 128)
        number >>= 7
    return bytes((*low, number))


def field(number: int, content: bytes) -> bytes:
    return bytes((number << 3 | 2, len(content))) + content


def prefixed(body: bytes) -> bytes:
    return b"\0" + struct.pack(">I", len(body)) + body


def message(*ids: str) -> bytes:
    """Return a ListPodSandboxResponse whose sandboxes also have fields that the client does not use."""
    items = [
        field(1, field(1, name.encode()) + field(2, b"\x0a\x01x") + b"\x18\x01\x20\xac\x02\x29" + bytes(8))
        for name in ids
    ]
    return prefixed(b"".join(items))


def data(body: bytes, flags: int = 0) -> bytes:
    return frame(DATA, flags, 1, body)


OPENING = frame(SETTINGS, 0, 0, b"\0\3\0\0\0\x64") + frame(SETTINGS, ACK, 0)
ANSWER = headers(status="200", content_type="application/grpc")
TRAILERS = headers(END_STREAM, grpc_status="0", grpc_message="")


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


def split(stream: bytes) -> tuple[list[Frame], bytes]:
    """Return the complete frames at the start of the stream, and the remaining bytes."""
    found = []
    while len(stream) >= 9 and len(stream) >= 9 + (size := int.from_bytes(stream[:3], "big")):
        found.append(Frame(stream[3], stream[4], int.from_bytes(stream[5:9], "big"), stream[9 : 9 + size]))
        stream = stream[9 + size :]
    return found, stream


class Runtime:
    """The runtime's end of one connection."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.rest = b""
        self.windows = {0: FIRST_WINDOW, 1: FIRST_WINDOW}

    def receive(self) -> list[Frame]:
        """Return complete frames from the client, and add its WINDOW_UPDATEs to the windows."""
        chunk = self.link.recv(65536)
        assert chunk, "the client closed the connection"
        found, self.rest = split(self.rest + chunk)
        for got in found:
            if got.kind == WINDOW_UPDATE:
                self.windows[got.stream] += int.from_bytes(got.payload, "big")
        return found

    def read_request(self) -> list[Frame]:
        while len(self.rest) < len(PREFACE):
            self.rest += self.link.recv(len(PREFACE) - len(self.rest))
        assert self.rest == PREFACE
        self.rest = b""
        found: list[Frame] = []
        while not (found and found[-1].kind == DATA and found[-1].flags & END_STREAM):
            found += self.receive()
        return found

    def send(self, answer: bytes, pause: float) -> None:
        """Send as a runtime does: no more DATA than the client's windows allow."""
        frames, rest = split(answer)
        for each in frames:
            while each.kind == DATA and len(each.payload) > min(self.windows.values()):
                self.receive()
            if each.kind == DATA:
                self.windows = {stream: size - len(each.payload) for stream, size in self.windows.items()}
            self.send_raw(frame(*each), pause)
        self.send_raw(rest, pause)

    def send_raw(self, octets: bytes, pause: float) -> None:
        if not pause:
            self.link.sendall(octets)
            return
        for octet in octets:
            self.link.sendall(bytes((octet,)))
            time.sleep(pause)


class Serve(Protocol):
    def __call__(self, answer: bytes, pause: float = 0.0) -> str: ...


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Return a function that opens a socket, answers one request on it with `answer`, and returns its path.

    `pause` is the time between two bytes, in seconds.
    """
    threads: list[threading.Thread] = []
    requests: list[list[Frame]] = []

    def make(answer: bytes, pause: float = 0.0) -> str:
        path = str(tmp_path / f"cri{len(threads)}.sock")
        ear = socket.socket(socket.AF_UNIX)
        ear.bind(path)
        ear.listen(1)

        def work() -> None:
            with ear, ear.accept()[0] as link:
                link.settimeout(60)
                runtime = Runtime(link)
                requests.append(runtime.read_request())
                try:
                    runtime.send(answer, pause)
                    link.shutdown(socket.SHUT_WR)
                    while link.recv(65536):
                        pass
                except ConnectionError:
                    pass  # a client that gives up does not read the rest

        threads.append(threading.Thread(target=work))
        threads[-1].start()
        return path

    yield make
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert len(requests) == len(threads)
    for request in requests:
        (block,) = [each.payload for each in request if each.kind == HEADERS]
        fields = dict(hpack.Decoder().decode(block, raw=True))
        assert (fields[b":method"], fields[b":path"], fields[b"te"]) == (b"POST", METHOD.encode(), b"trailers")
        assert fields[b"content-type"] == b"application/grpc"
        assert request[-1].payload == bytes(5)


def test_pods(serve: Serve) -> None:
    other = "a" * 64
    assert list_pods(serve(OPENING + ANSWER + data(message(SANDBOX, other)) + TRAILERS)) == {SANDBOX, other}


def test_no_pods(serve: Serve) -> None:
    assert list_pods(serve(OPENING + ANSWER + data(message()) + TRAILERS)) == frozenset()


def test_an_answer_in_pieces_with_pings_and_padding(serve: Serve) -> None:
    """The answer exceeds the initial 64 KiB window, so window updates are needed too."""
    text = message(*[f"{number:064x}" for number in range(2000)])
    assert len(text) > 2 * FIRST_WINDOW
    pieces = [text[start : start + 1000] for start in range(0, len(text), 1000)]
    frames = [frame(DATA, PADDED, 1, b"\3" + piece + b"\0\0\0") + frame(PING, 0, 0, b"12345678") for piece in pieces]
    found = list_pods(serve(OPENING + ANSWER + b"".join(frames) + TRAILERS), seconds=30)
    assert len(found) == 2000


def test_what_follows_a_complete_answer_does_not_matter(serve: Serve) -> None:
    answer = OPENING + ANSWER + data(message(SANDBOX)) + TRAILERS + frame(GOAWAY, 0, 0, bytes(8))
    assert list_pods(serve(answer)) == {SANDBOX}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            headers(END_STREAM, status="200", grpc_status="12", grpc_message="unknown service"),
            "the runtime refused: UNIMPLEMENTED: unknown service$",
        ),
        (
            ANSWER + headers(END_STREAM, grpc_status="14", grpc_message="100%25 b%C3%BCsy"),
            "the runtime refused: UNAVAILABLE: 100% büsy$",
        ),
        (ANSWER + data(message(SANDBOX)) + headers(END_STREAM, grpc_status="13"), "the runtime refused: INTERNAL$"),
        (ANSWER + headers(END_STREAM, grpc_status="99"), "the runtime refused: grpc-status 99$"),
        (headers(END_STREAM, status="404"), "HTTP status 404$"),
        (headers(END_STREAM, status="503", grpc_status="0"), "HTTP status 503$"),
        (headers(END_STREAM, status="200"), "ended without a grpc-status$"),
        (ANSWER + data(message(SANDBOX), END_STREAM), "ended without a grpc-status$"),
        (frame(RST_STREAM, 0, 1, struct.pack(">I", 2)), "the call was reset: INTERNAL_ERROR$"),
        (ANSWER + data(message(SANDBOX)) + frame(RST_STREAM, 0, 1, struct.pack(">I", 99)), "the call was reset: 99$"),
        (frame(GOAWAY, 0, 0, struct.pack(">II", 0, 11) + b"calm"), "ended the connection: ENHANCE_YOUR_CALM$"),
        (ANSWER + data(message(SANDBOX)) + frame(GOAWAY, 0, 0, bytes(8)), "ended the connection: NO_ERROR$"),
        (b"", "closed the connection$"),
        (ANSWER + data(message(SANDBOX)), "closed the connection$"),
    ],
)
def test_a_refusal_says_why(serve: Serve, answer: bytes, words: str) -> None:
    """It must never become an empty list: that would mean that no pod is alive."""
    path = serve(OPENING + answer)
    with pytest.raises(OSError, match=f"^list pods of the runtime at {path}: .*{words}"):
        list_pods(path, seconds=30)


def test_a_refusal_without_end_is_cut(serve: Serve) -> None:
    path = serve(OPENING + headers(END_STREAM, status="200", grpc_status="2", grpc_message="x" * 15000))
    with pytest.raises(OSError, match="UNKNOWN: x") as caught:
        list_pods(path, seconds=30)
    assert str(caught.value).count("x") <= RUNTIME_WORDS_BYTES + len(path)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "closed the connection"),  # looks like the start of a long frame
        (bytes(range(256)) * 2, "HTTP/2 failed"),
        (OPENING + frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff"), "HTTP/2 failed"),
        (OPENING + data(message(SANDBOX)), "HTTP/2 failed|was reset"),
        (OPENING + frame(DATA, 0, 3, b"x"), "HTTP/2 failed"),
    ],
)
def test_what_is_no_http2(serve: Serve, answer: bytes, words: str) -> None:
    with pytest.raises(OSError, match=words):
        list_pods(serve(answer), seconds=30)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not one uncompressed message"),
        (message(SANDBOX)[:-1], "not one uncompressed message"),
        (message(SANDBOX) + b"\0", "not one uncompressed message"),
        (message(SANDBOX) * 2, "not one uncompressed message"),
        (b"\1" + message()[1:], "not one uncompressed message"),
        (prefixed(field(1, b"\x0a\x7f")), "cannot be decoded: it is cut off"),
        (prefixed(b"\x0a\xff"), "cannot be decoded: it is cut off"),
        (message(SANDBOX)[:1] + prefixed(message(SANDBOX)[5:] + b"\x80")[1:], "cannot be decoded: it is cut off"),
        (prefixed(field(1, b"\x09\0\0")), "cannot be decoded: it is cut off"),
        (prefixed(b"\x08" + b"\xff" * 11), "cannot be decoded: a number is longer"),
        (prefixed(b"\x0b\x0c"), "cannot be decoded: unknown wire type 3"),
        (prefixed(field(1, field(1, b"\xff"))), "cannot be decoded: .*codec"),
        (prefixed(field(1, field(2, b"x"))), "a sandbox without an ID"),
    ],
)
def test_a_garbled_answer(serve: Serve, body: bytes, words: str) -> None:
    """An incomplete list is an error too."""
    with pytest.raises(OSError, match=words):
        list_pods(serve(OPENING + ANSWER + data(body) + TRAILERS), seconds=30)


def test_an_answer_that_is_too_long(serve: Serve) -> None:
    answer = OPENING + ANSWER + data(bytes(16384)) * (RUNTIME_ANSWER_BYTES // 16384 + 1) + TRAILERS
    with pytest.raises(OSError, match=f"longer than {RUNTIME_ANSWER_BYTES} bytes"):
        list_pods(serve(answer), seconds=60)


def test_more_sandboxes_than_a_node_has(serve: Serve) -> None:
    """Each takes a few bytes to send, but a hundred times as many in memory."""
    body = prefixed(field(1, field(1, b"a")) * (SANDBOXES + 1))
    pieces = [data(body[start : start + 16384]) for start in range(0, len(body), 16384)]
    with pytest.raises(OSError, match=f"more than {SANDBOXES} sandboxes"):
        list_pods(serve(OPENING + ANSWER + b"".join(pieces) + TRAILERS), seconds=60)


@given(
    frames=st.lists(
        st.builds(
            frame,
            st.integers(0, 12),
            st.integers(0, 255),
            st.sampled_from([0, 1, 2, 3, 0x7FFFFFFF]),
            st.binary(max_size=60),
        ),
        max_size=6,
    ),
    tail=st.binary(max_size=30),
)
@settings(max_examples=300)
def test_any_frames_end_in_an_error_or_a_whole_list(frames: list[bytes], tail: bytes) -> None:
    """Whatever frames h2 gets, the only exception is OSError."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(OPENING + b"".join(frames) + tail)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(OSError, match=r"^list pods of the runtime at x: "):
            list_pods("x", connect=lambda _path, _seconds: ours)


def test_an_answer_that_trickles_past_the_deadline(serve: Serve) -> None:
    """Each byte arrives in time, but the answer as a whole does not."""
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no complete answer within 0\.5 s"):
        list_pods(serve(OPENING + ANSWER + data(message(SANDBOX)) * 100, pause=0.02), seconds=0.5)
    assert time.monotonic() - begun < 20


def test_a_silent_runtime(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as ear:
        ear.bind(path)
        ear.listen(1)
        with pytest.raises(TimeoutError, match=path):
            list_pods(path, seconds=0.2)


def test_no_runtime(tmp_path: Path) -> None:
    path = str(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=path):
        list_pods(path)
