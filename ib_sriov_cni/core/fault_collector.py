"""Clean-up steps: each one is tried, even if others failed (C14). No I/O of its own."""

from __future__ import annotations

from ib_sriov_cni.core.errors import CniError, InternalFault
from ipam.protocol.bounds import join_faults

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class FaultCollector:
    """Runs steps one after the other and collects their faults."""

    def __init__(self) -> None:
        """Start without a fault."""
        self.faults: list[CniError] = []

    def attempt(self, step: Callable[..., object], *arguments: object) -> bool:
        """Call `step` and return whether it succeeded. An exception that is not a CniError becomes InternalFault."""
        try:
            step(*arguments)
        except CniError as fault:
            self.faults.append(fault)
        except Exception as fault:  # noqa: BLE001  # the remaining steps must run
            self.faults.append(InternalFault(f"{type(fault).__name__}: {fault}"))
        else:
            return True
        return False

    def raise_faults(self) -> None:
        """Raise the only fault; of several, one error with the first one's code and their messages."""
        if not self.faults:
            return
        first = self.faults[0]
        if len(self.faults) == 1:
            raise first
        combined = CniError(join_faults([fault.msg for fault in self.faults]), first.details)
        combined.code = first.code
        raise combined
