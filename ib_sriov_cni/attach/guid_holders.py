"""Which GUIDs are taken on this node, and by whom: two ports of one GUID break the subnet for both."""

from __future__ import annotations

from ib_sriov_cni.core.errors import DeviceUnusable
from ib_sriov_cni.core.record import describe_attachment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.plan import VfFacts
    from ib_sriov_cni.core.record import Record
    from ib_sriov_cni.core.values import Guid, PciAddress


def read_holders(host: Host, facts: VfFacts) -> dict[Guid, str]:
    """Give every GUID that somebody else on this node has, with words for who that is.

    The later source knows more: RDMA devices in the host's namespace, what the PF says of the VF's siblings, and the
    records, which know of VFs inside pods and of ADDs on their way.
    """
    function = facts.function
    own = facts.rdma.name if facts.rdma else ""
    holders = {guid: f"RDMA device {name}" for guid, name in host.sysfs.read_guids().items() if name != own}
    for index, config in host.vf_configs.read(function)[1].items():
        if index != function.index:
            words = f"VF {index} of PF {function.pf_netdev}"
            holders |= {guid: words for guid in (config.node_guid, config.port_guid) if guid}
    holders |= {record.port_guid: describe_attachment(record) for record in _others(host, function.pci)}
    return {guid: words for guid, words in holders.items() if guid}


def refuse_doubled(host: Host, pci: PciAddress, guid: Guid) -> None:
    """Refuse a GUID that another attachment has planned since `read_holders`; their lock is not ours.

    Asked after our own record is written, so that of two at once at least one sees the other.
    """
    for record in _others(host, pci):
        if record.port_guid == guid:
            raise DeviceUnusable(
                f"GUID {guid} is just being given to {describe_attachment(record)} too", "give each pod its own"
            )


def _others(host: Host, pci: PciAddress) -> list[Record]:
    """Give the records of the attachments that own other VFs in this boot."""
    boot_id = host.read_boot_id()
    owners = [key for other, key in host.ownership.read_owners() if other != pci]
    records = [host.records.read(key) for key in owners]
    return [record for record in records if record is not None and record.boot_id == boot_id]
