"""ib_sriov_cni.agent.cri: one call of the CRI, against a socket that answers frame by frame."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ib_sriov_cni.agent.cri import METHOD, PREFACE, list_pods

SANDBOX = "4f5e6d" * 10
Serve = Callable[[socket.socket], None]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def field(number: int, content: bytes) -> bytes:
    return bytes((number << 3 | 2, len(content))) + content


def message(*ids: str) -> bytes:
    """A ListPodSandboxResponse, with fields of a sandbox that nobody asked for."""
    items = [field(1, field(1, name.encode()) + field(2, b"\x0a\x01x") + b"\x18\x01\x20\xac\x02") for name in ids]
    body = b"".join(items)
    return b"\0" + struct.pack(">I", len(body)) + body


OPENING = frame(4, 0, 0, b"\0\3\0\0\0\x64") + frame(4, 1, 0)
ANSWER = frame(1, 4, 1, b"\x88")  # :status 200
TRAILERS = frame(1, 5, 1, b"\x88")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[bytes], str]]:
    """A function that makes a socket which answers a request with those bytes; gives its path."""
    threads: list[threading.Thread] = []

    def make(answer: bytes) -> str:
        path = str(tmp_path / f"cri{len(threads)}.sock")
        ear = socket.socket(socket.AF_UNIX)
        ear.bind(path)
        ear.listen(1)

        def work() -> None:
            with ear, ear.accept()[0] as link:
                link.settimeout(60)
                got = b""
                while METHOD.encode() not in got or not got.endswith(bytes(5)):
                    got += link.recv(65536)
                assert got.startswith(PREFACE)
                link.sendall(answer)
                link.shutdown(socket.SHUT_WR)
                while link.recv(65536):
                    pass

        threads.append(threading.Thread(target=work))
        threads[-1].start()
        return path

    yield make
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_pods(serve: Callable[[bytes], str]) -> None:
    other = "a" * 64
    answer = OPENING + ANSWER + frame(0, 0, 1, message(SANDBOX, other)) + TRAILERS
    assert list_pods(serve(answer)) == {SANDBOX, other}


def test_no_pods(serve: Callable[[bytes], str]) -> None:
    assert list_pods(serve(OPENING + ANSWER + frame(0, 0, 1, message()) + TRAILERS)) == frozenset()


def test_an_answer_in_pieces_with_pings_and_padding(serve: Callable[[bytes], str]) -> None:
    text = message(*[f"{number:064x}" for number in range(2000)])
    pieces = [text[start : start + 1000] for start in range(0, len(text), 1000)]
    frames = [frame(0, 8, 1, b"\3" + piece + b"\0\0\0") + frame(6, 0, 0, b"12345678") for piece in pieces]
    found = list_pods(serve(OPENING + ANSWER + b"".join(frames) + frame(8, 0, 0, bytes(4)) + TRAILERS))
    assert len(found) == 2000


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (OPENING + TRAILERS, "refused"),
        (OPENING + ANSWER + frame(0, 1, 1, b""), "refused"),
        (OPENING + ANSWER + frame(0, 1, 1, message(SANDBOX)[:-1]), "refused"),
        (OPENING + ANSWER + frame(0, 1, 1, b"\1" + message()[1:]), "refused"),
        (OPENING + frame(3, 0, 1, bytes(4)), "ended the call"),
        (OPENING + frame(7, 0, 0, bytes(8)), "ended the call"),
        (OPENING, "closed the connection"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "closed the connection"),
        (OPENING + ANSWER + frame(0, 1, 1, b"\0\0\0\0\2\x0a\x7f"), "cannot be understood"),
        (OPENING + ANSWER + frame(0, 1, 1, b"\0\0\0\0\2\x0a\xff"), "cannot be understood"),
    ],
)
def test_what_is_no_answer(serve: Callable[[bytes], str], answer: bytes, words: str) -> None:
    """Never an empty list: that would say that no pod lives."""
    with pytest.raises(OSError, match=words):
        list_pods(serve(answer), seconds=30)


def test_a_silent_runtime(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as ear:
        ear.bind(path)
        ear.listen(1)
        with pytest.raises(TimeoutError):
            list_pods(path, seconds=0.2)


def test_no_runtime(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        list_pods(str(tmp_path / "none"))
