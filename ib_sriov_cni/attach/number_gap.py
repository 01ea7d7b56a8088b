"""A VF that cannot have its device numbers: a lower one is free, or another VF has them. Why, and what helps."""

from __future__ import annotations

from ib_sriov_cni.attach.devices import await_fact
from ib_sriov_cni.attach.driver_override import bind
from ib_sriov_cni.attach.liveness import await_verdict
from ib_sriov_cni.core.device_numbers import free_numbers, parse_device
from ib_sriov_cni.core.errors import KernelRefused, TryAgainLater
from ib_sriov_cni.core.record import describe_attachment
from ib_sriov_cni.core.values import PciAddress, is_pass_through

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.record import Record
    from ib_sriov_cni.state.locks import Lock

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
            with host.locks.take(record.pci, record.key.holder, 0):
                _bind(host, record)
    except TryAgainLater:
        return False
    return True


class Holders:
    """The VFs of dead attachments that have numbers of VF `pci`: unbound, and bound again by `bind`.

    To be used with the lock of rebinds. A VF whose own lock is held is left to its holder. A VF without a record is
    left alone: a pod may be about to get it, and a kill in the middle would leave it without driver for good.
    """

    def __init__(self, host: Host, pci: PciAddress, devices: tuple[str, ...]) -> None:
        """`devices`: those that VF `pci` must have."""
        self._host, self._pci, self._devices = host, pci, devices
        self._unbound: list[tuple[Record, Lock]] = []

    @property
    def count(self) -> int:
        """How many are unbound."""
        return len(self._unbound)

    def unbind(self) -> None:
        """Unbind those that can be."""
        host = self._host
        for name, key in host.ownership.read_owners():
            pci = PciAddress(name)
            if pci == self._pci or not set(self._devices).intersection(host.sysfs.read_char_devices(pci)):
                continue
            try:
                lock = host.locks.take(pci, key.holder, 0)
            except TryAgainLater:
                continue
            record = host.records.read(key)
            if record is None or record.pci != pci or not self._unbind(record):
                lock.release()
                continue
            self._unbound.append((record, lock))
            self._unbound.sort(key=lambda item: _lowest(item[0].had_char_devices))

    def _unbind(self, record: Record) -> bool:
        if not record.driver or not await_verdict(self._host, record, DEATH_SECONDS).is_over:
            return False
        try:
            with self._host.log.step("unbind_holder", vf=record.pci):
                self._host.sysfs.unbind(record.pci)
        except KernelRefused as refusal:
            self._host.log.warning("a dead attachment's VF could not be unbound", vf=record.pci, error=refusal)
            return False
        return True

    def bind(self, count: int) -> None:
        """Bind so many of them, those with the lowest numbers first."""
        for _ in range(count):
            record, lock = self._unbound.pop(0)
            with lock:
                _bind(self._host, record)


def is_waited_for(host: Host, pci: PciAddress) -> bool:
    """Return whether a VF without driver, of an attachment, is to have a number that VF `pci` has."""
    has = set(host.sysfs.read_char_devices(pci))
    return any(has.intersection(record.had_char_devices) for record in _read_unbound(host) if record.pci != pci)


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
    """Bind a VF, with its lock. Faults are logged."""
    pci = record.pci
    try:
        with host.log.step("bind_interrupted", vf=pci):
            bind(host, pci, record.driver)
            await_fact(lambda: host.sysfs.read_char_devices(pci) or None, APPEAR_SECONDS)
    except KernelRefused as refusal:
        host.log.warning("a VF of a dead attachment stays without driver", vf=pci, error=refusal)
