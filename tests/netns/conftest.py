"""Real network namespaces, with veth pairs in place of IPoIB netdevs, which need an HCA."""

from __future__ import annotations

import itertools
import json
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ib_sriov_cni.kernel.netns import Inside, Netns, open_netns
from ib_sriov_cni.kernel.rtnetlink import Rtnl

NUMBERS = itertools.count()


def ip(*arguments: str, netns: str = "") -> Any:
    """Run iproute2, for an independent view, and return its JSON output parsed."""
    place = ["-n", netns] if netns else []
    done = subprocess.run(["ip", "-j", *place, *arguments], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout) if done.stdout.strip() else None


@contextmanager
def few_descriptors(number: int) -> Iterator[None]:
    """Limit the process to `number` more open files."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + number, limits[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


class Sandbox:
    """A named network namespace."""

    def __init__(self) -> None:
        self.name = f"ibt-{os.getpid()}-{next(NUMBERS)}"
        self.path = f"/run/netns/{self.name}"
        ip("netns", "add", self.name)

    def open(self) -> Netns:
        return open_netns(self.path)

    def rtnl(self) -> Rtnl:
        with self.open() as netns, Inside(netns):
            return Rtnl()

    def ip(self, *arguments: str) -> Any:
        return ip(*arguments, netns=self.name)

    def add_link(self, name: str, *, up: bool = True) -> str:
        """Add a veth whose peer is up; return the peer's name."""
        peer = f"p{next(NUMBERS)}"
        self.ip("link", "add", name, "type", "veth", "peer", "name", peer)
        self.ip("link", "set", peer, "up")
        if up:
            self.ip("link", "set", name, "up")
        return peer

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=False, stderr=subprocess.DEVNULL)


@pytest.fixture
def new_sandbox() -> Iterator[Callable[[], Sandbox]]:
    made: list[Sandbox] = []

    def new() -> Sandbox:
        made.append(Sandbox())
        return made[-1]

    yield new
    for sandbox in made:
        sandbox.remove()


@pytest.fixture
def sandbox(new_sandbox: Callable[[], Sandbox]) -> Sandbox:
    return new_sandbox()


@pytest.fixture
def pod(sandbox: Sandbox) -> Iterator[Rtnl]:
    """Rtnetlink in the sandbox."""
    rtnl = sandbox.rtnl()
    yield rtnl
    rtnl.close()
