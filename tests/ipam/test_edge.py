"""ipam.protocol.edge: one document or nothing on standard output, and the exit status (C1, C4, C5)."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from ipam.protocol.bounds import STDIN_BYTES
from ipam.protocol.edge import serve
from ipam.protocol.errors import StateFailure
from ipam.protocol.result import Address, Result
from ipam.protocol.versions import VERSIONS

if TYPE_CHECKING:
    from ipam.protocol.request import Request

ENV = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_NETNS": "/n", "CNI_IFNAME": "i", "CNI_PATH": "/p"}
CONF = b'{"cniVersion":"1.0.0","name":"n"}'


class Broken(io.BytesIO):
    def read(self, _size: int | None = -1, /) -> bytes:
        raise OSError(5, "Input/output error")

    def write(self, _data: Any, /) -> int:
        raise OSError(28, "No space left on device")


class Trickle(io.BytesIO):
    def read(self, _size: int | None = -1, /) -> bytes:
        return super().read(1)


def add(_request: Request) -> Result:
    return Result(ips=(Address(address="10.0.0.2/24"),))


def delete(_request: Request) -> None:
    return None


def broken(_request: Request) -> None:
    raise ZeroDivisionError("a\ndefect")


def failing(_request: Request) -> None:
    raise StateFailure("cannot write", "look at the disk")


def call(
    stdin: io.BytesIO | bytes = CONF, stdout: io.BytesIO | None = None, **environ: str
) -> tuple[int, dict[str, Any] | None]:
    out = stdout if stdout is not None else io.BytesIO()
    status = serve(
        {"ADD": add, "DEL": delete, "CHECK": failing, "GC": broken},
        known_args=frozenset(),
        environ={**ENV, **environ},
        stdin=io.BytesIO(stdin) if isinstance(stdin, bytes) else stdin,
        stdout=out,
    )
    text = out.getvalue()
    return status, json.loads(text) if text else None


def test_a_result() -> None:
    assert call() == (0, {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}]})
    assert call(Trickle(CONF))[0] == 0


def test_nothing_on_success_of_del() -> None:
    assert call(CNI_COMMAND="DEL") == (0, None)


def test_c1_version_needs_no_stdin() -> None:
    assert call(Broken(), CNI_COMMAND="VERSION") == (0, {"cniVersion": "1.1.0", "supportedVersions": list(VERSIONS)})


def test_c5_error_document() -> None:
    conf = CONF.replace(b"1.0.0", b"0.4.0")
    expected = {"cniVersion": "0.4.0", "code": 106, "msg": "cannot write", "details": "look at the disk"}
    assert call(conf, CNI_COMMAND="CHECK") == (1, expected)


def test_c4_stdin_that_cannot_be_read() -> None:
    status, doc = call(Broken())
    assert (status, doc and doc["code"], doc and doc["cniVersion"]) == (1, 5, "1.1.0")


def test_c4_stdin_has_a_limit() -> None:
    assert call(CONF + b" " * (STDIN_BYTES - len(CONF)))[0] == 0
    status, doc = call(CONF + b" " * (STDIN_BYTES - len(CONF) + 1))
    assert (status, doc and doc["code"]) == (1, 6)


@pytest.mark.parametrize(
    ("stdin", "environ", "code", "version"),
    [
        (b"x", {}, 6, "1.1.0"),
        (b"[]", {}, 6, "1.1.0"),
        (b'{"cniVersion":"0.3.1"}', {}, 7, "0.3.1"),
        (b'{"cniVersion":"9"}', {}, 1, "1.1.0"),
        (CONF, {"CNI_IFNAME": ""}, 4, "1.0.0"),
        (CONF, {"CNI_COMMAND": "X"}, 4, "1.0.0"),
        (CONF, {"CNI_COMMAND": "STATUS"}, 1, "1.0.0"),
        (CONF.replace(b"1.0.0", b"1.1.0"), {"CNI_COMMAND": "STATUS"}, 4, "1.1.0"),
    ],
)
def test_c5_codes_and_versions(stdin: bytes, environ: dict[str, Any], code: int, version: str) -> None:
    status, doc = call(stdin, **environ)
    assert doc is not None
    assert (status, doc["code"], doc["cniVersion"]) == (1, code, version)
    assert set(doc) == {"cniVersion", "code", "msg", "details"}


def test_internal_fault_leaves_a_trace_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    status, doc = call(CONF.replace(b"1.0.0", b"1.1.0"), CNI_COMMAND="GC")
    assert (status, doc and doc["code"]) == (1, 100)
    assert doc is not None
    assert "Traceback" not in json.dumps(doc)
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize("logging_works", [True, False])
def test_internal_fault_is_handed_to_the_log(*, logging_works: bool) -> None:
    seen: list[BaseException] = []

    def on_fault(error: BaseException) -> str:
        seen.append(error)
        if not logging_works:
            raise OSError(30, "Read-only file system")
        return "see /var/log/x"

    out = io.BytesIO()
    status = serve(
        {"ADD": broken}, known_args=frozenset(), environ=ENV, stdin=io.BytesIO(CONF), stdout=out, on_fault=on_fault
    )
    doc = json.loads(out.getvalue())
    assert (status, doc["code"], type(seen[0])) == (1, 100, ZeroDivisionError)
    assert ("see /var/log/x" if logging_works else "Read-only") in doc["details"]


def test_output_that_cannot_be_written_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(stdout=Broken())[0] == 1
    assert "No space left" in capsys.readouterr().err
