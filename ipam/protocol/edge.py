"""The entry point of a CNI plugin: standard input to a Request, a handler's Result or error to standard output (C5)."""

from __future__ import annotations

import sys

from ipam.protocol.bounds import STDIN_BYTES
from ipam.protocol.errors import (
    CniError,
    DecodingFailure,
    InternalFault,
    InvalidEnvironment,
    IoFailure,
    TryAgainLater,
    render_error,
)
from ipam.protocol.fastjson import dumps
from ipam.protocol.spelling import CONFIGURATION, respell
from ipam.protocol.versions import VERSIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Protocol

    from ipam.protocol.request import Request
    from ipam.protocol.result import Result
    from ipam.protocol.spelling import Names

    class Reader(Protocol):
        """A binary stream to read from."""

        def read(self, size: int, /) -> bytes | None:
            """Return up to `size` bytes; b"" at the end."""

    class Writer(Protocol):
        """A binary stream to write to."""

        def write(self, data: bytes, /) -> object:
            """Write all of `data`."""

        def flush(self) -> object:
            """Flush what was written."""

    Handler = Callable[[Request], "Result | None"]


_NO_DESCRIPTORS = (23, 24)  # ENFILE, EMFILE
_MORE_DESCRIPTORS = "raise the limit of open files of the runtime that called this (LimitNOFILE)"


def serve(
    handlers: Mapping[str, Handler],
    *,
    known_args: frozenset[str],
    environ: Mapping[str, str],
    stdin: Reader | None,
    stdout: Writer | None,
    on_fault: Callable[[BaseException], str] | None = None,
    names: Names = CONFIGURATION,
) -> int:
    """Serve one invocation: write one JSON document or nothing, and return the exit status (0 or 1).

    `names` are the keys that are read in any case. `on_fault` logs an exception that is not a CniError and returns
    where the log is. Without it a line goes to standard error.
    """
    given = b""
    try:
        if environ.get("CNI_COMMAND") == "VERSION":
            document: dict[str, object] | None = {"cniVersion": VERSIONS[-1], "supportedVersions": list(VERSIONS)}
        else:
            given = read_stdin(stdin)
            document = _dispatch(handlers, known_args, names, environ, given)
        text = "" if document is None else dumps(document) + "\n"
        status = 0
    except CniError as error:
        text = _failure(error, given)
        status = 1
    except Exception as error:  # noqa: BLE001 - the protocol requires a document whatever happens
        text = _failure(_internal(error, on_fault), given)
        status = 1
    return _print(stdout, text) or status


def read_stdin(stdin: Reader | None) -> bytes:
    """Return all of standard input. Raises IoFailure (5), or DecodingFailure (6) above STDIN_BYTES (C4)."""
    if stdin is None:
        raise IoFailure("standard input is closed")
    chunks = []
    size = 0
    try:
        while chunk := stdin.read(STDIN_BYTES + 1 - size):
            chunks.append(chunk)
            size += len(chunk)
            if size > STDIN_BYTES:
                raise DecodingFailure(f"standard input is larger than {STDIN_BYTES} bytes")
    except (OSError, ValueError) as error:
        raise IoFailure(f"standard input cannot be read: {error}") from None
    return b"".join(chunks)


def _dispatch(
    handlers: Mapping[str, Handler],
    known_args: frozenset[str],
    names: Names,
    environ: Mapping[str, str],
    given: bytes,
) -> dict[str, object] | None:
    from ipam.protocol.request import parse_request

    request = parse_request(environ, given, known_args=known_args, names=names)
    handler = handlers.get(request.command)
    if handler is None:
        raise InvalidEnvironment(f"CNI_COMMAND {request.command} is not supported")
    result = handler(request)
    if result is None:
        return None
    from ipam.protocol.result import render_result

    return render_result(result, request.version)


def _failure(error: CniError, given: bytes) -> str:
    return dumps(render_error(error, _version_of(given))) + "\n"


def _version_of(given: bytes) -> str:
    """Return the version for an error document: the configuration's if it can be read, else our newest."""
    from ipam.protocol.request import parse_configuration, parse_version

    if not given:
        return VERSIONS[-1]
    try:
        return parse_version(respell(parse_configuration(given), CONFIGURATION, []), "ADD")
    except CniError:
        return VERSIONS[-1]


def _internal(error: Exception, on_fault: Callable[[BaseException], str] | None) -> CniError:
    where = "this is a bug: please report the line on standard error"
    try:
        if on_fault is not None:
            where = on_fault(error)
        elif sys.stderr is not None:
            from ipam.protocol.bug_report import describe_defect

            sys.stderr.write(f"internal fault: {describe_defect(error)}\n")
    except Exception as second:  # noqa: BLE001 - a failing log must not hide the first fault
        where = f"this is a bug, and it could not be logged: {second}"
    if isinstance(error, OSError) and error.errno in _NO_DESCRIPTORS:
        return TryAgainLater(f"{error.strerror}: {error.filename or 'no descriptor is left'}", _MORE_DESCRIPTORS)
    return InternalFault(f"internal fault: {type(error).__name__}: {error}", where)


def _print(stdout: Writer | None, text: str) -> int:
    if not text:
        return 0
    try:
        if stdout is None:
            raise OSError(9, "closed")
        stdout.write(text.encode())
        stdout.flush()
    except (OSError, ValueError) as error:
        if sys.stderr is not None:
            sys.stderr.write(f"standard output cannot be written: {error}\n")
        return 1
    return 0
