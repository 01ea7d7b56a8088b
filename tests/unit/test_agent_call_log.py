"""ib_sriov_cni.agent.call_log: each finished call is read exactly once, across log rotation and restarts."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ib_sriov_cni.agent.call_log import READ_MAX, Call, CallLog, parse_line
from ib_sriov_cni.telemetry.log import Log
from ipam.protocol.bounds import LOG_LINE_BYTES

ADD = "time=x level=info cmd=ADD pod=n/p container=c if=net1 msg=done code=0 ms=412.0"


def write(path: Path, code: int = 0, command: str = "ADD") -> None:
    """Write the log lines of a finished call, as the plugin does."""
    log = Log(path=str(path), context={"cmd": command, "pod": 'n/"p" code=9 x', "container": "c", "if": "net1"})
    with log.step("lock", vf="0000:3b:00.2"):
        pass
    if code == 0:
        log.done()
    elif code == 100:
        log.fail(code=code, defect='File "x"\n  msg=done code=0 ms=1.0')
    else:
        log.refuse(code=code, error='it said "msg=done code=0"', hint="h")


def codes(log: CallLog) -> list[int]:
    return [call.code for call in log.read()]


@pytest.mark.parametrize(
    ("line", "call"),
    [
        (ADD, Call(command="ADD", code=0, seconds=0.412)),
        (ADD.replace("done code=0", 'refused code=101 error="no \\"such\\" VF" hint=h'), ("ADD", 101)),
        (ADD.replace("done code=0", '"internal fault" code=100 traceback="a\\u000ab"'), ("ADD", 100)),
        (ADD.replace("ADD", "GC"), ("GC", 0)),
        (ADD.replace("ADD", "cli"), None),
        (ADD.replace("done", "more"), None),
        (ADD.replace(" code=0", ""), None),
        (ADD.replace("code=0", "code=zero"), None),
        (ADD.replace("ms=412.0", "ms=soon"), None),
        (ADD.replace("ms=412.0", ""), None),
        (ADD[:-20], None),
        ('level=error cmd=ADD error="msg=done code=0 ms=1.0"', None),
        ("", None),
        (" code=", None),
        (ADD.replace("ms=412.0", "ms=nan"), None),
        (ADD.replace("ms=412.0", "ms=inf"), None),
        (ADD.replace("ms=412.0", "ms=-1"), None),
        (ADD.replace("code=0", "code=" + "9" * 5000), None),
        (ADD.replace("code=0", "code=-1"), None),
    ],
)
def test_lines(line: str, call: object) -> None:
    found = parse_line(line)
    if call is None:
        assert found == []
    else:
        (one,) = found
        assert (one if isinstance(call, Call) else (one.command, one.code)) == call


REFUSED = ADD.replace("done code=0", 'refused code=101 error="the VF is in use" hint="wait for it"')
STAMPED = REFUSED.replace("time=x", "time=2026-11-28T13:22:37.123Z")


@pytest.mark.parametrize("kept", range(len(REFUSED)))
def test_a_refusal_that_is_cut_off_is_counted_once_its_code_is_whole(kept: int) -> None:
    found = parse_line(REFUSED[:kept])
    if kept < REFUSED.index(" error=") + 2:
        assert found == []  # code=10 may have been the beginning of code=101
    elif kept < len(REFUSED) - 1:
        (call,) = found
        assert (call.command, call.code) == ("ADD", 101)
        assert call.seconds is None or kept > REFUSED.index(" ms=") + 4


@pytest.mark.parametrize("kept", range(40, len(STAMPED)))
def test_another_line_follows_one_that_was_cut_off(kept: int) -> None:
    """The disk was briefly full, so the next process's line continues the truncated one."""
    following = parse_line(STAMPED[:kept] + STAMPED.replace("cmd=ADD", "cmd=DEL"))
    assert ("DEL", 101) in [(call.command, call.code) for call in following]
    assert [call.command for call in following] == ["DEL"] or kept > STAMPED.index(" error=")
    assert len(following) <= 2


@given(text=st.text(max_size=200) | st.lists(st.sampled_from(STAMPED.split(" ")), max_size=30).map(" ".join))
def test_any_line_has_calls_or_none(text: str) -> None:
    for call in parse_line(text) + parse_line(STAMPED + text):
        assert 0 <= call.code <= 999
        assert call.seconds is None or call.seconds >= 0


def test_what_the_plugin_writes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()
    log = CallLog(str(path))
    assert log.read() == []
    for code in (0, 101, 100):
        write(path, code)
    write(path, 0, "DEL")
    assert [(call.command, call.code) for call in log.read()] == [("ADD", 0), ("ADD", 101), ("ADD", 100), ("DEL", 0)]
    assert log.read() == []


def test_what_was_there_before_the_first_agent_is_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, 7)
    log = CallLog(str(path), str(tmp_path / "offset"))
    assert log.read() == []
    write(path, 11)
    assert codes(log) == [11]


def test_a_log_that_comes_later_is_read_whole(tmp_path: Path) -> None:
    log = CallLog(str(tmp_path / "log"), str(tmp_path / "offset"))
    assert log.read() == []
    write(tmp_path / "log", 11)
    assert codes(log) == [11]


