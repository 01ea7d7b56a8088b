"""ib_sriov_cni.state.locks: one holder, a bounded wait that names it (C21)."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ib_sriov_cni.core.errors import StateFailure, TryAgainLater
from ib_sriov_cni.state.locks import Locks

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
VF = "0000:3b:00.2"

HOLDER = """
import sys
from ib_sriov_cni.state.locks import Locks
with Locks(sys.argv[1]).take(sys.argv[2], "other net7", 60):
    print("holds", flush=True)
    sys.stdin.readline()
print("let go", flush=True)
sys.stdin.readline()
"""


class Holder:
    """Another process that holds the lock."""

    def __init__(self, folder: Path, vf: str = VF) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder), vf],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "holds\n"

    def let_go(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "let go\n"

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Holder]:
    holder = Holder(tmp_path / "locks")
    yield holder
    holder.end()


@pytest.fixture
def locks(tmp_path: Path) -> Locks:
    return Locks(str(tmp_path / "locks"))


def refusal(locks: Locks, seconds: float = 0.0) -> TryAgainLater:
    with pytest.raises(TryAgainLater) as caught:
        locks.take(VF, "ours net1", seconds)
    assert caught.value.code == 11
    return caught.value


def test_c21_who_holds_it_is_named(locks: Locks, holder: Holder) -> None:
    fault = refusal(locks)
    words = rf"lock VF {VF}: still held after 0 s by process {holder.process.pid} \(container other, net7, for \d+ s\)"
    assert re.fullmatch(words, fault.msg)
    assert "stuck" in fault.details


def test_c21_a_stopped_holder_is_named_too(locks: Locks, holder: Holder) -> None:
    os.kill(holder.process.pid, 19)
    assert f"process {holder.process.pid} " in refusal(locks, 0.05).msg


def test_a_dead_holder_is_free_at_once(locks: Locks, holder: Holder) -> None:
    holder.end()
    with locks.take(VF, "ours net1", 0.0):
        pass


def test_a_holder_that_lets_go_while_we_wait(locks: Locks, holder: Holder) -> None:
    refusal(locks)
    holder.let_go()
    with locks.take(VF, "ours net1", 0.0):
        pass


def test_a_wait_ends_with_the_holder(locks: Locks, holder: Holder) -> None:
    assert holder.process.stdin is not None
    holder.process.stdin.write("\n")
    holder.process.stdin.flush()
    with locks.take(VF, "ours net1", 60.0):
        pass


def test_another_vf_is_free(locks: Locks, holder: Holder) -> None:
    with locks.take("0000:3b:00.3", "ours net1", 0.0):
        pass


def test_two_locks_of_one_process_exclude_each_other(locks: Locks) -> None:
    with locks.take(VF, "first net1", 0.0):
        assert "container first, net1" in refusal(locks).msg
    with locks.take(VF, "second net1", 0.0):
        pass


def test_a_fault_lets_go(locks: Locks) -> None:
    with pytest.raises(ZeroDivisionError), locks.take(VF, "ours net1", 0.0):
        raise ZeroDivisionError
    with locks.take(VF, "ours net1", 0.0):
        pass


def test_the_content_is_the_last_holders(locks: Locks, tmp_path: Path) -> None:
    path = tmp_path / "locks" / f"{VF}.lock"
    with locks.take(VF, "a-very-long-container-id net1", 0.0):
        pass
    with locks.take(VF, "c net1", 0.0):
        assert re.fullmatch(rf"{os.getpid()} c net1 \d+\n", path.read_text())
    assert path.exists(), "removing it would let two processes lock two files of one name"


def test_who_took_it_last(locks: Locks, tmp_path: Path) -> None:
    assert not locks.was_last_taken_by(VF, "c net1")
    with locks.take(VF, "c net1", 0.0):
        assert locks.was_last_taken_by(VF, "c net1")
    assert locks.was_last_taken_by(VF, "c net1")
    for other in ("c net2", "d net1", "", "c"):
        assert not locks.was_last_taken_by(VF, other)
    (tmp_path / "locks" / f"{VF}.lock").write_bytes(b"")
    assert not locks.was_last_taken_by(VF, "c net1")


# ---- the node's lock of rebinds

REBINDER = """
import sys
from ib_sriov_cni.state.locks import Locks
with Locks(sys.argv[1]).take_for_rebind(sys.argv[2], float(sys.argv[3])):
    print("has it", flush=True)
    sys.stdin.readline()
