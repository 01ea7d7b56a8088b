"""Small tools of the tests in the guest: commands, sysfs files, awaited conditions."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class CommandFailed(AssertionError):
    """A command that had to succeed did not."""


def run(
    command: str | Sequence[str], *, netns: str | None = None, check: bool = True, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a shell line or an argument list, in a network namespace if one is named (with its own sysfs)."""
    argv = ["bash", "-c", command] if isinstance(command, str) else list(command)
    if netns is not None:
        argv = ["ip", "netns", "exec", netns, *argv]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False)
    if check and done.returncode:
        where = f" (in {netns})" if netns else ""
        raise CommandFailed(f"{command}{where}: status {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done


def output(command: str | Sequence[str], *, netns: str | None = None, timeout: float = 60) -> str:
    """What a command that must succeed prints on stdout."""
    return run(command, netns=netns, timeout=timeout).stdout.strip()


def complaint(command: str | Sequence[str], *, netns: str | None = None) -> str:
    """What a command says when it fails; "" if it succeeds."""
    done = run(command, netns=netns, check=False)
    return (done.stderr or done.stdout).strip() or f"status {done.returncode}" if done.returncode else ""


def read_json(command: str | Sequence[str], *, netns: str | None = None) -> Any:
    return json.loads(output(command, netns=netns) or "[]")


def read(path: str | Path) -> str:
    return Path(path).read_text().strip()


def write(path: str | Path, value: object) -> str:
    """Write to a sysfs file in one write; "OK" or the errno's name."""
    try:
        fd = os.open(path, os.O_WRONLY)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    try:
        os.write(fd, str(value).encode())
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    finally:
        os.close(fd)
    return "OK"


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Mount a tmpfs on a folder, which is made if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)])
    try:
        yield
    finally:
        run(["umount", str(folder)])


def names(folder: str | Path) -> list[str]:
    """The sorted entries of a folder; none if it is not there."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def wait(condition: Callable[[], T], timeout: float = 20, step: float = 0.02) -> T:
    """Repeat until the condition holds; its last value, true or not (assert it)."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value or time.monotonic() > end:
            return value
        time.sleep(step)


def link(netdev: str, netns: str | None = None) -> dict[str, Any]:
    """One netdev with its addresses, as iproute2 prints it."""
    at = ["ip", "-n", netns] if netns else ["ip"]
    found: list[dict[str, Any]] = read_json([*at, "-j", "-d", "addr", "show", "dev", netdev])
    return found[0]


def links(netns: str | None = None) -> list[dict[str, Any]]:
    at = ["ip", "-n", netns] if netns else ["ip"]
    found: list[dict[str, Any]] = read_json([*at, "-j", "-d", "addr", "show"])
    return found


def has_carrier(netdev: str, netns: str | None = None) -> bool:
    return "LOWER_UP" in link(netdev, netns)["flags"]


def rdma_names(netns: str | None = None) -> list[str]:
    """The RDMA devices that a network namespace sees."""
    return sorted(device["ifname"] for device in read_json(["rdma", "-j", "dev"], netns=netns))


def listens(port: int, netns: str | None = None) -> bool:
    """Whether somebody listens on a TCP port; sockets in TIME_WAIT have the same address and another state."""
    table = output(["cat", "/proc/net/tcp", "/proc/net/tcp6"], netns=netns)
    rows = [line.split() for line in table.splitlines()]
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


def received(ping: str) -> int:
    """How many answers a ping had, by its summary: iputils says "3 received", busybox "3 packets received"."""
    for part in ping.split(","):
        words = part.split()
        if words and words[-1] == "received":
            return int(words[0])
    return 0


def kernel_log() -> str:
    return output("dmesg")
