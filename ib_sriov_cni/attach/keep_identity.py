"""Undoing an ADD whose port is not ACTIVE in time, but for the VF's GUID and link state.

A runtime answers a failed ADD with a DEL, and tries again some seconds later with a new container ID. If the GUID went
with each try, a subnet manager that needs longer than one of them would start from nothing every time. So the VF keeps
it, back in the host's namespace, where the subnet manager goes on. The record stays too, as the VF's owner, with what
the VF had before. The next ADD of the VF takes it over, whatever pod it is for: it keeps the GUID if it wants the same
one, and sets its own otherwise. If none comes, GC, `ib-sriov repair`, the node agent after its grace period, or a later
DEL of the attachment restore the VF.
"""

from __future__ import annotations

import time

from ib_sriov_cni.attach.release import release_addresses
from ib_sriov_cni.attach.return_devices import return_devices
from ib_sriov_cni.core.errors import PortNotReady
from ib_sriov_cni.core.fault_collector import FaultCollector
from ib_sriov_cni.core.record import AWAITS_PORT, describe_attachment
from ipam.protocol.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeGuard

    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.configuration import NetConf
    from ib_sriov_cni.core.record import Record
    from ib_sriov_cni.core.values import PciAddress
    from ipam.protocol.request import Request

RETRY_SECONDS = 60.0  # a DEL within this time after the undoing is the runtime's answer to the failed ADD


def is_only_slow(fault: BaseException, record: Record) -> TypeGuard[PortNotReady]:
    """Return whether an ADD failed only because the port was not up in time, and has set what may be kept."""
    return isinstance(fault, PortNotReady) and fault.is_slow and bool(record.sets_guid or record.link_state)


def continue_record(record: Record, earlier: Record) -> Record:
    """Return the record of an ADD that goes on from an earlier try: DEL restores what the VF had before that one."""
    had = {name: item for name, item in earlier.__dict__.items() if name.startswith("had_")}
    had["had_char_devices"] = record.had_char_devices
    return replace(record, **had, link_state=record.link_state or earlier.link_state)


def undo_but_keep_identity(host: Host, record: Record, request: Request, conf: NetConf) -> bool:
    """Return devices and addresses, and note in the record that the VF has kept GUID and link state.

    Returns whether it succeeded; if not, the record is as it was, and everything is to be released.
    """
    collector = FaultCollector()
    # As if the ADD had set no GUID: then the devices are moved, and a rebind takes the same GUID again.
    if collector.attempt(lambda: return_devices(host, replace(record, sets_guid=False), conf.lock_timeout)):
        collector.attempt(lambda: release_addresses(host, request, conf))
    if not collector.faults:
        kept = replace(record, result={AWAITS_PORT: time.time()}, child_pkey=0)
        collector.attempt(lambda: host.records.write(kept))
    for fault in collector.faults:
        host.log.warning("the VF cannot keep its GUID for the next try; releasing it", vf=record.pci, error=fault)
    return not collector.faults


def is_awaited(record: Record) -> bool:
    """Return whether the runtime is about to try again, so that a DEL leaves GUID and link state where they are."""
    return record.undone_at is not None and 0 <= time.time() - record.undone_at < RETRY_SECONDS


def find_kept_identity(host: Host, pci: PciAddress) -> Record | None:
    """Return the record of such a try, if it owns the VF and the VF still has what it has left."""
    owner = host.ownership.read_owner(pci)
    record = host.records.read(owner) if owner is not None else None
    if record is None or record.pci != pci or record.undone_at is None or record.boot_id != host.read_boot_id():
        return None
    rdma = host.sysfs.read_rdma(pci)
    if rdma is None or (rdma.node_guid, rdma.port_guid) != (record.node_guid, record.port_guid):
        return None
    host.log.info("an earlier try has left its GUID on the VF; going on from there", of=describe_attachment(record))
    return record
