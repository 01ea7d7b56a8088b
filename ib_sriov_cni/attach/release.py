"""Undoing an attachment from its record: DEL, the undo of a failed ADD, and the healing of a dead one.

Nothing is taken on trust: where the VF and its devices are is read from the kernel each time, so that this can be
interrupted anywhere and run again. What is done already is done; a fault in one part keeps no other from running.
"""

from __future__ import annotations

from ib_sriov_cni.attach.recorded_request import make_del_request
from ib_sriov_cni.attach.restore_guids import restore_config
from ib_sriov_cni.attach.return_devices import return_devices
from ib_sriov_cni.core.configuration import parse_netconf
from ib_sriov_cni.core.faults import FaultCollector
from ib_sriov_cni.core.values import PASS_THROUGH_DRIVERS
from ib_sriov_cni.delegation.ipam_plugin import delete_addresses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.configuration import NetConf
    from ib_sriov_cni.core.record import Record
    from ipam.protocol.request import Request


def release(host: Host, record: Record, request: Request, conf: NetConf, collector: FaultCollector) -> None:
    """FaultCollector an attachment, under its VF's lock. The record goes only when nothing failed."""
    before = len(collector.faults)
    collector.attempt(lambda: release_device(host, record))
    collector.attempt(lambda: release_addresses(host, request, conf))
    if len(collector.faults) == before:
        collector.attempt(lambda: forget(host, record))


def release_recorded(host: Host, record: Record, collector: FaultCollector) -> None:
    """FaultCollector an attachment nobody asks about any more, from its record alone."""
    request = make_del_request(record)
    release(host, record, request, parse_netconf(request, lenient=True), collector)


def release_addresses(host: Host, request: Request, conf: NetConf) -> None:
    """Have the IPAM plugin release what the attachment holds."""
    if conf.ipam_type:
        with host.log.step("release_addresses", ipam=conf.ipam_type):
            delete_addresses(request, conf.ipam_type, host.log)


def forget(host: Host, record: Record) -> None:
    """Let go of the VF, then of the record: the other way round a crash would leave an owner without record."""
    with host.log.step("disclaim", vf=record.pci):
        host.ownership.disclaim(record.pci, record.key)
    with host.log.step("forget", vf=record.pci):
        host.records.forget(record.key)


def release_device(host: Host, record: Record) -> None:
    """Bring the VF home as it was: driver, GUIDs, link state, names."""
    pci = record.pci
    if record.boot_id != host.read_boot_id():
        host.log.debug("another boot: the devices of the record are gone", vf=pci)
        return
    if host.ownership.read_owner(pci) != record.key:
        host.log.debug("the VF serves somebody else by now, or nobody: left alone", vf=pci)
        return
    if not host.sysfs.exists(pci):
        host.log.debug("the VF is gone", vf=pci)
        return
    collector = FaultCollector()
    collector.attempt(lambda: restore_config(host, record))
    if record.driver not in PASS_THROUGH_DRIVERS:
        collector.attempt(lambda: return_devices(host, record))
    collector.raise_faults()