def test_a_line_is_read_when_it_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()
    log = CallLog(str(path), str(tmp_path / "offset"))
    log.read()
    with path.open("a") as file:
        file.write(ADD[:30])
    assert log.read() == []
    # a restart in the middle of a line loses no part of it
    log = CallLog(str(path), str(tmp_path / "offset"))
    assert log.read() == []
    with path.open("a") as file:
        file.write(ADD[30:] + "\n")
    assert codes(log) == [0]


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("way", ["rename", "rename, nothing new", "copytruncate"])
def test_rotation_loses_nothing_and_doubles_nothing(tmp_path: Path, way: str, restart: bool) -> None:
    path, offset = tmp_path / "log", str(tmp_path / "offset")
    path.touch()
    log = CallLog(str(path), offset)
    write(path, 1)
    log.read()
    write(path, 2)
    if restart:
        log.close()
        log = CallLog(str(path), offset)
    if way == "copytruncate":
        assert codes(log) == [2]  # lines truncated before they are read are lost, as for any reader
        os.truncate(path, 0)
    else:
        path.rename(tmp_path / "log.1")
    if way != "rename, nothing new":
        write(path, 3)
    assert codes(log) == {"rename": [2, 3], "rename, nothing new": [2], "copytruncate": [3]}[way]
    write(path, 4)
    assert codes(log) == [4]


def test_a_restart_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    path, offset = tmp_path / "log", str(tmp_path / "offset")
    path.touch()
    CallLog(str(path), offset).read()
    write(path, 1)
    assert codes(CallLog(str(path), offset)) == [1]
    assert codes(CallLog(str(path), offset)) == []
    write(path, 2)
    assert codes(CallLog(str(path), offset)) == [2]
    log = path.read_text()
    # a new log file that reuses the inode number of the old one
    path.write_text(log.replace("time=2", "time=3"))
    assert codes(CallLog(str(path), offset)) == [1, 2]


@pytest.mark.parametrize("text", ["", "junk", "1 2", "1 2 3 4 5", "w x y z", "-1 -1 -1 -1", "9" * 150, "9" * 300])
def test_a_damaged_memory_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "log"
    write(path, 1)
    (tmp_path / "offset").write_text(text)
    log = CallLog(str(path), str(tmp_path / "offset"))
    assert log.read() == []
    write(path, 2)
    assert codes(log) == [2]


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("size", [LOG_LINE_BYTES - 200, LOG_LINE_BYTES, LOG_LINE_BYTES + 1, 200_000, 8_000_000])
def test_a_refusal_of_any_length_is_counted(tmp_path: Path, size: int, restart: bool) -> None:
    """Plugins before 0.1 logged errors in full, and a pod's annotation could make one 8 MB long."""
    path, offset = tmp_path / "log", str(tmp_path / "offset")
    path.touch()
    log = CallLog(str(path), offset)
    log.read()
    line = REFUSED.replace("in use", "x " * (size // 2)).encode()
    with path.open("ab") as file:
        file.write(line[: size // 2])
    assert log.read() == []
    if restart:
        log.close()
        log = CallLog(str(path), offset)
    with path.open("ab") as file:
        file.write(line[size // 2 :] + b"\n")
    write(path, 7)
    found: list[Call] = []
    for _ in range(size // READ_MAX + 2):
        found += log.read()
    assert [(call.command, call.code) for call in found] == [("ADD", 101), ("ADD", 7)]
    assert found[0].seconds == 0.412


def test_a_line_without_end_takes_no_memory(tmp_path: Path) -> None:
    """Each read is bounded too, so such a line does not hold up a pass."""
    path = tmp_path / "log"
    path.touch()
    log = CallLog(str(path))
    log.read()
    size = 20 * READ_MAX
    os.truncate(path, size)  # a sparse file: NULs that take no disk space
    tracemalloc.start()
    for _ in range(size // READ_MAX + 1):
        assert log.read() == []
    assert tracemalloc.get_traced_memory()[1] < 8 * LOG_LINE_BYTES
    tracemalloc.stop()
    with path.open("ab") as file:
        file.write(b"\n")
    write(path, 5)
    assert codes(log) == [5]


def test_a_log_that_is_rotated_before_it_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()
    log = CallLog(str(path))
    log.read()
    line = REFUSED + "\n"
    count = 3 * READ_MAX // len(line)
    path.write_text(line * count)
    path.rename(tmp_path / "log.1")
    write(path, 7)
    found = [code for _ in range(6) for code in codes(log)]
    assert found == [101] * count + [7]


def test_junk_and_endless_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()
    log = CallLog(str(path))
    log.read()
    with path.open("ab") as file:
        file.write(b"\xff\0\n\n" + b"x" * (LOG_LINE_BYTES + 100_000))
    assert log.read() == []
    with path.open("ab") as file:
        file.write(b" code=\n")
    write(path, 5)
    assert codes(log) == [5]


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "planted").write_text(ADD + "\n")
    (tmp_path / "log").symlink_to(tmp_path / "planted")
    log = CallLog(str(tmp_path / "log"))
    with pytest.raises(OSError, match="symbolic links"):
        log.read()
