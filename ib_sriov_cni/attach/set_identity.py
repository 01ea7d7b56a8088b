"""Giving a VF its link state and GUIDs, with a rebind if it has to take a GUID."""

from __future__ import annotations

from ib_sriov_cni.attach.keep_numbers import rebind_in_turn
from ib_sriov_cni.attach.restore_names import restore_rdma_name
from ib_sriov_cni.core.comparison import identity_differences
from ib_sriov_cni.core.errors import VerificationFailed
from ipam.protocol.bounds import join_faults
from ipam.protocol.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.attach.keep_numbers import Renumbering
    from ib_sriov_cni.core.plan import Plan, VfFacts
    from ib_sriov_cni.core.values import Link, RdmaDevice


def set_identity(host: Host, plan: Plan, facts: VfFacts, how: Renumbering) -> tuple[RdmaDevice | None, Link | None]:
    """Set the VF's link state and GUIDs on the PF as planned, and rebind the VF if it has to take a GUID.

    `how` is for the rebind. Returns the VF's RDMA device and netdev in the host's namespace. Raises TryAgainLater (11:
    the lock of rebinds), KernelRefused (102), DeviceUnusable (101: a device did not appear after the rebind, or has
    another number), VerificationFailed (103: the VF did not take its GUID).
    """
    pci, pf_netdev = facts.function.pci, facts.function.pf_netdev
    configs = host.vf_configs
    if plan.link_state:
        with host.log.step("set_link_state", vf=pci, pf=pf_netdev, state=plan.link_state):
            configs.set_link_state(facts.function, plan.link_state)
    if plan.writes_guid:
        with host.log.step("set_node_guid", vf=pci, pf=pf_netdev, guid=plan.node_guid):
            configs.set_node_guid(facts.function, plan.node_guid)
        with host.log.step("set_port_guid", vf=pci, pf=pf_netdev, guid=plan.port_guid):
            configs.set_port_guid(facts.function, plan.port_guid)
    if not plan.needs_rebind:
        return facts.rdma, facts.netdev
    rdma, link = rebind_in_turn(host, pci, facts.function.driver, how)
    _verify_identity(host, plan, facts, rdma, link)
    return rdma, link


def _verify_identity(host: Host, plan: Plan, before: VfFacts, rdma: RdmaDevice, link: Link) -> None:
    """Check the GUIDs on the VF itself: reading them back on the PF only repeats what was written."""
    pci = before.function.pci
    after = replace(before, rdma=rdma, netdev=link)
    faults = identity_differences(plan.port_guid, plan.node_guid, after)
    if faults:
        raise VerificationFailed(
            f"VF {pci} did not take its GUID: " + join_faults([*faults]),
            "does the firmware allow the PF to set GUIDs of VFs? see the kernel log",
        )
    had, has = before.rdma, rdma
    if had and had.name != has.name:
        # udev names it, or a VF that was bound beside it has its name. With the wrong name in the pod, this device
        # would keep the other VF from getting its own back.
        with host.log.step("restore_rdma_name", vf=pci, was=has.name, rdma=had.name):
            restore_rdma_name(host, pci, has, had.name)
