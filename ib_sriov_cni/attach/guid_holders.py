"""Which GUIDs are in use on this node, and by whom. If two ports of a fabric have the same GUID, neither works."""

from __future__ import annotations

from ib_sriov_cni.attach.heal import heal_other
from ib_sriov_cni.attach.liveness import LIVE, judge
from ib_sriov_cni.core.errors import DeviceUnusable
from ib_sriov_cni.core.record import describe_attachment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.plan import VfFacts
    from ib_sriov_cni.core.record import AttachmentKey, Record
    from ib_sriov_cni.core.values import Guid, PciAddress


def read_holders(host: Host, facts: VfFacts) -> dict[Guid, str]:
    """Return the GUIDs in use on this node, the VF's own left out, each with words for its holder.

    `facts` have the PF's settings of all of its VFs. Three sources, of which a later one replaces what an earlier one
    says: the RDMA devices in the host's namespace, the PF's settings of its other VFs, and the records, which include
    VFs in pods and ADDs in progress.
    """
    function = facts.function
    own = facts.rdma.name if facts.rdma else ""
    holders = {guid: f"RDMA device {name}" for guid, name in host.sysfs.read_guids().items() if name != own}
    for index, config in facts.configs.items():
        if index != function.index:
            words = f"VF {index} of PF {function.pf_netdev}"
            holders |= {guid: words for guid in (config.node_guid, config.port_guid) if guid}
    holders |= {record.port_guid: describe_attachment(record) for record in _others(host, function.pci)}
    return {guid: words for guid, words in holders.items() if guid}


def heal_holder(host: Host, pci: PciAddress, key: AttachmentKey, guid: Guid, lock_timeout: float) -> None:
    """Release the dead attachment of another VF that has this GUID: a pod of a StatefulSet gets its GUID again.

    One that is alive is left alone, and the plan refuses the GUID; one whose DEL or ADD is running is waited for. To be
    called without any lock. Raises as `heal_other`.
    """
    for record in _others(host, pci):
        if record.port_guid == guid and (host.locks.read_holder(record.pci) or judge(host, record).state != LIVE):
            heal_other(host, record, key, lock_timeout)


def refuse_duplicate_guid(host: Host, pci: PciAddress, guid: Guid) -> None:
    """Raise DeviceUnusable (101) if another attachment has planned this GUID since `read_holders`.

    To be called once our own record is written. Two ADDs for two VFs share no lock; this way at least one of them sees
    the other's record.
    """
    for record in _others(host, pci):
        if record.port_guid == guid:
            raise DeviceUnusable(
                f"GUID {guid} is being given to {describe_attachment(record)} at the same time",
                "give each pod its own GUID",
            )


def _others(host: Host, pci: PciAddress) -> list[Record]:
    """Return the records, of this boot, of the attachments that own other VFs."""
    owners = [key for other, key in host.ownership.read_owners() if other != pci]
    records = [host.records.read(key) for key in owners]
    return [record for record in records if record is not None and not host.is_from_earlier_boot(record)]
