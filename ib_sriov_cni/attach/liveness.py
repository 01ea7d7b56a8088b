"""Whether an attachment still serves a pod, and if not, why."""

from __future__ import annotations

from ib_sriov_cni.attach.pod_namespace import open_sandbox
from ib_sriov_cni.core.values import is_pass_through

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.record import Record


def is_alive(host: Host, record: Record) -> bool:
    """Return whether the attachment serves a pod (see why_dead)."""
    return not why_dead(host, record)


def why_dead(host: Host, record: Record) -> str:
    """Return why the attachment no longer serves a pod, "" if it does.

    It does if its ADD was finished in this boot, its namespace still exists, and its VF has a driver and is not back in
    the host's namespace. The VF need not be in the pod's own namespace: a pod may move it on to a nested one.
    Raises KernelRefused (102) if the namespace cannot be examined.
    """
    if record.why_unfinished:
        return record.why_unfinished
    if record.boot_id != host.read_boot_id():
        return "it was made before the last boot"
    netns = open_sandbox(record)
    if netns is None:
        return f"its network namespace {record.netns_path} is gone"
    netns.close()
    if is_pass_through(record.driver):
        return ""
    if not host.sysfs.read_driver(record.pci):
        return f"VF {record.pci} has no driver"
    rdma = host.sysfs.read_rdma(record.pci)
    if rdma is not None and rdma.node_guid is not None and host.sysfs.read_netdev(record.pci):
        return f"VF {record.pci} is back in the host's namespace"
    return ""
