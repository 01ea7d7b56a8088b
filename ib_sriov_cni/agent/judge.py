"""Does an attachment still serve a pod? The agent acts unasked: it believes in a death only when the kernel shows it.

A namespace that cannot be found at its path may be dead, or the agent may not see it: a container without the host's
/run/netns, a path in another mount namespace. The kernel knows: what a namespace held comes home when it dies, so a VF
that is not at home is in a living one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ib_sriov_cni.attach.host import Host
from ib_sriov_cni.attach.pod_namespace import open_sandbox
from ib_sriov_cni.core.record import Record
from ib_sriov_cni.core.values import PASS_THROUGH_DRIVERS
from ib_sriov_cni.kernel.netns import try_open_netns

LIVE, ADDING, DEAD, HIDDEN = "live", "adding", "dead", "hidden"
INIT_PIDS = "pid:[4026531836]"  # the first PID namespace, PROC_PID_INIT_INO of include/linux/proc_ns.h


# Seconds for which a runtime must not have known a container: it names a pod only when all its networks are up.
UNKNOWN_GRACE = 300.0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One of the four states, why in words, and for how long it has to last at least before it is believed."""

    state: str
    why: str = ""
    grace: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Witness:
    """Who else can say whether a pod lives."""

    processes: Processes
    pods: frozenset[str] | None = None  # the sandboxes that the runtime knows; None: it was not asked, or did not say


class Processes:
    """Which network namespaces have a process, by the kernel's cookie; read once, when first asked."""

    def __init__(self, proc_root: str = "/proc") -> None:
        """Nothing is read yet."""
        self._proc = proc_root
        self._cookies: set[int] | None = None
        self._whole = False

    def has(self, cookie: int) -> bool | None:
        """Whether a process lives in that namespace; None if not every process of the node can be seen."""
        if self._cookies is None:
            self._cookies, self._whole = self._read()
        if cookie and cookie in self._cookies:
            return True
        return False if cookie and self._whole else None

    def _read(self) -> tuple[set[int], bool]:
        whole = _link(f"{self._proc}/self/ns/pid") == INIT_PIDS
        seen: set[str] = set()
        cookies: set[int] = set()
        for name in os.listdir(self._proc):
            if not name.isdigit():
                continue
            path = f"{self._proc}/{name}/ns/net"
            try:
                namespace = os.readlink(path)
            except PermissionError:
                whole = False
                continue
            except OSError:
                continue  # ended, or a thread of the kernel
            if namespace in seen:
                continue
            netns = try_open_netns(path)
            if netns is None:
                continue  # ended: another process of that namespace will do
            seen.add(namespace)
            with netns:
                cookies.add(netns.cookie())
        return cookies, whole


def judge(host: Host, record: Record, witness: Witness, *, locked: bool = False) -> Verdict:
    """Tell whether an attachment lives. `locked`: the caller holds its VF's lock, so no ADD is on its way.

    Raises StateFailure (106) if the lock cannot be seen, KernelRefused (102) without the right to enter namespaces.
    """
    if record.boot_id != host.read_boot_id():
        return Verdict(state=DEAD, why="the node was rebooted since")
    if not record.committed:
        if not locked and host.locks.read_holder(record.pci):
            return Verdict(state=ADDING, why="its ADD is on its way")
        return Verdict(state=DEAD, why="its ADD was never finished")
    netns = open_sandbox(record)
    if netns is None:
        return _judge_unseen(host, record, witness.processes)
    netns.close()
    # Of what has no pod's name (podman, by hand) the runtime behind the CRI need not know.
    unknown = witness.pods is not None and record.pod and record.key.container_id not in witness.pods
    if unknown and witness.processes.has(record.netns_cookie) is False:
        why = "the runtime does not know its container, and no process is in its namespace"
        return Verdict(state=DEAD, why=why, grace=UNKNOWN_GRACE)
    return Verdict(state=LIVE)


def _judge_unseen(host: Host, record: Record, processes: Processes) -> Verdict:
    """Judge an attachment whose namespace is not at its path."""
    where = record.netns_path or "without a path"
    if processes.has(record.netns_cookie):
        return Verdict(state=HIDDEN, why=f"a process lives in its namespace, which is not at {where}")
    if record.driver in PASS_THROUGH_DRIVERS:
        # No device of it is in any namespace: the processes alone can tell.
        if processes.has(record.netns_cookie) is None:
            return Verdict(state=HIDDEN, why=f"its namespace is not at {where}, and not all processes can be seen")
    elif not is_in_host_namespace(host, record):
        return Verdict(state=HIDDEN, why=f"its namespace is not at {where}, but its VF is in a namespace")
    return Verdict(state=DEAD, why="its namespace is gone")


def is_in_host_namespace(host: Host, record: Record) -> bool:
    """Whether no namespace but the host's has a device of the VF."""
    pci = record.pci
    if not host.sysfs.exists(pci) or not host.sysfs.read_driver(pci):
        return True
    rdma = host.sysfs.read_rdma(pci)
    return rdma is not None and rdma.node_guid is not None and bool(host.sysfs.read_netdev(pci))


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
