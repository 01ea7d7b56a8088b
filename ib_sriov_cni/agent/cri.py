"""Ask the container runtime for its pods: one gRPC call of the CRI, over HTTP/2 on a Unix socket.

The library h2 speaks HTTP/2. gRPC adds five bytes before each message and the call's status in the trailers (grpc/grpc,
doc/PROTOCOL-HTTP2.md). The answer's protobuf is decoded here, because no library fits the one string that is wanted:
Google's protobuf is a C extension with generated code, betterproto brings a gRPC stack of its own, and pure-protobuf
accepts a message that ends inside a key, where an incomplete list of pods must be an error. Messages: k8s.io/cri-api,
pkg/apis/runtime/v1/api.proto.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import unquote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import H2Error

from ipam.protocol.bounds import RUNTIME_ANSWER_BYTES, RUNTIME_WORDS_BYTES, SANDBOXES, shorten

METHOD = "/runtime.v1.RuntimeService/ListPodSandbox"
CALL_TIMEOUT = 5.0  # seconds
CHUNK = 1 << 16  # bytes
PREFIX = struct.Struct(">?I")  # before each message: whether it is compressed, and its length
# grpc/grpc, doc/statuscodes.md
STATUS_NAMES = {
    "1": "CANCELLED",
    "2": "UNKNOWN",
    "3": "INVALID_ARGUMENT",
    "4": "DEADLINE_EXCEEDED",
    "5": "NOT_FOUND",
    "6": "ALREADY_EXISTS",
    "7": "PERMISSION_DENIED",
    "8": "RESOURCE_EXHAUSTED",
    "9": "FAILED_PRECONDITION",
    "10": "ABORTED",
    "11": "OUT_OF_RANGE",
    "12": "UNIMPLEMENTED",
    "13": "INTERNAL",
    "14": "UNAVAILABLE",
    "15": "DATA_LOSS",
    "16": "UNAUTHENTICATED",
}


class _CallFailure(Exception):
    """Why the call has no usable answer."""


def _connect(path: str, seconds: float) -> socket.socket:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        link.settimeout(seconds)
        link.connect(path)
    except OSError:
        link.close()
        raise
    return link


def list_pods(
    path: str, *, seconds: float = CALL_TIMEOUT, connect: Callable[[str, float], socket.socket] = _connect
) -> frozenset[str]:
    """Return the IDs of all pod sandboxes of the runtime that listens on the Unix socket `path`.

    Raises OSError, which names the socket and the reason, if the runtime cannot be reached, refuses, or does not send a
    complete list; TimeoutError if all of it takes longer than `seconds`.
    """
    deadline = time.monotonic() + seconds
    try:
        with connect(path, seconds) as link:
            # An empty request has no filter.
            return _parse_sandbox_ids(_call(link, METHOD, b"", deadline), deadline)
    except TimeoutError:
        raise TimeoutError(f"list pods of the runtime at {path}: no complete answer within {seconds:g} s") from None
    except OSError as fault:
        raise OSError(fault.errno, fault.strerror, path) from None
    except H2Error as fault:
        raise OSError(f"list pods of the runtime at {path}: HTTP/2 failed: {_describe_defect(fault)}") from None
    except _CallFailure as fault:
        raise OSError(f"list pods of the runtime at {path}: {fault}") from None
    except Exception as fault:  # noqa: BLE001  # h2 and what it uses are not made for every garbled frame
        words = f"{type(fault).__name__}: {_describe_defect(fault)}"
        raise OSError(f"list pods of the runtime at {path}: the answer cannot be decoded: {words}") from None


def _call(link: socket.socket, method: str, request: bytes, deadline: float) -> memoryview:
    """Make a gRPC call with one message each way, and return the answer's."""
    connection = H2Connection(H2Configuration(client_side=True))
    connection.initiate_connection()
    stream = connection.get_next_available_stream_id()
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
    connection.send_headers(stream, fields)
    connection.send_data(stream, PREFIX.pack(False, len(request)) + request, end_stream=True)
    answer, body = _read_answer(link, connection, deadline)
    _check_status(answer)
    if len(body) < PREFIX.size or PREFIX.unpack_from(body) != (False, len(body) - PREFIX.size):
        raise _CallFailure("the answer is not one uncompressed message")
    return memoryview(body)[PREFIX.size :]


