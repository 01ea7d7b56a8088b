"""A VF that has lost its netdev or RDMA device, which a rebind brings back; unless a pod has what the host misses.

A VF loses its netdev if ib_ipoib could not make it when the driver was bound, or if a runtime let a namespace with it
die on a kernel before 5.13, and its RDMA device if that half of the driver failed or was unbound.
"""

from __future__ import annotations

from ib_sriov_cni.attach.keep_numbers import bind_in_turn, rebind_in_turn
from ib_sriov_cni.attach.remaining_users import describe_remaining_user, has_no_netdev
from ib_sriov_cni.core.errors import CniError, KernelRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.attach.keep_numbers import Renumbering
    from ib_sriov_cni.core.plan import VfFacts

RETURN_SECONDS = 10.0  # for what was lost to come back; the lock of rebinds is held meanwhile


def find_lost(host: Host, facts: VfFacts) -> str:
    """Return what the VF has lost, in words; "" if nothing, or if a pod may have it, or if no rebind would help.

    The VF's lock must be held, and no living attachment may own it. A rebind tears a VF out of wherever it is, so what
    cannot be told counts as being in a pod.
    """
    if facts.rdma is None:
        # Every namespace sees the character devices of all RDMA devices, and no netdev is without RDMA device.
        is_nowhere = not host.sysfs.read_char_devices(facts.function.pci) and _serves_others(host, facts)
        return "RDMA device" if is_nowhere else ""
    if not facts.rdma_here or facts.netdev is not None:
        return ""
    if "Ethernet" in facts.link_layers or not facts.ipoib:
        return ""  # none is made for it, and plan_add says why
    try:
        if not has_no_netdev(host.rdma, facts.rdma.name):
            return ""
    except KernelRefused as refusal:
        host.log.debug("cannot ask who uses the VF's RDMA device", vf=facts.function.pci, error=refusal)
        return ""
    return "" if describe_remaining_user(host, facts.function.pci, facts.rdma) else "netdev"


def _serves_others(host: Host, facts: VfFacts) -> bool:
    """Return whether the driver makes RDMA devices, and the kernel their character devices: the PF has both."""
    pf = facts.function.pf
    return (
        pf is not None and facts.function.driver == facts.function.pf_driver and bool(host.sysfs.read_char_devices(pf))
    )


def recover(host: Host, facts: VfFacts, lost: str, how: Renumbering) -> None:
    """Rebind the VF, which brings back what it has lost; it keeps its driver. Raises as rebind."""
    pci, driver = facts.function.pci, facts.function.driver
    with host.log.step("recover", vf=pci, lost=lost):
        try:
            rebind_in_turn(host, pci, driver, how, appear_seconds=RETURN_SECONDS)
        except BaseException:
            # No record of this VF has been written yet, by which a DEL could bind it.
            if not host.sysfs.read_driver(pci):
                try:
                    bind_in_turn(host, pci, driver, holder=how.holder, seconds=how.seconds)
                except CniError as refusal:
                    host.log.warning("the VF stays without driver", vf=pci, error=refusal)
            raise
        host.log.warning("the VF had lost a device, and has it again after a rebind", vf=pci, lost=lost)
