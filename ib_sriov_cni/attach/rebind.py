"""Rebind: unbinding a VF from its driver and binding it again."""

from __future__ import annotations

import time

from ib_sriov_cni.core.errors import KernelRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.values import PciAddress

BIND_TRIES = 3


def rebind(host: Host, pci: PciAddress, driver: str, meanwhile: Callable[[], None] | None = None) -> None:
    """Unbind the VF and bind it again. It takes the GUID set on the PF, with new devices in the host's namespace.

    `meanwhile` is called in between; what it raises is raised once the VF is bound.

    Bind is tried BIND_TRIES times; then KernelRefused (102) is raised with the last reason, and the VF is left without
    driver. The record has the driver, so that the next DEL can bind it. What would keep the driver from being bound is
    put out of the way first: if that is refused (102), the VF keeps its driver.
    """
    if host.sysfs.is_bindable(pci, driver):
        _rebind(host, pci, driver, meanwhile)
        return
    # A kill before the last line leaves the VF to this driver, which is what the next rebind needs.
    was = host.sysfs.read_override(pci)
    with host.log.step("set_override", vf=pci, driver=driver, was=was):
        _set_override(host, pci, driver, was)
    try:
        _rebind(host, pci, driver, meanwhile)
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


def _rebind(host: Host, pci: PciAddress, driver: str, meanwhile: Callable[[], None] | None) -> None:
    with host.log.step("unbind", vf=pci, driver=driver):
        host.sysfs.unbind(pci)
    try:
        if meanwhile is not None:
            meanwhile()
    finally:
        _bind(host, pci, driver)


def _bind(host: Host, pci: PciAddress, driver: str) -> None:
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
