"""A network of its own for machines: a namespace with a bridge and a tap for each of them. Nothing leads out of it."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from tests.lab.commands import run

T = TypeVar("T")
PREFIX = "10.77.0"
HOST = f"{PREFIX}.1"
NAMESPACES = Path("/run/netns")
NAME = re.compile(r"ibc(\d+)")  # of the process that made it
CLONE_NEWNET = 0x40000000  # os has it from Python 3.12 on


def address(number: int) -> str:
    """The address of a machine; machines count from 1."""
    return f"{PREFIX}.{10 + number}"


def remove(name: str) -> None:
    """End a namespace, with the processes in it."""
    for pid in run(["ip", "netns", "pids", name], check=False).stdout.split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    run(["ip", "netns", "del", name], check=False)


def remove_leftovers() -> None:
    """What runs left behind that were killed: machines, a control plane."""
    for path in NAMESPACES.glob("ibc*"):
        found = NAME.fullmatch(path.name)
        if found and not os.path.exists(f"/proc/{found[1]}"):
            remove(path.name)


class Segment:
    """Made at once; `end` removes it."""

    def __init__(self, machines: int) -> None:
        remove_leftovers()
        self.name = f"ibc{os.getpid()}"
        run(["ip", "netns", "add", self.name])
        for line in (
            "link set lo up",
            "link add br0 type bridge",
            f"addr add {HOST}/24 dev br0",
            "link set br0 up",
            *(f"tuntap add dev tap{number} mode tap" for number in range(1, machines + 1)),
            *(f"link set tap{number} master br0 up" for number in range(1, machines + 1)),
        ):
            self.ip(line)

    def ip(self, line: str) -> None:
        run(["ip", "-n", self.name, *line.split()])

    def command(self, words: Sequence[str]) -> list[str]:
        """A command of the host as it runs in this namespace."""
        return ["ip", "netns", "exec", self.name, *words]

    def inside(self, function: Callable[[], T]) -> T:
        """Call a function in this namespace: in a thread, which ends with it."""

        def enter() -> T:
            namespace = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            finally:
                os.close(namespace)
            return function()

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(enter).result()

    def connect(self, machine: int, port: int, timeout: float) -> socket.socket:
        """A connection to a port of a machine."""
        return self.inside(lambda: socket.create_connection((address(machine), port), timeout))

    def end(self) -> None:
        remove(self.name)
