"""The lock on the leases: shared with Go, with a timeout, and the error names who holds it (C21, H5)."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # no stubs
import fcntl
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.ipam.calls import ask, leases

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def conf(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "net").mkdir()
    ipam = {"dataDir": str(tmp_path), "subnet": "10.0.0.0/24"}
    return {"cniVersion": "1.1.0", "name": "net", "lockTimeout": 0.2, "ipam": ipam}


@pytest.fixture
def holder(tmp_path: Path, conf: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until its standard input ends."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "net" / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK"])
def test_c21_the_wait_is_bounded_and_names_the_holder(
    command: str, holder: subprocess.Popen[str], conf: dict[str, Any], tmp_path: Path
) -> None:
    answer = ask(command, conf)
    assert (answer.status, answer.code) == (1, 11)
    assert f"pid {holder.pid} (python" in answer.msg
    assert str(tmp_path / "net") in answer.msg
    assert leases(str(tmp_path / "net")) == {}


def test_c21_without_patience(holder: subprocess.Popen[str], conf: dict[str, Any]) -> None:
    assert ask("ADD", conf | {"lockTimeout": 0}).code == 11


@pytest.mark.parametrize("in_thread", [False, True])
def test_the_lock_is_taken_when_it_comes_free(
    holder: subprocess.Popen[str], conf: dict[str, Any], *, in_thread: bool
) -> None:
    conf["lockTimeout"] = 60
    assert holder.stdin is not None
    ips: list[str] = []
    if in_thread:  # where no signal can interrupt a wait
        thread = threading.Thread(target=lambda: ips.extend(ask("ADD", conf).ips))
        thread.start()
        holder.stdin.close()
        thread.join()
    else:
        timer = threading.Timer(0.05, holder.stdin.close)
        timer.start()
        ips += ask("ADD", conf).ips
        timer.join()
    assert ips == ["10.0.0.2/24"]


def test_alarms_of_the_caller_survive(holder: subprocess.Popen[str], conf: dict[str, Any]) -> None:
    def handler(_signal_number: int, _frame: object) -> None:
        raise AssertionError

    before = _signal.signal(_signal.SIGALRM, handler)
    _signal.setitimer(_signal.ITIMER_REAL, 1000, 7)
    try:
        assert ask("ADD", conf).code == 11
        assert _signal.getsignal(_signal.SIGALRM) is handler
        left, interval = _signal.getitimer(_signal.ITIMER_REAL)
        assert 0 < left <= 1000
        assert interval == 7
    finally:
        _signal.setitimer(_signal.ITIMER_REAL, 0)
        _signal.signal(_signal.SIGALRM, before)


def test_h5_a_lock_removed_while_waiting_is_not_the_lock(conf: dict[str, Any], tmp_path: Path) -> None:
    """A lock on a removed file would lock out nobody: the file that exists after the wait is locked instead."""
    path = tmp_path / "net" / "lock"
    with path.open("w") as old:
        fcntl.flock(old, fcntl.LOCK_EX)
        conf["lockTimeout"] = 60
        ips: list[str] = []
        thread = threading.Thread(target=lambda: ips.extend(ask("ADD", conf).ips))
        thread.start()
        path.unlink()
    thread.join()
    assert ips == ["10.0.0.2/24"]
    assert os.stat(path).st_nlink == 1


def test_no_descriptor_is_left_open(conf: dict[str, Any], holder: subprocess.Popen[str], tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    ask("ADD", conf)
    other = {**conf, "name": "other"}
    for command in ("ADD", "ADD", "CHECK", "STATUS", "DEL"):
        ask(command, other)
    assert os.listdir("/proc/self/fd") == before
