"""ib_sriov_cni.telemetry.log: one line per step, whatever is in it; where lines go; trace points."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ib_sriov_cni.core.errors import CniError
from ib_sriov_cni.telemetry import FAULT_POINT
from ib_sriov_cni.telemetry.log import LEVELS, Log

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
PAIR = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|[^" =\\]+)(?: |$)')


def fields(line: str) -> dict[str, str]:
    """Parse a logfmt line; fails if anything is left over."""
    pairs = PAIR.findall(line)
    assert "".join([match.group(0) for match in PAIR.finditer(line)]) == line
    return dict(pairs)


def lines(path: Path) -> list[str]:
    text = path.read_text()
    assert text.endswith("\n") or not text
    return text.split("\n")[:-1]


def test_a_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log"
    log = Log(path=str(path), context={"cmd": "ADD", "pod": "train/worker-0", "container": "4f5e6d", "if": ""})
    with log.step("sets_guid", vf="0000:3b:00.2", guid="02:00", nothing=None, empty="") as step:
        step.note(state="ACTIVE")
    (line,) = lines(path)
    assert re.fullmatch(
        r"time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z level=info cmd=ADD pod=train/worker-0 container=4f5e6d "
        r"step=sets_guid vf=0000:3b:00\.2 guid=02:00 state=ACTIVE ms=\d+\.\d",
        line,
    )
    assert log.steps == ["sets_guid"]
    assert capfd.readouterr().err == ""


@given(st.text(max_size=30), st.text(max_size=30))
def test_a_line_stays_one_line_whatever_is_in_it(tmp_path_factory: pytest.TempPathFactory, a: str, b: str) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    log = Log(path=str(path), context={"pod": a})
    log.warning("said", fact=b, after="end")
    (line,) = path.read_bytes().decode().split("\n")[:-1]
    assert line.isprintable()
    found = fields(line)
    assert found["level"] == "warning"
    assert found["after"] == "end"
    assert ("pod" in found) == (a != "")
    assert ("fact" in found) == (b != "")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("plain-1.2_3:/x", "plain-1.2_3:/x"),
        ("two words", '"two words"'),
        ('say "no"', '"say \\"no\\""'),
        ("back\\slash", '"back\\\\slash"'),
        ("a=b", '"a=b"'),
        ("new\nline\ttab\r", '"new\\u000aline\\u0009tab\\u000d"'),
        ("\u2028\x85\udc80", '"\\u2028\\u0085\\udc80"'),
        ("grün", '"grün"'),
        (0, "0"),
        (False, "False"),
        (("a", 1), "\"('a', 1)\""),
    ],
)
def test_quoting(tmp_path: Path, value: object, written: str) -> None:
    path = tmp_path / "log"
    Log(path=str(path)).warning("m", fact=value)
    assert lines(path)[0].endswith(f" msg=m fact={written}")


@pytest.mark.parametrize("key", ["fact", "error", "hint"])
@pytest.mark.parametrize(
    "unit", ["x", "two words ", "\\", '"', "\n", "\x1b[31m", "ü", "\u202e", "\udc80", chr(0xD800), "😀"]
)
@pytest.mark.parametrize("times", [100, 1_000, 300_000])
def test_a_value_has_a_bounded_length(tmp_path: Path, key: str, unit: str, times: int) -> None:
    """Whatever characters it has: the limit applies after escaping."""
    path = tmp_path / "log"
    text = unit * times
    Log(path=str(path)).warning("m", **{key: text})
    (line,) = path.read_bytes().decode().split("\n")[:-1]
    assert line.isprintable()
    value = fields(line)[key]
    most = {"fact": 2_048, "error": 4_096, "hint": 4_096}[key]
    assert len(value.encode()) <= most
    if len(text) > most:
        assert len(value.encode()) > most - 10
        assert value.endswith(f'… ({len(text)} characters)"')
        unescaped = value[1:-1].rpartition("…")[0].replace('\\"', "").replace("\\\\", "")
        assert re.fullmatch(r"([^\\]|\\u[0-9a-f]{4,5})*", unescaped), "an escape was cut in two"


def test_the_context_is_bounded_too(tmp_path: Path) -> None:
    """A pod's annotation (up to 256 KiB) can end up as the name in CNI_ARGS."""
    path = tmp_path / "log"
    log = Log(path=str(path), context={"pod": "p" * 100_000})
    with pytest.raises(CniError), log.step("s", facts=["x"] * 100_000):
        raise CniError("m" * 100_000, "d" * 100_000)
    log.refuse(code=7, error="e" * 100_000, hint="h" * 100_000)
    assert [len(line.encode()) < 16_384 for line in lines(path)] == [True, True]


def say_all(log: Log) -> None:
    log.debug("one")
    with log.step("two"):
        pass
    log.warning("three")
    log.error("four")
    log.refuse(code=7, error="five", hint="six")


