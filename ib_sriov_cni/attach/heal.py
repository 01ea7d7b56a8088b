"""Healing: releasing what a dead attachment still holds, for the next ADD of its VF or GUID, or for GC and repair."""

from __future__ import annotations

from ib_sriov_cni.attach.liveness import HIDDEN, await_verdict
from ib_sriov_cni.attach.recorded_request import make_del_request
from ib_sriov_cni.attach.release import forget, release_addresses, release_device, release_recorded
from ib_sriov_cni.core.configuration import parse_netconf
from ib_sriov_cni.core.errors import DeviceUnusable
from ib_sriov_cni.core.fault_collector import FaultCollector
from ib_sriov_cni.core.record import AttachmentKey, describe_attachment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.attach.liveness import Patience, Verdict
    from ib_sriov_cni.core.record import Record
    from ib_sriov_cni.core.values import PciAddress


def heal(host: Host, pci: PciAddress, key: AttachmentKey, lock_timeout: float) -> tuple[str, ...]:
    """Release the dead attachment that owns the VF, if there is one, so that `key` can have it.

    Returns the character devices that the VF had before; empty if nothing was released. The VF's lock must be held.
    Raises DeviceUnusable (101) if the owner is alive, or may be, and whatever keeps the VF from being returned to the
    host's namespace.
    """
    owner = host.ownership.read_owner(pci)
    if owner is None:
        if host.sysfs.read_override(pci):  # perhaps of an ADD that was killed before it had a record
            from ib_sriov_cni.attach.driver_override import restore_override

            restore_override(host, pci)
        return ()
    record = host.records.read(owner)
    if record is None or record.pci != pci:
        host.ownership.disclaim(pci, owner)
        return ()
    verdict = await_verdict(host, record)
    if not verdict.is_over:
        raise _refuse(record, key, verdict)
    had = host.sysfs.read_char_devices(pci) or record.had_char_devices
    _heal(host, record, lock_timeout)
    return had


def heal_other(host: Host, seen: Record, key: AttachmentKey, lock_timeout: float) -> None:
    """Release an attachment of another VF, under that VF's lock, if it is dead: `key` needs what it holds.

    To be called without any lock, so that nobody who holds a VF's waits for another's. Raises TryAgainLater (11) if the
    lock is held for longer than `lock_timeout` seconds, and what keeps the VF from being returned to the host.
    """
    with host.locks.take(seen.pci, key.holder, lock_timeout):
        record = host.records.read(seen.key)
        if record is None or record.pci != seen.pci or host.ownership.read_owner(seen.pci) != seen.key:
            return
        if await_verdict(host, record).is_over:
            _heal(host, record, lock_timeout)


def _heal(host: Host, record: Record, lock_timeout: float) -> None:
    """Release a dead attachment that owns its VF, with the VF's lock held."""
    with host.log.step("heal", vf=record.pci, owner=describe_attachment(record)):
        release_device(host, record, lock_timeout)
        request = make_del_request(record)
        collector = FaultCollector()
        if collector.attempt(lambda: release_addresses(host, request, parse_netconf(request, lenient=True))):
            forget(host, record)
            return
        # The VF is free. A fault of the dead pod's IPAM plugin must not keep the next pod from getting it.
        host.ownership.disclaim(record.pci, record.key)
        host.log.warning(
            "a dead attachment keeps its addresses until its DEL",
            of=describe_attachment(record),
            error=collector.faults[0],
        )


def _refuse(record: Record, key: AttachmentKey, verdict: Verdict) -> DeviceUnusable:
    if verdict.state == HIDDEN:
        return DeviceUnusable(
            f"VF {record.pci} belongs to {describe_attachment(record)}, and that its pod is gone is not proved: "
            f"{verdict.why}",
            "if that pod is gone, release the VF: ib-sriov del --force " + record.key.path,
        )
    return DeviceUnusable(
        f"VF {record.pci} is in use by {describe_attachment(record)}",
        "the device plugin must not allocate a VF twice; 'ib-sriov show' has details"
        if record.key != key
        else "this attachment exists already: send DEL before a second ADD",
    )


def release_dead(
    host: Host,
    key: AttachmentKey,
    lock_timeout: float,
    collector: FaultCollector,
    patience: Patience | None = None,
) -> bool:
    """Release an attachment under its VF's lock if it is dead. Returns whether it was; faults go to `collector`.

    Raises TryAgainLater (11) if the VF's lock is held for longer than `lock_timeout` seconds. `patience`: for a
    namespace that may just be ending.
    """
    record = host.records.read(key)
    if record is None:
        return False
    with host.locks.take(record.pci, key.holder, lock_timeout):
        # Read again under the lock: an ADD may have been running.
        record = host.records.read(key)
        if record is None or not await_verdict(host, record, patience.left if patience else 0.0).is_over:
            return False
        release_recorded(host, record, lock_timeout, collector)
        return True
