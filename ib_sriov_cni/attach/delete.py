"""DEL: release what an attachment holds."""

from __future__ import annotations

from ib_sriov_cni.attach.keep_identity import is_awaited
from ib_sriov_cni.attach.release import release, release_addresses, release_recorded
from ib_sriov_cni.core.errors import CniError, NotRestored
from ib_sriov_cni.core.fault_collector import FaultCollector
from ib_sriov_cni.core.pod_choices import KEY as CHOICES_KEY
from ib_sriov_cni.core.record import AttachmentKey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.configuration import NetConf
    from ib_sriov_cni.core.record import Record
    from ib_sriov_cni.core.values import PciAddress
    from ipam.protocol.request import Request


def delete(host: Host, request: Request, conf: NetConf) -> None:
    """Release what the attachment holds (C13). Needs no record, namespace or prevResult, and can be repeated.

    Raises TryAgainLater (11) if the VF's lock is held for longer than lockTimeout. Other failures do not stop it; they
    are raised together at the end, and the record stays for the next DEL. A PF that cannot be set is only logged.
    """
    key = AttachmentKey(network=conf.name, container_id=request.container_id, ifname=request.ifname)
    collector = FaultCollector()
    record = host.records.read(key)
    if record is None:
        try:
            record = _take_over_go_record(host, request, conf, key)
        except CniError as fault:
            collector.faults.append(fault)
    if record is None and not collector.faults and conf.device is not None:
        record = _await_own_add(host, conf.device, key, conf.lock_timeout)
    if record is None:
        host.log.debug("no record: nothing was attached, or it was released before")
        host.records.sweep(conf.name, key)  # its ADD may have died while writing one
        collector.attempt(lambda: release_addresses(host, request, conf))
    else:
        with host.log.step("lock", vf=record.pci):
            lock = host.locks.take(record.pci, key.holder, conf.lock_timeout)
        with lock:
            # Read again: whoever held the lock may have released it.
            record = host.records.read(key)
            if record is not None and is_awaited(record):
                host.log.info("the VF keeps its GUID for the next try of its pod", vf=record.pci)
            elif record is not None and _is_another_request(record, request):
                release_recorded(host, record, conf.lock_timeout, collector)
            elif record is not None:
                release(host, record, request, conf, collector)
            else:
                collector.attempt(lambda: release_addresses(host, request, conf))
    _report_left_settings(host, collector)
    if not collector.faults:
        collector.attempt(lambda: host.go_records.forget(key))
    collector.raise_faults()


def _is_another_request(record: Record, request: Request) -> bool:
    """Return whether the ADD asked for other addresses: the network, or the node-wide defaults, have changed since."""
    return any(record.conf.get(key) != request.conf.get(key) for key in ("ipam", CHOICES_KEY))


def _report_left_settings(host: Host, collector: FaultCollector) -> None:
    """Log that the PF could not be set; the pod has nothing of the VF any more, so it need not stay for that.

    The VF is left without driver and its record stays: whoever comes next tries again.
    """
    left = [fault for fault in collector.faults if isinstance(fault, NotRestored)]
    for fault in left:
        host.log.warning("the record stays", error=fault.msg, hint=fault.details)
        collector.faults.remove(fault)


def _await_own_add(host: Host, pci: PciAddress, key: AttachmentKey, seconds: float) -> Record | None:
    """Wait for an ADD of this attachment that its runtime gave up on, if it is still running. Returns its record.

    Such an ADD may have no record yet. An ADD of another attachment on that VF is not waited for.
    """
    if host.locks.was_last_taken_by(pci, key.holder):
        with host.log.step("await_add", vf=pci), host.locks.take(pci, key.holder, seconds):
            pass
    return host.records.read(key)


def _take_over_go_record(host: Host, request: Request, conf: NetConf, key: AttachmentKey) -> Record | None:
    """Take over the Go plugin's record of this attachment. It becomes the VF's owner unless there is one."""
    from ib_sriov_cni.attach.adopt_go_record import adopt

    record = adopt(host, request, conf, key)
    if record is not None:
        with host.locks.take(record.pci, key.holder, conf.lock_timeout):
            host.records.write(record)
            if host.ownership.read_owner(record.pci) is None:
                host.ownership.claim(record.pci, key)
    return record
