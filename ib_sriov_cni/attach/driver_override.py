"""Binding a VF to a driver that the node keeps away from it, by driver_override; and what it was, after a kill.

A VF gets no driver while driver_override names another one, or while it is empty and sriov_drivers_autoprobe of the PF
is 0. A call that has unbound the VF must bind it all the same, and leaves driver_override as the administrator had it.
"""

from __future__ import annotations

from ib_sriov_cni.core.errors import KernelRefused, StateFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.values import PciAddress


def bind(host: Host, pci: PciAddress, driver: str) -> None:
    """Bind a VF that a call has left without driver, also where the node would not. Raises KernelRefused (102)."""
    if host.sysfs.is_bindable(pci, driver):
        host.sysfs.bind(pci, driver)
    else:
        let_in(host, pci, driver, lambda: host.sysfs.bind(pci, driver))
    restore_override(host, pci)  # it was bindable, perhaps, because a killed call had changed it


def let_in(host: Host, pci: PciAddress, driver: str, act: Callable[[], None]) -> None:
    """Call `act`, which binds the VF to the driver, while driver_override admits that one; then restore it.

    Raises KernelRefused (102) before `act` if driver_override cannot be set, and what `act` raises.
    """
    was = host.sysfs.read_override(pci)
    with host.log.step("set_override", vf=pci, driver=driver, was=was):
        _set_override(host, pci, driver, was)
    try:
        act()
    finally:
        _restore_override(host, pci, was)


def _set_override(host: Host, pci: PciAddress, driver: str, was: str) -> None:
    try:
        host.overrides.note(pci, driver, was)
    except StateFailure as fault:  # /run is full: it is needed only after a kill
        host.log.warning("what driver_override was could not be noted", vf=pci, was=was, error=fault)
    try:
        host.sysfs.set_override(pci, driver)
    except KernelRefused as refusal:
        host.overrides.forget(pci)
        other = f"driver_override of the VF says {was}" if was else "sriov_drivers_autoprobe of its PF is 0"
        refusal.details = f"{other}, so {driver} could not be bound again; nothing was unbound"
        raise


def restore_override(host: Host, pci: PciAddress) -> None:
    """Give driver_override of a VF what it had before a rebind whose call was killed. Raises nothing.

    The VF's lock must be held. What somebody has written into it since stays.
    """
    now = host.sysfs.read_override(pci)
    noted = host.overrides.read(pci) if now else None  # nearly every VF has an empty one
    if noted is None:
        return
    driver, was = noted
    if now == driver:
        host.log.info("driver_override is restored after a call that was killed", vf=pci, now=now, was=was)
        _restore_override(host, pci, was)
    else:
        host.overrides.forget(pci)


def _restore_override(host: Host, pci: PciAddress, was: str) -> None:
    try:
        host.sysfs.set_override(pci, was)
    except KernelRefused as refusal:
        host.log.warning("driver_override could not be restored", vf=pci, was=was, error=refusal)
    else:
        host.overrides.forget(pci)
