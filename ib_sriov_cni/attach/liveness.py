"""Whether an attachment still serves a pod: decided here for the plugin, the command line, the doctor and the agent.

A namespace that is not at its path may be gone, or the caller may not see it: the path may be in another mount
namespace, or there is no descriptor left to open it with. So a path that does not open proves nothing. When a namespace
ends, the kernel returns its devices to the host's namespace (default_device_exit_batch in net/core/dev.c,
rdma_dev_exit_net in drivers/infiniband/core/device.c): a VF whose devices are not there is in a namespace that exists.
"""

from __future__ import annotations

import time

from ib_sriov_cni.attach.devices import RETURN_SECONDS, await_fact
from ib_sriov_cni.attach.pod_namespace import open_sandbox
from ib_sriov_cni.attach.remaining_users import has_no_netdev
from ib_sriov_cni.core.errors import KernelRefused
from ib_sriov_cni.core.values import is_pass_through
from ipam.protocol.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.record import Record
    from ib_sriov_cni.kernel.processes import Processes

LIVE, LOST, HIDDEN, DEAD = "live", "lost", "hidden", "dead"


class Verdict(Value):
    """One of the four states, and the reason.

    LIVE: it serves its pod. LOST: its pod's namespace exists, but does not have the VF any more. HIDDEN: its namespace
    is not at its path, and nothing proves that it is gone. DEAD: that is proved, or it never served a pod.
    """

    state: str
    why: str = ""

    @property
    def is_over(self) -> bool:
        """Whether what the attachment holds may be released: no pod has the VF."""
        return self.state in (DEAD, LOST)


def judge(host: Host, record: Record, processes: Processes | None = None) -> Verdict:
    """Return whether the attachment serves a pod. A pod may have moved its VF on to a nested namespace.

    Says DEAD of an ADD that is still running: the caller holds the VF's lock, or finds out who does. `processes`: those
    of the node, if they have been read already.
    """
    if host.is_from_earlier_boot(record):
        return Verdict(state=DEAD, why="it was made before the last boot")
    if record.why_unfinished:
        return Verdict(state=DEAD, why=record.why_unfinished)
    unseen = _why_unseen(record)
    if is_pass_through(record.driver):
        return _judge_passed_through(host, record, processes, unseen)
    lost = _why_lost(host, record)
    if not unseen:
        return Verdict(state=LOST, why=lost) if lost else Verdict(state=LIVE)
    if lost or _has_lost_netdev(host, record):
        return Verdict(state=DEAD, why=f"its network namespace {record.netns_path} is gone")
    return Verdict(state=HIDDEN, why=f"{unseen}, but VF {record.pci} is not back in the host's namespace")


def await_verdict(host: Host, record: Record, seconds: float = RETURN_SECONDS) -> Verdict:
    """Return `judge`'s verdict; if that is HIDDEN, wait for the kernel: the namespace may just have ended."""
    verdict = judge(host, record)
    if verdict.state != HIDDEN or seconds <= 0 or is_pass_through(record.driver):
        return verdict

    def decide() -> Verdict | None:
        found = judge(host, record)
        return found if found.state != HIDDEN else None

    return await_fact(decide, seconds) or verdict


class Patience:
    """How long all attachments of one call together are waited for (`await_verdict`)."""

    def __init__(self, seconds: float = RETURN_SECONDS) -> None:
        """The time begins now."""
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """What is left of it, in seconds."""
        return max(0.0, self._end - time.monotonic())


def _why_unseen(record: Record) -> str:
    """Return why the attachment's namespace cannot be seen; "" if it is at its path."""
    try:
        netns = open_sandbox(record)
    except KernelRefused as refusal:
        return str(refusal)
    if netns is None:
        return f"its network namespace is not at {record.netns_path or 'a path that is known'}"
    netns.close()
    return ""


def _why_lost(host: Host, record: Record) -> str:
    """Return why the VF is in no other namespace than the host's, "" if it may be in one."""
    pci, sysfs = record.pci, host.sysfs
    if sysfs.is_missing(pci):
        return f"VF {pci} is gone"
    if sysfs.exists(pci) and not sysfs.read_driver(pci):
        return f"VF {pci} has no driver"
    rdma = sysfs.read_rdma(pci)
    if rdma is not None and rdma.node_guid is not None and sysfs.read_netdev(pci) and _sees_the_host(host, record):
        return f"VF {pci} is back in the host's namespace"
    return ""


def _has_lost_netdev(host: Host, record: Record) -> bool:
    """Return whether the RDMA device is here, and the netdev nowhere: before Linux 5.13 it ends with its namespace.

    Also true if the VF has another driver now, which makes no netdev.
    """
    pci, sysfs = record.pci, host.sysfs
    if sysfs.exists(pci) and record.driver != sysfs.read_driver(pci):
        return True
    rdma = sysfs.read_rdma(pci)
    if rdma is None or rdma.node_guid is None or sysfs.read_netdevs(pci) or not _sees_the_host(host, record):
        return False
    try:
        return has_no_netdev(host.rdma, rdma.name) and not any(
            isinstance(user, int) for user in host.rdma.read_users(rdma.name)
        )
    except KernelRefused:
        return False  # the kernel cannot say: before Linux 4.17


def _sees_the_host(host: Host, record: Record) -> bool:
    """Return whether sysfs shows the host's namespace. Inside a pod it shows that pod's devices, but no PF's."""
    netdev_of_pf = host.sysfs.read_pf_netdev(record.pci)
    if netdev_of_pf is not None:
        return bool(netdev_of_pf)
    return not record.netns_cookie or host.rtnl.netns_cookie() != record.netns_cookie


def _judge_passed_through(host: Host, record: Record, processes: Processes | None, unseen: str) -> Verdict:
    """Judge one whose VF a virtual machine has. No device is evidence: only the processes in its namespace are."""
    if not unseen:
        return Verdict(state=LIVE)
    if host.sysfs.is_missing(record.pci):
        return Verdict(state=DEAD, why=f"VF {record.pci} is gone")
    found = (processes or host.processes).has(record.netns_cookie)
    if found is False:
        return Verdict(state=DEAD, why=f"its network namespace {record.netns_path} is gone")
    words = "a process runs in it" if found else "not all processes of the node can be seen"
    return Verdict(state=HIDDEN, why=f"{unseen}, but {words}")
