"""Decide whether an attachment is still alive. The agent acts unasked, so it wants proof from the kernel.

A namespace that is not at its path may be gone, or the agent may not see it: it may run in a container without the
host's /run/netns, or the path may be in another mount namespace. The kernel returns a namespace's devices to the host's
namespace when it ends, so a VF whose devices are not there is in a namespace that still exists.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ib_sriov_cni.attach.host import Host
from ib_sriov_cni.attach.pod_namespace import open_sandbox
from ib_sriov_cni.core.errors import CniError
from ib_sriov_cni.core.record import Record
from ib_sriov_cni.core.values import is_pass_through
from ib_sriov_cni.kernel.netns import try_open_netns

LIVE, ADDING, DEAD, HIDDEN = "live", "adding", "dead", "hidden"
INIT_PIDS = "pid:[4026531836]"  # the host's PID namespace: PROC_PID_INIT_INO in include/linux/proc_ns.h

# Seconds. A runtime lists a pod only after all of its networks are up, so not being listed must last this long.
UNKNOWN_GRACE = 300.0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One of the four states, the reason, and how long it must last before the agent acts (seconds, at least)."""

    state: str
    why: str = ""
    grace: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Witness:
    """Further evidence on whether pods are alive."""

    processes: Processes
    pods: frozenset[str] | None = None  # IDs of the sandboxes that the runtime lists; None: not asked, or no answer


class Processes:
    """The network namespaces that have a process, by namespace cookie. /proc is read once, at the first question."""

    def __init__(self, proc_root: str = "/proc") -> None:
        """Does not read anything yet."""
        self._proc = proc_root
        self._cookies: set[int] | None = None
        self._whole = False

    def has(self, cookie: int) -> bool | None:
        """Return whether a process runs in that namespace; None if not all processes of the node are visible."""
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
                continue  # it has ended, or it is a kernel thread
            if namespace in seen:
                continue
            try:
                netns = try_open_netns(path)
            except CniError:
                whole = False
                continue
            if netns is None:
                continue  # it has ended; another process of that namespace may follow
            seen.add(namespace)
            with netns:
                try:
                    cookies.add(netns.cookie())
                except (CniError, OSError):
                    whole = False  # it cannot be entered, so nothing is known of it; the others are
        return cookies, whole


def judge(host: Host, record: Record, witness: Witness, *, locked: bool = False) -> Verdict:
    """Return whether an attachment is alive. `locked`: the caller holds the VF's lock, so no ADD is running.

    Raises StateFailure (106) if the lock cannot be read, KernelRefused (102) without the right to enter namespaces.
    """
    if record.boot_id != host.read_boot_id():
        return Verdict(state=DEAD, why="the node has been rebooted since")
    if not record.committed:
        if not locked and host.locks.read_holder(record.pci):
            return Verdict(state=ADDING, why="its ADD is running")
        return Verdict(state=DEAD, why=record.why_unfinished)
    netns = open_sandbox(record)
    if netns is None:
        return _judge_unseen(host, record, witness.processes)
    netns.close()
    # The CRI runtime need not know attachments without a pod name (podman, or made by hand).
    unknown = witness.pods is not None and record.pod and record.key.container_id not in witness.pods
    if unknown and witness.processes.has(record.netns_cookie) is False:
        why = "the runtime does not list its container, and no process is in its namespace"
        return Verdict(state=DEAD, why=why, grace=UNKNOWN_GRACE)
    return Verdict(state=LIVE)


def _judge_unseen(host: Host, record: Record, processes: Processes) -> Verdict:
    """Judge an attachment whose namespace is not at its path."""
    where = record.netns_path or "its path"
    if processes.has(record.netns_cookie):
        return Verdict(state=HIDDEN, why=f"a process runs in its namespace, which is not at {where}")
    if is_pass_through(record.driver):
        # It has no device in any namespace, so only processes are evidence.
        if processes.has(record.netns_cookie) is None:
            return Verdict(state=HIDDEN, why=f"its namespace is not at {where}, and not all processes are visible")
    elif not is_in_host_namespace(host, record):
        return Verdict(state=HIDDEN, why=f"its namespace is not at {where}, but its VF is in another namespace")
    return Verdict(state=DEAD, why="its namespace is gone")


def is_in_host_namespace(host: Host, record: Record) -> bool:
    """Return whether all devices of the VF are in the host's namespace."""
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
