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
    from ib_sriov_cni.attach.driver_override import let_in

    let_in(host, pci, driver, lambda: _rebind(host, pci, driver, meanwhile))


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
