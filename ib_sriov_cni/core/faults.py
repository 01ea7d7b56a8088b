"""Steps that undo: each is tried, whatever became of the others (C14). No I/O of its own."""

from __future__ import annotations

from ib_sriov_cni.core.errors import CniError, InternalFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class FaultCollector:
    """Runs steps one after the other and keeps their faults."""

    def __init__(self) -> None:
        """Nothing went wrong yet."""
        self.faults: list[CniError] = []

    def attempt(self, step: Callable[..., object], *arguments: object) -> bool:
        """Call `step` with the arguments; True if it raised nothing. A defect is kept as an InternalFault."""
        try:
            step(*arguments)
        except CniError as fault:
            self.faults.append(fault)
        except Exception as fault:  # noqa: BLE001  # the steps after it still have to run
            self.faults.append(InternalFault(f"{type(fault).__name__}: {fault}"))
        else:
            return True
        return False

    def raise_faults(self) -> None:
        """Raise the one fault, or one of the first's class that names them all."""
        if not self.faults:
            return
        first = self.faults[0]
        if len(self.faults) == 1:
            raise first
        combined = CniError("; ".join([fault.msg for fault in self.faults]), first.details)
        combined.code = first.code
        raise combined
