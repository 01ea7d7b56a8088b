"""Whether anything of a pod still uses a VF whose devices are back in the host's namespace.

A pod with CAP_NET_ADMIN can add a P_Key child to its interface and move it into a namespace of its own, or leave a
process behind that has the RDMA device open. Neither is visible by name; the kernel counts both.
"""

from __future__ import annotations

from ib_sriov_cni.core.errors import KernelRefused
from ib_sriov_cni.kernel.netns import open_own, try_open_netns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.values import PciAddress, RdmaDevice
    from ib_sriov_cni.kernel.rdma_netlink import Rdma

IPOIB = "ib_ipoib"  # as the kernel names it among the users of a device


def describe_remaining_user(host: Host, pci: PciAddress, rdma: RdmaDevice) -> str:
    """Return what of a pod still uses the VF, in words; "" if nothing does, or if the kernel cannot say."""
    try:
        # Look the name up again by PCI address: udev may have renamed the device since.
        users = host.rdma.read_users(host.sysfs.read_rdma_name(pci) or rdma.name)
    except KernelRefused as refusal:
        host.log.debug("cannot ask who uses the VF's RDMA device", vf=pci, error=refusal)
        return ""
    interfaces = sum(user == IPOIB for user in users)
    visible = len(host.sysfs.read_netdevs(pci))
    if interfaces > visible:
        return f"IPoIB interfaces on it: {interfaces}, of which the host shows {visible}"
    for pid in [user for user in users if isinstance(user, int)]:
        if _is_in_another_namespace(pid):
            return f"process {pid} of another network namespace has RDMA device {rdma.name} open"
    return ""


def has_no_netdev(rdma: Rdma, name: str) -> bool:
    """Return whether a device in the host's namespace has no IPoIB netdev, wherever that may be.

    Kernels that hide modules among the users show none on any device, nor is there one without ib_ipoib: that some
    device has one is what makes it believable. Raises KernelRefused (102), as before Linux 4.17.
    """
    users = rdma.read_users(name)
    if IPOIB in users or rdma.find_device(name) is None:
        return False
    return any(IPOIB in rdma.read_users(other) for other in rdma.read_devices())


def _is_in_another_namespace(pid: int) -> bool:
    """Return whether a process is in another network namespace than ours; False if that cannot be seen."""
    try:
        netns = try_open_netns(f"/proc/{pid}/ns/net")
    except KernelRefused:
        return False
    if netns is None:
        return False
    with netns, open_own() as own:
        return netns.inode != own.inode
