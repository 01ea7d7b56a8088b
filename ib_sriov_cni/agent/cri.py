"""Which pods the container runtime knows: one call of the CRI, without a gRPC library.

One connection, one stream, one message each way: HTTP/2 (RFC 9113) as far as that takes, header fields as literals
(RFC 7541, 6.2.2). What the runtime refuses comes without a message, and why stands in compressed fields that are not
read here: its own log tells. Messages: k8s.io/cri-api, pkg/apis/runtime/v1/api.proto.
"""

from __future__ import annotations

import socket
import struct
import time

METHOD = "/runtime.v1.RuntimeService/ListPodSandbox"
SECONDS = 5.0
MOST = 1 << 24  # bytes of an answer; a sandbox takes less than a kilobyte
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
WINDOW = (1 << 31) - 1


def list_pods(path: str, *, seconds: float = SECONDS) -> frozenset[str]:
    """Give the IDs of all pod sandboxes that the runtime behind a socket knows. OSError if it cannot be asked."""
    deadline = time.monotonic() + seconds
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as link:
        link.settimeout(seconds)
        try:
            link.connect(path)
        except OSError as fault:
            raise OSError(fault.errno, fault.strerror, path) from None
        # An empty message asks for all of them.
        link.sendall(_opening() + _frame(HEADERS, END_HEADERS, 1, _fields()) + _frame(DATA, END_STREAM, 1, bytes(5)))
        message = _receive(link, deadline)
    try:
        return frozenset([_sandbox_id(item) for number, item in _parts(message) if number == 1])
    except (IndexError, ValueError) as fault:
        raise OSError(f"the runtime's answer cannot be understood: {fault}") from None


def _opening() -> bytes:
    """The preface, no table for compressed fields, and room for whatever comes."""
    settings = struct.pack(">HIHI", 1, 0, 4, WINDOW)
    return PREFACE + _frame(SETTINGS, 0, 0, settings) + _frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW - 65535))


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def _fields() -> bytes:
    pairs = {
        ":method": "POST",
        ":scheme": "http",
        ":path": METHOD,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    texts = [(name.encode(), text.encode()) for name, text in pairs.items()]
    return b"".join([b"\0" + bytes((len(name),)) + name + bytes((len(text),)) + text for name, text in texts])


def _receive(link: socket.socket, deadline: float) -> bytes:
    """Read the answer's message to the end of its stream."""
    body = b""
    while True:
        head = _read(link, 9, deadline)
        length = int.from_bytes(head[:3], "big")
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big") & WINDOW
        payload = _read(link, length, deadline)
        if kind == SETTINGS and not flags & ACK:
            link.sendall(_frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            link.sendall(_frame(PING, ACK, 0, payload))
        elif kind == GOAWAY or (kind == RST_STREAM and stream == 1):
            raise OSError("the runtime ended the call")
        elif kind == DATA and stream == 1:
            body += payload[1 : len(payload) - payload[0]] if flags & PADDED else payload
            if len(body) > MOST:
                raise OSError("the runtime's answer is too long")
        if kind in {DATA, HEADERS} and stream == 1 and flags & END_STREAM:
            break
    if len(body) < 5 or body[0] or int.from_bytes(body[1:5], "big") != len(body) - 5:
        raise OSError("the runtime refused the call, or does not speak the CRI's version 1")
    return body[5:]


def _read(link: socket.socket, size: int, deadline: float) -> bytes:
    data = b""
    while len(data) < size:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the runtime does not answer")
        link.settimeout(left)
        chunk = link.recv(size - len(data))
        if not chunk:
            raise OSError("the runtime closed the connection")
        data += chunk
    return data


def _parts(message: bytes) -> list[tuple[int, bytes]]:
    """Take one level of a protobuf message apart: field numbers with the bytes of those that have some."""
    found = []
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        if key & 7 == 2:
            size, place = _varint(message, place)
            if place + size > len(message):
                raise ValueError("it is cut off")
            found.append((key >> 3, message[place : place + size]))
            place += size
        elif key & 7 == 0:
            _, place = _varint(message, place)
        else:
            place += {1: 8, 5: 4}[key & 7] if key & 7 in {1, 5} else len(message)
    return found


def _varint(message: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = message[place]
        place += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return number, place


def _sandbox_id(sandbox: bytes) -> str:
    return next(item.decode() for number, item in _parts(sandbox) if number == 1)
