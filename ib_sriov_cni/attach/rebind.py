"""Rebind: unbinding a VF from its driver and binding it again."""

from __future__ import annotations

import time

from ib_sriov_cni.attach.devices import DEVICE_SECONDS, await_devices, await_fact
from ib_sriov_cni.attach.keep_numbers import keep_numbers
from ib_sriov_cni.core.errors import KernelRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.attach.keep_numbers import Renumbering
    from ib_sriov_cni.core.values import Link, PciAddress, RdmaDevice

BIND_TRIES = 3
LATE_SECONDS = 2.0  # for umad devices to appear after uverbs device and netdev


def rebind_in_turn(
    host: Host, pci: PciAddress, driver: str, how: Renumbering, *, appear_seconds: float = DEVICE_SECONDS
) -> tuple[RdmaDevice, Link]:
    """Rebind the VF, with the node's lock of rebinds, and return its devices in the host's namespace.

    Raises as `rebind` and `keep_numbers`, and DeviceUnusable (101) if the devices do not appear within
    `appear_seconds`.
    """

    def act() -> tuple[RdmaDevice, Link]:
        wanted = len(how.devices or host.sysfs.read_char_devices(pci))
        rebind(host, pci, driver)
        rdma, link = await_devices(host, pci, appear_seconds)
        if len(rdma.char_devices) < wanted:
            # The kernel makes them one after the other.
            await_fact(lambda: len(host.sysfs.read_char_devices(pci)) >= wanted or None, LATE_SECONDS)
        return rdma, link

    return keep_numbers(host, pci, how, act, operation="a rebind", again=True)


def bind_in_turn(host: Host, pci: PciAddress, driver: str, *, holder: str, seconds: float) -> None:
    """Bind a VF that has no driver, with the node's lock of rebinds: it must not get the numbers of a VF in between.

    Raises TryAgainLater (11) and KernelRefused (102).
    """
    with host.locks.take_for_rebind(holder, seconds):
        host.sysfs.bind(pci, driver)
        await_fact(lambda: host.sysfs.read_char_devices(pci) or None, LATE_SECONDS)


def rebind(host: Host, pci: PciAddress, driver: str) -> None:
    """Unbind the VF and bind it again. It takes the GUID set on the PF, with new devices in the host's namespace.

    Bind is tried BIND_TRIES times; then KernelRefused (102) is raised with the last reason, and the VF is left without
    driver. The record has the driver, so that the next DEL can bind it. What would keep the driver from being bound is
    put out of the way first: if that is refused (102), the VF keeps its driver.
    """
    if host.sysfs.is_bindable(pci, driver):
        _rebind(host, pci, driver)
        return
    # A kill before the last line leaves the VF to this driver, which is what the next rebind needs.
    was = host.sysfs.read_override(pci)
    with host.log.step("set_override", vf=pci, driver=driver, was=was):
        _set_override(host, pci, driver, was)
    try:
        _rebind(host, pci, driver)
    finally:
        _restore_override(host, pci, was)


def _set_override(host: Host, pci: PciAddress, driver: str, was: str) -> None:
    try:
        host.sysfs.set_override(pci, driver)
    except KernelRefused as refusal:
        other = f"driver_override of the VF says {was}" if was else "sriov_drivers_autoprobe of its PF is 0"
        refusal.details = f"{other}, so {driver} could not be bound again; nothing was unbound"
        raise


def _restore_override(host: Host, pci: PciAddress, was: str) -> None:
    try:
        host.sysfs.set_override(pci, was)
    except KernelRefused as refusal:
        host.log.warning("driver_override could not be restored", vf=pci, was=was, error=refusal)


def _rebind(host: Host, pci: PciAddress, driver: str) -> None:
    with host.log.step("unbind", vf=pci, driver=driver):
        host.sysfs.unbind(pci)
    with host.log.step("bind", vf=pci, driver=driver):
        for attempt in range(1, BIND_TRIES + 1):
            try:
                host.sysfs.bind(pci, driver)
                return
            except KernelRefused as refusal:
                if attempt == BIND_TRIES:
                    raise
                host.log.warning("bind failed, trying again", vf=pci, error=refusal)
                time.sleep(0.05 * attempt)
