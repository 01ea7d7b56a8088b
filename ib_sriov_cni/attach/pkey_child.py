"""The interface of a P_Key that is not the port's first: an IPoIB child of the VF's netdev, made in the pod.

An IPoIB netdev speaks in the partition of index 0. For another one it gets a child, which bears the interface's name;
the netdev stands beside it, up, because a child works only while it is.

What becomes of a child (drivers/infiniband/ulp/ipoib/ipoib_{main,vlan,netlink}.c): it goes with its parent when the
driver is bound anew or the RDMA device moves, wherever it is. When its namespace dies it comes home like its parent
(netns_refund, since 5.13). When its parent moves it stays where it is, and keeps speaking: so it is deleted first.
"""

from __future__ import annotations

from ib_sriov_cni.core.errors import VerificationFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.core.record import Record
    from ib_sriov_cni.core.values import Link
    from ib_sriov_cni.kernel.rtnetlink import Rtnl

FULL_MEMBER = 0x8000  # the kernel names a child's broadcast group by the full member's P_Key, whatever the table has


def parent_name(ifname: str) -> str:
    """Give the name of the VF's netdev beside a child that is called `ifname`; at most 15 characters."""
    name = f"{ifname[:12]}-ib"
    return name if name != ifname else f"{ifname[:12]}_ib"


def make_child(pod: Rtnl, ifname: str, pkey: int) -> None:
    """Put a child of that P_Key in the place of the VF's netdev `ifname`, which steps aside and comes up."""
    parent = pod.read_link(ifname)
    if parent is None:
        raise VerificationFailed(f"interface {ifname} is gone before its P_Key child could be made")
    pod.set_name(parent, parent_name(ifname))
    pod.add_child(parent, ifname, pkey | FULL_MEMBER)
    pod.set_up(parent)


def remove_children(rtnl: Rtnl, record: Record, links: list[Link] | None = None) -> bool:
    """Delete the VF's children in a namespace, those among `links`; tells whether it can have none elsewhere.

    A pod may have moved its child on into a namespace of its own, where only a rebind of the VF reaches it. The
    RDMA device's move does too.
    """
    children = rtnl.find_children(record.pci, record.port_guid, links)
    for child in children:
        rtnl.remove_link(child)
    return bool(children) or not record.child_pkey or record.rdma_isolation
