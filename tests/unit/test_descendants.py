"""ib_sriov_cni.delegation.descendants: finding child processes in /proc, and ending them without it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ib_sriov_cni.delegation.descendants import Descendants, read_children


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


def test_children_are_those_that_the_kernel_names(other: subprocess.Popen[bytes]) -> None:
    assert other.pid in read_children()
    other.kill()
    other.wait()
    assert other.pid not in read_children()


def make_proc(folder: Path, own: int, parents: dict[int, int]) -> str:
    """A /proc of a kernel without CONFIG_PROC_CHILDREN, with these processes and their parents."""
    (folder / str(own) / "task" / str(own)).mkdir(parents=True)
    for pid, parent in parents.items():
        (folder / str(pid)).mkdir(exist_ok=True)
        (folder / str(pid) / "stat").write_text(f"{pid} (a (b) c) S {parent} 1 1 0 -1")
    (folder / "self").symlink_to(str(own))
    (folder / "uptime").write_text("1 1")
    (folder / "31").mkdir()  # a process that has just ended
    return str(folder)


def test_without_a_list_of_children_all_processes_are_asked_for_their_parent(tmp_path: Path) -> None:
    own = os.getpid()
    proc = make_proc(tmp_path, own, {own: 1, 30: own, 32: 30, 33: own})
    assert read_children(proc) == {30, 33}


def test_the_numbers_of_another_pid_namespace_are_not_used(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="another PID namespace"):
        read_children(make_proc(tmp_path, os.getpid() + 1, {}))


def test_without_proc_the_process_group_ends(tmp_path: Path) -> None:
    descendants = Descendants(str(tmp_path / "absent"))
    script = "sleep 1000 & echo $!; wait"
    plugin = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert plugin.stdout is not None
    child = int(plugin.stdout.readline())
    watched = os.pidfd_open(child)
    descendants.end(plugin.pid)
    assert not os.path.exists(f"/proc/{plugin.pid}")
    # The pidfd becomes readable when the process has ended, no matter who reaps it.
    from select import POLLIN, poll

    waiter = poll()
    waiter.register(watched, POLLIN)
    assert waiter.poll(10_000)
    os.close(watched)
    plugin.stdout.close()
    plugin.wait()