def _read_answer(link: socket.socket, connection: H2Connection, deadline: float) -> tuple[dict[str, str], bytearray]:
    """Send what is due and read to the end of the stream. Returns the fields of headers and trailers, and the body."""
    fields: dict[str, str] = {}
    body = bytearray()
    while True:
        link.settimeout(_left(deadline))
        link.sendall(connection.data_to_send())
        link.settimeout(_left(deadline))
        data = link.recv(CHUNK)
        if not data:
            raise _CallFailure("the runtime closed the connection")
        for event in connection.receive_data(data):
            if isinstance(event, ResponseReceived | TrailersReceived):
                fields.update(_decode_fields(event.headers))
            elif isinstance(event, DataReceived):
                body += event.data
                if len(body) > RUNTIME_ANSWER_BYTES:
                    raise _CallFailure(f"the answer is longer than {RUNTIME_ANSWER_BYTES} bytes")
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, StreamEnded):
                return fields, body
            elif isinstance(event, StreamReset):
                raise _CallFailure(f"the call was reset: {_describe_code(event.error_code)}")
            elif isinstance(event, ConnectionTerminated):
                raise _CallFailure(f"the runtime ended the connection: {_describe_code(event.error_code)}")


def _describe_defect(fault: Exception) -> str:
    return shorten(str(fault), RUNTIME_WORDS_BYTES)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _decode_fields(fields: Iterable[tuple[str | bytes, str | bytes]]) -> dict[str, str]:
    def decode(part: str | bytes) -> str:
        return part if isinstance(part, str) else part.decode(errors="replace")

    return {decode(name): decode(text) for name, text in fields}


def _describe_code(code: object) -> str:
    """Return the name of an HTTP/2 error code, or the number of an unknown one."""
    return str(getattr(code, "name", code))


def _check_status(fields: dict[str, str]) -> None:
    """Raise _CallFailure with the runtime's reason unless the call succeeded."""
    if fields.get(":status") != "200":
        raise _CallFailure(f"HTTP status {fields.get(':status', 'missing')[:20]}")
    status = fields.get("grpc-status")
    if status is None:
        raise _CallFailure("the answer ended without a grpc-status")
    if status != "0":
        name = STATUS_NAMES.get(status, f"grpc-status {status[:20]}")
        reason = shorten(unquote(fields.get("grpc-message", "")), RUNTIME_WORDS_BYTES)
        raise _CallFailure(f"the runtime refused: {name}: {reason}" if reason else f"the runtime refused: {name}")


def _parse_sandbox_ids(message: memoryview, deadline: float) -> frozenset[str]:
    """Return the IDs in a ListPodSandboxResponse: field 1 of each PodSandbox, which are the items in field 1."""
    found: list[str] = []
    try:
        for number, item in _parse_fields(message):
            _left(deadline)
            if len(found) == SANDBOXES:
                raise _CallFailure(f"the answer has more than {SANDBOXES} sandboxes")
            if number == 1:
                found.append(_parse_id(item))
    except ValueError as fault:
        raise _CallFailure(f"the answer cannot be decoded: {fault}") from None
    return frozenset(found)


def _parse_id(sandbox: memoryview) -> str:
    found = None
    for number, content in _parse_fields(sandbox):  # to its end: an item that is cut off is an error
        if number == 1:
            found = bytes(content).decode()
    if found is None:
        raise _CallFailure("the answer has a sandbox without an ID")
    return found


def _parse_fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield number and content of a protobuf message's length-delimited fields, and skip the others.

    Raises ValueError if the message is cut off or malformed. Source: protobuf.dev, programming-guides/encoding.
    """
    place = 0
    while place < len(message):
        key, place = _parse_varint(message, place)
        kind = key & 7
        if kind == 0:
            _, place = _parse_varint(message, place)
            continue
        if kind == 2:
            size, place = _parse_varint(message, place)
        elif kind in {1, 5}:
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"unknown wire type {kind}")
        content = message[place : place + size]
        if len(content) < size:
            raise ValueError("it is cut off")
        place += size
        if kind == 2:
            yield key >> 3, content


def _parse_varint(message: memoryview, place: int) -> tuple[int, int]:
    """Return the number at `place` and the place after it."""
    number = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            raise ValueError("it is cut off")
        byte = message[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
    raise ValueError("a number is longer than 64 bits")
