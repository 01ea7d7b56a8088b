"""The interface for a P_Key that is not at index 0 of the port's table: an IPoIB child of the VF's netdev, in the pod.

An IPoIB netdev uses the partition of index 0. For another partition it gets a child, which has the interface's name.
The netdev stays beside it in the pod, and up, because a child works only while its parent is up.

What becomes of a child (drivers/infiniband/ulp/ipoib/ipoib_{main,vlan,netlink}.c): a rebind of the VF or a move of its
RDMA device deletes it together with its parent, in whatever namespace it is. When its namespace ends, it returns to the
host's like its parent (netns_refund, since Linux 5.13). When its parent moves, it stays where it is and keeps working;
that is why it is deleted first.
"""

from __future__ import annotations

from ib_sriov_cni.core.errors import VerificationFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.core.record import Record
    from ib_sriov_cni.core.values import Link
    from ib_sriov_cni.kernel.rtnetlink import Rtnl

FULL_MEMBER = 0x8000  # a child's broadcast group is that of the full member's P_Key, whichever one the table has


def parent_name(ifname: str) -> str:
    """Return the name of the VF's netdev when its child is called `ifname`; at most 15 characters."""
    name = f"{ifname[:12]}-ib"
    return name if name != ifname else f"{ifname[:12]}_ib"


def make_child(pod: Rtnl, ifname: str, pkey: int) -> None:
    """Rename the VF's netdev `ifname` to parent_name, add its child `ifname` for `pkey`, and bring the netdev up.

    Raises VerificationFailed (103) if there is no such netdev, KernelRefused (102).
    """
    parent = pod.read_link(ifname)
    if parent is None:
        raise VerificationFailed(f"interface {ifname} is gone before its P_Key child could be made")
    pod.set_name(parent, parent_name(ifname))
    pod.add_child(parent, ifname, pkey | FULL_MEMBER)
    pod.set_up(parent)


def remove_children(rtnl: Rtnl, record: Record, links: list[Link] | None = None) -> bool:
    """Delete the VF's children in a namespace (those among `links`). Returns whether none can be left elsewhere.

    A pod may have moved its child to a nested namespace, where only a rebind of the VF or a move of its RDMA device
    reaches it.
    """
    children = rtnl.find_children(record.pci, record.port_guid, links)
    for child in children:
        rtnl.remove_link(child)
    return bool(children) or not record.child_pkey or record.rdma_isolation
