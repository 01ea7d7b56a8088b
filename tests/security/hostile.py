"""A hostile process: an ordinary user in its own namespaces, where it has every capability."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

UID = 1000
# How the process enters its namespaces; then it prints "ready" and waits for its standard input to end.
ENTER = """
import os, subprocess, sys
os.setgid({uid}); os.setuid({uid})
# The maps are written by the process outside: an ordinary user may map itself alone.
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: else /proc/self is root's after setuid
if libc.unshare({flags}):
    raise OSError(ctypes.get_errno(), "unshare")
for name, text in (("setgroups", "deny"), ("uid_map", "0 {uid} 1"), ("gid_map", "0 {uid} 1")):
    with open("/proc/self/" + name, "w") as file:
        file.write(text)
"""
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000
READY = "print('ready', flush=True)\n"


class Hostile:
    """A running hostile process; `with` ends it. `path` is the path of its network namespace.

    `setup` runs before it prints "ready", `act` afterwards, until it returns or the process is ended.
    """

    def __init__(self, act: str = "", *, setup: str = "", arguments: Sequence[str] = ()) -> None:
        code = ENTER.format(uid=UID, flags=CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS) + setup + "\n" + READY + act
        code += "\nsys.stdin.read()\n"
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            _, said = self.process.communicate()
            raise RuntimeError(f"the hostile process did not start: {said}")
        self.path = f"/proc/{self.process.pid}/ns/net"

    def run(self, *command: str) -> str:
        """Run a command in its namespaces, with its privileges; return what it printed."""
        enter = ["nsenter", "-t", str(self.process.pid), "-U", "--preserve-credentials", "-n", "-m", *command]
        return subprocess.run(enter, check=True, capture_output=True, text=True).stdout

    def end(self) -> None:
        """Kill the process and wait for it."""
        self.process.kill()
        self.process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _fault: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.end()


def own_ip() -> str:
    """Path of iproute2's `ip`, which hostile processes use too."""
    found = next((path for path in ("/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip") if os.access(path, os.X_OK)), "")
    assert found
    return found