"""


def rebinder(folder: Path, holder: str, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", REBINDER, str(folder), holder, str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_who_rebinds_is_named(locks: Locks, tmp_path: Path) -> None:
    process = rebinder(tmp_path / "locks", "other net7", 0)
    assert process.stdout is not None
    assert process.stdout.readline() == "has it\n"
    os.kill(process.pid, signal.SIGSTOP)
    for seconds in (0, 0.1):
        with pytest.raises(TryAgainLater) as caught:
            locks.take_for_rebind("ours net1", seconds)
        words = rf"still held after {seconds:g} s by process {process.pid} \(container other, net7, for \d+ s\)"
        assert re.search(words, caught.value.msg)
        assert "nothing was unbound" in caught.value.details
    process.kill()
    process.communicate()
    with locks.take_for_rebind("ours net1", 0):
        pass


def test_a_queue_that_moves_is_waited_for(locks: Locks, tmp_path: Path) -> None:
    """The time limit counts from the last change of the holder, whom the file's content names."""
    file = tmp_path / "locks" / "rebind.lock"
    with locks.take_for_rebind("first net1", 0):
        waiting = rebinder(tmp_path / "locks", "ours net1", 3)
        for turn in range(10):  # longer than its limit in all
            file.write_text(f"{turn} other net1 1\n")
            with pytest.raises(subprocess.TimeoutExpired):
                waiting.wait(0.4)
    assert waiting.communicate("\n")[0] == "has it\n"


def test_the_lock_of_rebinds_is_not_a_vfs(locks: Locks, tmp_path: Path) -> None:
    with locks.take(VF, "ours net1", 0), locks.take_for_rebind("ours net1", 0):
        assert sorted(os.listdir(tmp_path / "locks")) == [f"{VF}.lock", "rebind.lock"]
        assert (tmp_path / "locks/rebind.lock").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mask", [0, 0o077])
def test_modes(locks: Locks, tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with locks.take(VF, "c net1", 0.0):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "locks").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "locks" / f"{VF}.lock").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"1 2 3", b"a b c d", b"\xff\0", b"1 c i x\n", b"x" * 9000])
def test_a_holder_that_left_no_name(locks: Locks, tmp_path: Path, content: bytes) -> None:
    with locks.take(VF, "c net1", 0.0):
        (tmp_path / "locks" / f"{VF}.lock").write_bytes(content)
        assert refusal(locks).msg.endswith("by an unknown process")


def test_a_planted_link_is_not_followed(locks: Locks, tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "locks" / f"{VF}.lock").symlink_to(victim)
    with pytest.raises(StateFailure, match=r"open lock .*: Too many levels of symbolic links"):
        locks.take(VF, "c net1", 0.0)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("kind", ["pipe", "pipe with a writer", "link", "folder", "socket"])
def test_what_is_no_lock_is_said(locks: Locks, tmp_path: Path, kind: str) -> None:
    """It fails without waiting, and the message says what to do."""
    path = tmp_path / "locks" / f"{VF}.lock"
    path.parent.mkdir()
    ends = []
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    else:
        os.mkfifo(path)
        ends = [os.open(path, os.O_RDWR | os.O_NONBLOCK)] if "writer" in kind else []
    for ask in (lambda: locks.take(VF, "c net1", 60), lambda: locks.read_holder(VF)):
        with pytest.raises(StateFailure, match=f"open lock {path}: ") as caught:
            ask()
        assert caught.value.details == f"something else is in the place of the lock file: remove {path}"
    assert not locks.was_last_taken_by(VF, "c net1")
    assert not (tmp_path / "elsewhere").exists()
    for end in ends:
        os.close(end)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateFailure, match=r"open lock .*: Not a directory") as caught:
        Locks(str(tmp_path / "file/locks")).take(VF, "c net1", 0.0)
    assert caught.value.code == 106


def test_no_lock_is_inherited_by_a_program(locks: Locks) -> None:
    with locks.take(VF, "c net1", 0.0):
        code = "print('runs', flush=True); input()"
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"runs\n"
    try:
        with locks.take(VF, "c net1", 0.0):
            pass
    finally:
        child.communicate(b"\n")
