"""Folders of the fuzzing: the only one that may be written to, and that of the locks, which is fixed in the plugin."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Iterator

import pytest

from tests.fuzz.budget import TALLY
from tests.fuzz.calls import LOCKS

CLONE_NEWNS = 0x00020000  # include/uapi/linux/sched.h


@pytest.fixture(scope="session", autouse=True)
def own_locks() -> Iterator[None]:
    """Mount an empty folder for the locks, in this process only. Without root the machine's cannot be written."""
    libc = ctypes.CDLL(None, use_errno=True)
    before, folder = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC), os.getcwd()
    if os.geteuid() != 0 or libc.unshare(CLONE_NEWNS) != 0:
        os.close(before)
        yield
        return
    there = os.path.isdir(LOCKS)
    os.makedirs(LOCKS, mode=0o700, exist_ok=True)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0700", "tmpfs", LOCKS], check=True)
    yield
    assert libc.setns(before, CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
    os.close(before)
    os.chdir(folder)  # setns(2) changed it
    if not there:
        os.rmdir(LOCKS)


@pytest.fixture(scope="module")
def place() -> Iterator[str]:
    """The only folder that may be written to, apart from the locks; the working directory is in it."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(f"{folder}/working-directory")
        os.chdir(f"{folder}/working-directory")
        yield folder
        assert os.listdir(f"{folder}/working-directory") == [], "a relative path was written to"
        os.chdir(before)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TALLY.calls:
        terminalreporter.write_line(TALLY.render())
