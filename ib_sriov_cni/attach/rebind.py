"""Taking a VF from its driver and giving it back."""

from __future__ import annotations

import time

from ib_sriov_cni.core.errors import KernelRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.values import PciAddress

BIND_TRIES = 3


def rebind(host: Host, pci: PciAddress, driver: str) -> None:
    """Take the VF from its driver and give it back, which brings it home and makes it take its GUID.

    A bind that fails is tried again; KernelRefused (102) with the last reason. The VF may then be unbound,
    which the record tells the next DEL.
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
