"""A VF that cannot have its device numbers: a lower one is free, or another VF has them. Why, and what helps."""

from __future__ import annotations

from ib_sriov_cni.attach.devices import await_fact
from ib_sriov_cni.attach.driver_override import bind
from ib_sriov_cni.attach.liveness import await_verdict
from ib_sriov_cni.attach.rebind import rebind
from ib_sriov_cni.core.device_numbers import free_numbers, parse_device
from ib_sriov_cni.core.errors import KernelRefused, TryAgainLater
from ib_sriov_cni.core.record import describe_attachment
from ib_sriov_cni.core.values import PciAddress, is_pass_through

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.record import Record

APPEAR_SECONDS = 10.0  # for the devices of a VF that was bound
DEATH_SECONDS = 1.0  # for a namespace to end
NAMED = 3  # VFs in a message


def bind_interrupted(host: Host, pci: PciAddress, devices: tuple[str, ...]) -> bool:
    """Bind the VFs that a killed call has left without driver, if they had lower numbers, which are free.

    Returns False if a running call has the lock of one of them: it is about to bind it. To be called with the lock of
    rebinds, so the lock of another VF is not waited for.
    """
    limit, used = _lowest(devices), host.sysfs.read_all_char_devices()
    found = [
        record
        for record in _read_unbound(host)
        if record.pci != pci
        and _lowest(record.had_char_devices) < limit
        and not any(name in used for name in record.had_char_devices)
    ]
    # Each gets the lowest number that is free then, so none is bound before those with lower ones.
    found.sort(key=lambda record: _lowest(record.had_char_devices))
    try:
        for record in found:
            _bind(host, record)
    except TryAgainLater:
        return False
    return True


def rebind_holders(host: Host, pci: PciAddress, devices: tuple[str, ...]) -> None:
    """Rebind the VFs of dead attachments that have one of `devices`, which are those of VF `pci`.

    To be called with the lock of rebinds: a VF whose own lock is held is left to its holder. A VF without a record is
    left alone: a pod may be about to get it, and a kill in the middle would leave it without driver for good.
    """
    for name, key in host.ownership.read_owners():
        other = PciAddress(name)
        if other == pci or not set(devices).intersection(host.sysfs.read_char_devices(other)):
            continue
        try:
            with host.locks.take(other, key.holder, 0):
                record = host.records.read(key)
                if record is None or record.pci != other or not await_verdict(host, record, DEATH_SECONDS).is_over:
                    continue
                host.log.warning("rebinding the VF of a dead attachment: it has device numbers of another VF", vf=other)
                rebind(host, other, host.sysfs.read_driver(other) or record.driver)
                await_fact(lambda other=other: host.sysfs.read_char_devices(other) or None, APPEAR_SECONDS)  # type: ignore[misc]
        except TryAgainLater:
            continue
        except KernelRefused as refusal:
            host.log.warning("a VF of a dead attachment could not be rebound", vf=other, error=refusal)


def describe_gap(host: Host, pci: PciAddress, devices: tuple[str, ...]) -> str:
    """Return which numbers are free below a VF's `devices`, which VF may have had them, and what to do."""
    free = free_numbers(devices, host.sysfs.read_char_devices(pci), host.sysfs.read_all_char_devices())
    if not free:
        return "Another device has the numbers now: restart the device plugin, then delete the pod"
    empty = [other for other in _read_vfs(host) if other != pci and not host.sysfs.read_char_devices(other)]
    words = f"Free is {', '.join(free[:NAMED])}"
    if not empty:
        return (
            f"{words}; no VF is without devices. Rebind this VF while no pod has it (echo {pci} to unbind, then to "
            "bind, of its driver), restart the device plugin, then delete the pod"
        )
    held = {record.pci: describe_attachment(record) for record in _read_unbound(host)}
    named = [f"{other} ({host.sysfs.read_driver(other) or held.get(other) or 'no driver'})" for other in empty[:NAMED]]
    more = f" and {len(empty) - NAMED} more" if len(empty) > NAMED else ""
    return (
        f"{words}; without devices: VF {', '.join(named)}{more}. Bind it (echo {empty[0]} > "
        "/sys/bus/pci/drivers_probe), and the next try succeeds. If it is to stay so, rebind this VF while no pod has "
        "it, restart the device plugin, then delete the pod"
    )


def _read_vfs(host: Host) -> list[PciAddress]:
    return [pci for pf in host.sysfs.read_pfs() for pci in host.sysfs.read_vfs(pf)]


def _read_unbound(host: Host) -> list[Record]:
    """Return the records, of this boot, whose VFs have lost their driver."""
    found = []
    for name, key in host.ownership.read_owners():
        pci = PciAddress(name)
        if host.sysfs.read_driver(pci) or not host.sysfs.exists(pci):
            continue
        record = host.records.read(key)
        if record is None or record.pci != pci or record.boot_id != host.read_boot_id():
            continue
        if record.driver and not is_pass_through(record.driver):
            found.append(record)
    return found


def _lowest(devices: tuple[str, ...]) -> int:
    return min([found[1] for found in map(parse_device, devices) if found is not None], default=1 << 32)


def _bind(host: Host, record: Record) -> None:
    """Bind a VF under its lock. Raises TryAgainLater (11) if another call has that; other faults are logged."""
    pci = record.pci
    with host.locks.take(pci, record.key.holder, 0):
        try:
            with host.log.step("bind_interrupted", vf=pci):
                bind(host, pci, record.driver)
                await_fact(lambda: host.sysfs.read_char_devices(pci) or None, APPEAR_SECONDS)
        except KernelRefused as refusal:
            host.log.warning("a VF that a killed call has unbound stays without driver", vf=pci, error=refusal)
