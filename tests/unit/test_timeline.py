"""ib_sriov_cni.telemetry.timeline: the timeline of an invocation, which is written only on request."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
SPAN = """
import sys
from ib_sriov_cni.telemetry.log import Log
from ib_sriov_cni.telemetry.span import Span
log = Log(path="/dev/null")
with log.step("bind", vf="0000:3b:00.2"):
    with Span("inside"):
        pass
try:
    with log.step("unbind"):
        raise OSError("refused")
except OSError:
    pass
print("ib_sriov_cni.telemetry.timeline" in sys.modules)
"""


def run(code: str, **environ: str) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env={"PYTHONPATH": ROOT, **environ}, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def read(path: Path) -> list[dict[str, Any]]:
    """The events in a file, whose closing bracket may be missing."""
    events = json.loads(path.read_text().rstrip(",\n") + "]")
    assert isinstance(events, list)
    return events


def test_no_timeline_is_no_work() -> None:
    assert run(SPAN) == "False"


def test_steps_and_what_is_in_them(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    assert run(SPAN, IB_SRIOV_TRACE=str(path)) == "True"
    inside, bind, unbind = read(path)
    assert (inside["name"], bind["name"], unbind["name"]) == ("inside", "bind", "unbind")
    assert bind["args"]["vf"] == "0000:3b:00.2"
    assert unbind["args"]["error"] == "refused"
    assert bind["ts"] <= inside["ts"]
    assert inside["ts"] + inside["dur"] <= bind["ts"] + bind["dur"]
    assert {event["ph"] for event in (inside, bind)} == {"X"}
    assert len({(event["pid"], event["tid"]) for event in (inside, bind, unbind)}) == 1


def test_processes_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SPAN],
            env={"PYTHONPATH": ROOT, "IB_SRIOV_TRACE": str(path)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(4)
    ]
    assert [process.wait() for process in processes] == [0] * 4
    events = read(path)
    assert len(events) == 12
    assert {event["pid"] for event in events} == {process.pid for process in processes}


@pytest.mark.parametrize("path", ["/nowhere/trace.json", "/dev/full"])
def test_a_file_that_cannot_be_written_hurts_nobody(path: str) -> None:
    assert run(SPAN, IB_SRIOV_TRACE=path) == "True"


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    path, target = tmp_path / "trace.json", tmp_path / "target"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(target)
    else:
        path.mkdir()
    assert run(SPAN, IB_SRIOV_TRACE=str(path)) == "True"
    assert not target.exists()


def test_facts_have_a_bounded_length(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    run(SPAN.replace('vf="0000:3b:00.2"', 'vf="x" * 1000000'), IB_SRIOV_TRACE=str(path))
    assert [len(event["args"].get("vf", "")) for event in read(path)] == [0, 2_048, 0]


def test_an_invocation_tells_its_whole_and_its_modules(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    conf = {"cniVersion": "1.0.0", "name": "ib", "type": "ib-sriov", "stateDir": str(tmp_path), "logFile": "/dev/null"}
    environ = {
        "CNI_COMMAND": "DEL",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "",
        "CNI_IFNAME": "net1",
        "CNI_PATH": "/nowhere",
        "IB_SRIOV_TRACE": str(path),
        "PYTHONPATH": ROOT,
    }
    command = [sys.executable, "-m", "ib_sriov_cni"]
    subprocess.run(command, input=json.dumps(conf).encode(), env=environ, cwd=tmp_path, check=True)
    start, named, whole = read(path)
    assert start["name"] == "start"
    assert start["ts"] + start["dur"] <= whole["ts"] + whole["dur"]
    assert named["args"]["name"] == "DEL net1 c1"
    assert whole["name"] == "DEL"
    assert "ib_sriov_cni.attach.release" in whole["args"]["modules"]
    assert whole["args"]["cpu_ms"] > 0
