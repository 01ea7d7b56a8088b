"""Rebind: unbinding a VF from its driver and binding it again."""

from __future__ import annotations

import time

from ib_sriov_cni.core.errors import KernelRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.values import PciAddress

BIND_TRIES = 3


def rebind(host: Host, pci: PciAddress, driver: str) -> None:
    """Unbind the VF and bind it again. It takes the GUID set on the PF, with new devices in the host's namespace.

    Bind is tried BIND_TRIES times; then KernelRefused (102) is raised with the last reason, and the VF is left without
    driver. The record has the driver, so that the next DEL can bind it.
    """
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
