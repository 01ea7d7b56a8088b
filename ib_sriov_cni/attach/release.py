"""Releasing what an attachment holds, from its record: for DEL, for the undo of a failed ADD, and for healing.

Where the VF and its devices are is read from the kernel each time, so this can be interrupted anywhere and run again.
What is already released is skipped, and a fault in one part does not keep the others from running.
"""

from __future__ import annotations

from ib_sriov_cni.attach.recorded_request import make_del_request
from ib_sriov_cni.attach.restore_guids import is_foreign, restore_config
from ib_sriov_cni.attach.return_devices import return_devices
from ib_sriov_cni.core.configuration import parse_netconf
from ib_sriov_cni.core.errors import NotRestored
from ib_sriov_cni.core.fault_collector import FaultCollector
from ib_sriov_cni.core.values import is_pass_through
from ib_sriov_cni.delegation.ipam_plugin import delete_addresses
from ipam.protocol.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.configuration import NetConf
    from ib_sriov_cni.core.record import Record
    from ipam.protocol.request import Request


def release(host: Host, record: Record, request: Request, conf: NetConf, collector: FaultCollector) -> None:
    """Release an attachment, with its VF's lock held: device, addresses, then the record, if nothing failed.

    Raises nothing: faults go to `collector`.
    """
    before = len(collector.faults)
    collector.attempt(lambda: release_device(host, record, conf.lock_timeout))
    collector.attempt(lambda: release_addresses(host, request, conf))
    if len(collector.faults) == before:
        collector.attempt(lambda: forget(host, record))


def release_recorded(host: Host, record: Record, lock_timeout: float, collector: FaultCollector) -> None:
    """Release an attachment for which no request is at hand (see `release`). `lock_timeout` is the caller's."""
    request = make_del_request(record)
    conf = replace(parse_netconf(request, lenient=True), lock_timeout=lock_timeout)
    release(host, record, request, conf, collector)


def release_addresses(host: Host, request: Request, conf: NetConf) -> None:
    """Have the IPAM plugin release the attachment's addresses. Raises CniError if it refuses."""
    if conf.ipam_type:
        with host.log.step("release_addresses", ipam=conf.ipam_type):
            delete_addresses(request, conf.ipam_type, host.log)


def forget(host: Host, record: Record) -> None:
    """Remove the VF's owner, then the record: in the other order, a crash would leave an owner without a record."""
    with host.log.step("disclaim", vf=record.pci):
        host.ownership.disclaim(record.pci, record.key)
    with host.log.step("forget", vf=record.pci):
        host.records.forget(record.key)


def release_device(host: Host, record: Record, lock_timeout: float) -> None:
    """Return the VF to the host's namespace as it was: driver, GUIDs, link state, names.

    Does nothing if the record is from another boot, or if the VF is gone or belongs to another attachment. If the PF
    keeps the pod's GUID, the VF is left without driver: two ports with one GUID, here and where the pod's successor
    runs, would break both. `lock_timeout`: seconds to wait for the lock of rebinds. Raises NotRestored for that GUID,
    CniError for everything else that failed.
    """
    pci = record.pci
    if host.is_from_earlier_boot(record):
        host.log.debug("the record is from another boot: its devices are gone", vf=pci)
        return
    if host.ownership.read_owner(pci) != record.key:
        host.log.debug("the VF belongs to another attachment or to none: left alone", vf=pci)
        return
    if not host.sysfs.exists(pci):
        host.log.debug("the VF is gone", vf=pci)
        return
    collector = FaultCollector()
    collector.attempt(restore_config, host, record)
    if not is_pass_through(record.driver):
        is_left = any(isinstance(fault, NotRestored) for fault in collector.faults)
        if is_left and _keeps_pods_guid(host, record):
            collector.attempt(_unbind, host, record, lock_timeout)
        else:
            collector.attempt(return_devices, host, record, lock_timeout)
        if host.sysfs.read_override(pci):  # perhaps of a killed call
            from ib_sriov_cni.attach.driver_override import restore_override

            restore_override(host, pci)
    collector.raise_faults()


def _keeps_pods_guid(host: Host, record: Record) -> bool:
    """Return whether the VF would have the pod's GUID on the host too, now that its PF could not be set."""
    return record.sets_guid and is_foreign(record, host.sysfs.read_rdma(record.pci))


def _unbind(host: Host, record: Record, lock_timeout: float) -> None:
    """Unbind the VF, with the lock of rebinds: a VF that is just being bound would get the numbers that it frees."""
    with (
        host.locks.take_for_rebind(record.key.holder, lock_timeout),
        host.log.step("unbind", vf=record.pci, driver=host.sysfs.read_driver(record.pci)),
    ):
        host.sysfs.unbind(record.pci)
