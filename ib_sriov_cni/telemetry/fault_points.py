"""Fault points: places where a test can kill, stop or fail an invocation.

IB_SRIOV_TRACE_POINT=<step>=kill, <step>=stop or <step>=fail injects the fault before a step of the log,
<step>.done=... after it. Only tests set it.
"""

from __future__ import annotations

import os

from ib_sriov_cni.telemetry import FAULT_POINT
from ipam.protocol.errors import CniError


def inject_fault(name: str) -> None:
    """Inject the fault that the environment requests at this point, once. Raises CniError (100) for `fail`."""
    wanted = os.environ.get(FAULT_POINT)
    if not wanted:
        return
    place, _, action = wanted.partition("=")
    if place != name:
        return
    # Only once: undoing the step may run the same step again.
    os.environ.pop(FAULT_POINT)
    if action in {"kill", "stop"}:
        os.kill(os.getpid(), 9 if action == "kill" else 19)  # SIGKILL, SIGSTOP
    else:
        raise CniError(f"fault injected at {name}", f"{FAULT_POINT} is set")
