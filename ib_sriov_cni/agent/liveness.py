"""Decide whether an attachment is over. The agent acts unasked, so it wants more than attach/liveness.py proves.

It also takes the word of the runtime, which lists the pods that exist, and it spares a pod that has lost its VF.
"""

from __future__ import annotations

from dataclasses import dataclass

from ib_sriov_cni.attach import liveness
from ib_sriov_cni.attach.host import Host
from ib_sriov_cni.attach.liveness import DEAD, HIDDEN, LIVE, LOST
from ib_sriov_cni.core.record import Record
from ib_sriov_cni.kernel.processes import Processes

ADDING = "adding"

# Seconds. A runtime lists a pod only after all of its networks are up, so not being listed must last this long.
UNKNOWN_GRACE = 300.0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """LIVE, ADDING, HIDDEN or DEAD, the reason, and how long it must last before the agent acts (seconds, at least)."""

    state: str
    why: str = ""
    grace: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Witness:
    """Further evidence on whether pods are alive."""

    processes: Processes
    pods: frozenset[str] | None = None  # IDs of the sandboxes that the runtime lists; None: not asked, or no answer


def judge(host: Host, record: Record, witness: Witness, *, locked: bool = False) -> Verdict:
    """Return whether an attachment is alive. `locked`: the caller holds the VF's lock, so no ADD is running.

    Raises StateFailure (106) if the lock cannot be read.
    """
    found = liveness.judge(host, record, witness.processes)
    if found.state == DEAD:
        if host.is_from_earlier_boot(record):
            return Verdict(state=DEAD, why="the node has been rebooted since")
        if not record.committed:
            running = not locked and host.locks.read_holder(record.pci)
            return Verdict(state=ADDING, why="its ADD is running") if running else Verdict(state=DEAD, why=found.why)
        if witness.processes.has(record.netns_cookie):
            where = record.netns_path or "its path"
            return Verdict(state=HIDDEN, why=f"a process runs in its namespace, which is not at {where}")
    if found.state not in (LIVE, LOST):
        return Verdict(state=found.state, why=found.why)
    # The CRI runtime need not know attachments without a pod name (podman, or made by hand).
    unknown = witness.pods is not None and record.pod and record.key.container_id not in witness.pods
    if unknown and witness.processes.has(record.netns_cookie) is False:
        why = "the runtime does not list its container, and no process is in its namespace"
        return Verdict(state=DEAD, why=why, grace=UNKNOWN_GRACE)
    return Verdict(state=LIVE)
