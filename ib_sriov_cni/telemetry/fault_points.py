"""Fault points: places where a test can make an invocation die, stop or fail.

IB_SRIOV_TRACE_POINT=<step>=kill, <step>=stop or <step>=fail strikes before a step of the log, and <step>.done=... after
it. Only tests set it.
"""

from __future__ import annotations

import os

from ib_sriov_cni.telemetry import FAULT_POINT
from ipam.protocol.errors import CniError


def strike(name: str) -> None:
    """Do what the environment asks for at this point, once. Raises CniError (100) for `fail`."""
    wanted = os.environ.get(FAULT_POINT)
    if not wanted:
        return
    place, _, action = wanted.partition("=")
    if place != name:
        return
    # Once: what undoes the step may take the same one again.
    os.environ.pop(FAULT_POINT)
    if action in {"kill", "stop"}:
        os.kill(os.getpid(), 9 if action == "kill" else 19)
    else:
        raise CniError(f"fault injected at {name}", f"{FAULT_POINT} is set")
