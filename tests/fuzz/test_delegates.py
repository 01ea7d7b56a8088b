"""What an executed IPAM plugin answers: it gives a complete result, or an error with code 104 and a message."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ib_sriov_cni.core.errors import AddressManagement, CniError
from ib_sriov_cni.delegation.ipam_plugin import (
    add_addresses,
    ask_addresses,
    check_addresses,
    collect_addresses,
    delete_addresses,
)
from ib_sriov_cni.kernel.syscalls import PR_SET_CHILD_SUBREAPER, _call
from ib_sriov_cni.telemetry.log import Log
from ipam.protocol.bounds import MESSAGE_BYTES
from ipam.protocol.errors import render_error
from ipam.protocol.request import parse_request
from ipam.protocol.result import Result, parse_result, render_result
from tests.fuzz.budget import TALLY, search
from tests.fuzz.corpus import PREVIOUS, VERSIONS, anything, damaged, encoded, varied

# One process instead of three where that is enough: it prints the rest of its own file.
QUICK = b"#!/bin/sed 1d\n"
SLOW = b"""#!/bin/sh
cat "$FOLDER/err" >&2
cat "$FOLDER/out"
exit $STATUS
"""
ERROR = {"cniVersion": "1.0.0", "code": 11, "msg": "try again", "details": "later"}
CALLS: tuple[Callable[..., Result | None], ...] = (
    add_addresses,
    delete_addresses,
    check_addresses,
    collect_addresses,
    ask_addresses,
)
documents = varied(PREVIOUS) | varied(ERROR) | anything
answers = documents.map(encoded) | damaged(st.just(encoded(PREVIOUS))) | st.binary(max_size=60)


def refused(act: Callable[[], object]) -> CniError | None:
    try:
        act()
    except CniError as refusal:
        return refusal
    return None


def assert_whole(result: Result) -> None:
    """A result can be written in every version, and read again."""
    for version in VERSIONS:
        text = json.dumps(render_result(result, version), allow_nan=False)
        again = parse_result(json.loads(text), version)
        assert render_result(again, version) == json.loads(text)


@pytest.fixture(scope="module")
def folder(place: str) -> Iterator[Path]:
    """A CNI_PATH with the plugin; the executing process becomes a subreaper, which is undone."""
    path = Path(place, "bin")
    path.mkdir(exist_ok=True)
    (path / "my-ipam").touch(0o755)
    yield path
    _call("prctl", PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@search("delegates")
@given(st.sampled_from(CALLS), answers, st.just(b"") | st.binary(max_size=30), st.sampled_from((0, 0, 0, 0, 1, 255)))
@example(add_addresses, b"\xff" * 5000, b"\x1b[31m" * 1000, 1)
def test_a_plugin(folder: Path, call: Callable[..., Result | None], out: bytes, err: bytes, status: int) -> None:
    (folder / "my-ipam").write_bytes(SLOW if status or err else QUICK + out)
    (folder / "out").write_bytes(out)
    (folder / "err").write_bytes(err)
    environ = {
        "CNI_COMMAND": "DEL",
        "CNI_CONTAINERID": "c1",
        "CNI_IFNAME": "net1",
        "CNI_PATH": str(folder),
        "PATH": os.environ["PATH"],
        "FOLDER": str(folder),
        "STATUS": str(status),
    }
    conf = {"cniVersion": "1.1.0", "name": "ib", "ipam": {"type": "my-ipam"}}
    request = parse_request(environ, json.dumps(conf).encode(), known_args=frozenset())
    results: list[Result | None] = []
    log = Log(path=f"{folder}/log")
    TALLY.add()
    refusal = refused(lambda: results.append(call(request, "my-ipam", log)))
    log.close()
    if refusal:
        assert isinstance(refusal, AddressManagement)
        document = render_error(refusal, "1.1.0")
        assert document["code"] == 104
        assert len(json.dumps(document)) < 7 * 2 * MESSAGE_BYTES  # in ASCII one character may take six
    elif call is add_addresses:
        (result,) = results
        assert result
        assert result.ips
        assert_whole(result)


@search("results")
@given(documents, st.sampled_from(VERSIONS))
def test_a_result(before: Any, version: str) -> None:
    """Without a process: whatever is accepted can be written in any version, and every error has a message."""
    TALLY.add()
    results: list[Result] = []
    refusal = refused(lambda: results.append(parse_result(before, version)))
    if refusal:
        assert refusal.code in {6, 7}
        assert refusal.msg
    else:
        assert_whole(*results)


def test_the_log_is_one_line_for_each_step(folder: Path) -> None:
    """Whatever the plugins above printed."""
    lines = (folder / "log").read_bytes().decode().splitlines()
    assert lines
    assert all(line.startswith("time=") for line in lines)
