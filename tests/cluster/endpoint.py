"""The host's end of guest/verbs.py: queue pairs of two machines, step by step."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.cluster.machine import GONE, PROJECT, Machine
from tests.lab.commands import wait

HEADER = 40  # of a datagram, before its data

_ports = itertools.count(20000)


class EndpointFailed(AssertionError):
    """A step failed in the machine; the words are its own."""


class Endpoint:
    """Calls of guest.verbs.Endpoint."""

    def __init__(self, machine: Machine, device: str) -> None:
        port = next(_ports)
        self.machine = machine
        machine.run(
            f"cd {PROJECT}; exec setsid /usr/bin/python3 -m tests.cluster.guest.verbs {device} {port} "
            f">/run/verbs-{port}.log 2>&1 </dev/null &"
        )

        def connected() -> bool:
            try:
                self._socket = machine.segment.connect(machine.number, port, 10)
            except GONE:
                return False
            return True

        assert wait(connected, 60, 0.2), machine.run(f"cat /run/verbs-{port}.log").stdout
        self._socket.settimeout(120)
        self._stream = self._socket.makefile("rw", encoding="utf-8")

    def call(self, method: str, **arguments: Any) -> Any:
        self._stream.write(json.dumps([method, arguments]) + "\n")
        self._stream.flush()
        answer = self._stream.readline()
        if not answer:
            raise EndpointFailed(f"{self.machine.name}: {method}: no answer")
        good, value = json.loads(answer)
        if not good:
            raise EndpointFailed(f"{self.machine.name}: {method}: {value}")
        return value

    def completions(self, count: int = 1, *, timeout: float = 60) -> list[str]:
        found: list[str] = self.call("completions", count=count, timeout=timeout)
        return found

    def close(self) -> None:
        self._stream.close()
        self._socket.close()


@contextmanager
def endpoints(*places: tuple[Machine, str]) -> Iterator[list[Endpoint]]:
    """An endpoint on each machine's device."""
    made = [Endpoint(machine, device) for machine, device in places]
    try:
        yield made
    finally:
        for each in made:
            each.close()


def join(one: Endpoint, two: Endpoint, *, kind: str = "RC", **how: Any) -> None:
    """Connect new queue pairs of two endpoints to each other."""
    ends = [each.call("make", kind=kind) for each in (one, two)]
    two.call("connect", far=ends[0], **how)
    one.call("connect", far=ends[1], **how)
