"""Moving a VF's devices into a pod's network namespace."""

from __future__ import annotations

import errno

from ib_sriov_cni.attach.devices import await_fact, read_netdev
from ib_sriov_cni.attach.keep_numbers import await_all_devices, keep_numbers
from ib_sriov_cni.attach.restore_names import restore_rdma_name, temporary_rdma_name
from ib_sriov_cni.core.errors import KernelRefused, VerificationFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.attach.keep_numbers import Renumbering
    from ib_sriov_cni.core.values import Link, PciAddress
    from ib_sriov_cni.kernel.netns import Netns
    from ib_sriov_cni.kernel.rtnetlink import Rtnl

NEW_NETDEV_SECONDS = 10.0  # for the kernel to make a new netdev after the RDMA device was moved


def move_rdma(host: Host, pci: PciAddress, had_name: str, netns: Netns, how: Renumbering) -> None:
    """Move an RDMA device into a pod, under a temporary name if the pod has a device of the same name.

    Raises KernelRefused (102), and what `keep_numbers` raises.
    """

    def act() -> None:
        with host.log.step("move_rdma", rdma=had_name):
            # Look the name up again by PCI address: udev may have renamed the device since.
            name = host.sysfs.read_rdma_name(pci) or had_name
            try:
                host.rdma.move_device(name, netns.fd)
            except KernelRefused as refusal:
                if refusal.errno != errno.EEXIST:
                    raise
                host.rdma.set_name(name, temporary_rdma_name(pci))
                host.rdma.move_device(temporary_rdma_name(pci), netns.fd)

    def again() -> None:
        rdma, _ = await_all_devices(host, pci, len(how.devices or ()))
        restore_rdma_name(host, pci, rdma, had_name)
        act()

    keep_numbers(host, pci, how, act, operation="the move of its RDMA device", again=again)


def find_new_netdev(host: Host, pci: PciAddress, pod: Rtnl) -> tuple[Link, bool]:
    """Wait for the netdev that replaces the one which the RDMA device's move destroyed.

    Returns it and whether it is in the host's namespace; since Linux 6.17 it is in the pod's. Raises VerificationFailed
    (103) if none appears.
    """

    def read() -> tuple[Link, bool] | None:
        link = read_netdev(host, pci)
        if link is not None:
            return link, True
        link = pod.find_link(pci)
        return (link, False) if link is not None else None

    found = await_fact(read, NEW_NETDEV_SECONDS)
    if found is None:
        raise VerificationFailed(
            f"VF {pci}: no netdev appeared within {NEW_NETDEV_SECONDS:.0f} s of its RDMA device's move",
            "is ib_ipoib loaded? see the kernel log",
        )
    return found