@pytest.mark.parametrize(("level", "count"), [("debug", 5), ("info", 4), ("warning", 3), ("error", 2)])
def test_levels(tmp_path: Path, capfd: pytest.CaptureFixture[str], level: str, count: int) -> None:
    path = tmp_path / "log"
    log = Log(level=level, path=str(path))
    say_all(log)
    written = lines(path)
    assert [fields(line)["level"] for line in written] == ["debug", "info", "warning", "error", "error"][-count:]
    assert re.search(r"level=error msg=refused code=7 error=five hint=six ms=\d+\.\d$", written[-1])
    assert log.debugging == (level == "debug")
    assert log.where == str(path)
    # Standard error, which a runtime shows, gets warnings and worse, each once.
    assert capfd.readouterr().err.splitlines() == written[-min(count, 3) :]


@pytest.mark.parametrize("level", list(LEVELS))
def test_without_a_file_all_goes_to_standard_error(capfd: pytest.CaptureFixture[str], level: str) -> None:
    log = Log(level=level)
    say_all(log)
    captured = capfd.readouterr()
    assert len(captured.err.splitlines()) == {"debug": 5, "info": 4, "warning": 3, "error": 2}[level]
    assert captured.out == ""
    assert log.where == "standard error"


def test_a_fault_ends_its_step(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = Log(path=str(path))
    with pytest.raises(CniError), log.step("bind", vf="x"):
        raise CniError("bind VF: Device or resource busy", "wait")
    found = fields(lines(path)[0])
    assert (found["level"], found["step"]) == ("error", "bind")
    assert found["error"] == '"bind VF: Device or resource busy; wait"'
    assert log.steps == []


@pytest.mark.parametrize("where", ["nowhere/log", "folder", "link", "pipe"])
def test_a_log_file_that_cannot_be_opened_is_told_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], where: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "planted")
    os.mkfifo(tmp_path / "pipe")  # nobody reads it: opening it must not wait for a reader
    log = Log(path=str(tmp_path / where))
    log.warning("one")
    with log.step("two"):
        pass
    told = capfd.readouterr().err.splitlines()
    assert len(told) == 3
    assert f"cannot open logFile {tmp_path / where}: " in told[0]
    assert [line.rpartition("=")[2] for line in told[1:2]] == ["one"]
    assert "step=two" in told[2]
    assert log.where == "standard error"
    assert not (tmp_path / "planted").exists()


def test_a_full_disk_fails_nothing() -> None:
    Log(path="/dev/full").warning("one")


def test_standard_error_that_is_closed_fails_nothing() -> None:
    log = "from ib_sriov_cni.telemetry.log import Log"
    code = f"import os; os.close(2); {log}; Log().error('one'); Log(path='/x/y').error('two')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"")


def test_a_new_file_is_not_for_everybody(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Log(path=str(tmp_path / "log")).warning("one")
    finally:
        os.umask(before)
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o640


WRITER = """
import sys
from ib_sriov_cni.telemetry.log import Log
log = Log(path=sys.argv[1], context={"who": sys.argv[2] * 900})
for number in range(200):
    with log.step("turn", number=number):
        pass
"""


def test_processes_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    names = "abcd"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name], cwd=ROOT) for name in names]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0, 0]
    found = [fields(line) for line in lines(path)]
    for name in names:
        assert [int(line["number"]) for line in found if line["who"] == name * 900] == list(range(200))
    assert len(found) == 800


TRACED = """
import sys
from ib_sriov_cni.telemetry.log import Log
log = Log()
try:
    with log.step("first"):
        print("in first", flush=True)
    with log.step("second"):
        print("in second", flush=True)
except Exception as fault:
    print(type(fault).__name__, fault.code, flush=True)
"""


def traced(point: str) -> subprocess.Popen[str]:
    env = {**os.environ, FAULT_POINT: point, "PYTHONPATH": ROOT}
    return subprocess.Popen(
        [sys.executable, "-c", TRACED], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


@pytest.mark.parametrize(
    ("point", "status", "said"),
    [
        ("", 0, ["in first", "in second"]),
        ("third=kill", 0, ["in first", "in second"]),
        ("first=kill", -9, []),
        ("first.done=kill", -9, ["in first"]),
        ("second=kill", -9, ["in first"]),
        ("second.done=kill", -9, ["in first", "in second"]),
        ("first=fail", 0, ["CniError 100"]),
        ("first.done=fail", 0, ["in first", "CniError 100"]),
    ],
)
def test_trace_points(point: str, status: int, said: list[str]) -> None:
    process = traced(point)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out.splitlines()) == (status, said)


def test_a_trace_point_that_stops() -> None:
    process = traced("second=stop")
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    os.kill(process.pid, 18)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out.splitlines()) == (0, ["in first", "in second"])
