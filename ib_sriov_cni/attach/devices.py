"""Reading a VF's facts and its devices in the host's namespace, and waiting for them to appear."""

from __future__ import annotations

import time

from ib_sriov_cni.core.errors import DeviceUnusable
from ib_sriov_cni.core.plan import VfFacts
from ipam.protocol.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.values import Link, PciAddress, RdmaDevice

    T = TypeVar("T")

DEVICE_SECONDS = 30.0  # for a VF's devices to appear after bind has returned
RETURN_SECONDS = 5.0  # for the kernel to return the devices of a dead namespace (measured: 0.6 s)
FIRST_PAUSE, LAST_PAUSE = 0.002, 0.1


def await_fact(read: Callable[[], T | None], seconds: float) -> T | None:
    """Call `read` until it returns something, and return that; None after `seconds`.

    It is called at every event of the host's netdevs, and every 0.1 s at least.
    """
    found = read()
    if found is not None:
        return found
    from ib_sriov_cni.kernel.netlink_socket import LinkEvents

    events = LinkEvents()
    try:
        deadline = time.monotonic() + seconds
        pause = FIRST_PAUSE
        while True:
            # Not everything has an event (an RDMA device before Linux 6.12, a name in sysfs), hence the pause.
            found = read()
            left = deadline - time.monotonic()
            if found is not None or left <= 0:
                return found
            events.wait(min(pause, left))
            pause = min(pause * 2, LAST_PAUSE)
    finally:
        events.close()


def read_netdev(host: Host, pci: PciAddress) -> Link | None:
    """Return the VF's netdev in the host's namespace, whatever name udev has given it; None if it is not there."""
    for name in host.sysfs.read_netdevs(pci):
        link = host.rtnl.read_link(name)
        if link is not None and not link.lower:  # a P_Key child may be here while its parent is in a pod
            return link
    return None


def read_host_devices(host: Host, pci: PciAddress) -> tuple[RdmaDevice, Link] | None:
    """Return the VF's RDMA device and netdev if both are in the host's namespace, else None."""
    rdma = host.sysfs.read_rdma(pci)
    if rdma is None or rdma.node_guid is None:
        return None
    link = read_netdev(host, pci)
    return (rdma, link) if link else None


def read_vf_facts(host: Host, pci: PciAddress, *, with_mode: bool = True) -> VfFacts:
    """Read what plan_add decides on, but for the PF's settings (`read_pf_settings`).

    Raises DeviceUnusable (101) if there is no such device, or its PF has no netdev.
    `with_mode`: read the RDMA namespace mode too, which takes a socket of its own; otherwise it is given as shared.
    """
    function = host.sysfs.read_function(pci)
    if function.pf is not None and not function.pf_netdev:
        raise DeviceUnusable(
            f"VF {pci}: its PF {function.pf} has no netdev here, so its GUID and link state cannot be set",
            "load ib_ipoib on the host, and keep the PF's netdev in the host's namespace",
        )
    rdma, netdev = host.sysfs.read_rdma(pci), read_netdev(host, pci)
    here = rdma is not None and rdma.node_guid is not None
    return VfFacts(
        function=function,
        pf_link=None,
        configs={},
        rdma=rdma,
        netdev=netdev,
        rdma_here=here,
        link_layers=host.sysfs.read_link_layers(rdma.name) if rdma is not None and here else (),
        ipoib=netdev is not None or host.sysfs.has_module("ib_ipoib"),
        mode=host.rdma.read_mode() if rdma and with_mode else "shared",
    )


def read_pf_settings(host: Host, facts: VfFacts, *, alone: bool) -> VfFacts:
    """Return the facts with the PF's netdev and its settings of its VFs, or of this VF only (`alone`).

    To be called once: for each read the kernel asks the firmware about every VF (mlx5_ib_get_vf_config).
    """
    if facts.function.pf is None:
        return facts
    pf_link, configs = host.vf_configs.read(facts.function, alone=alone)
    return replace(facts, pf_link=pf_link, configs=configs)


def await_devices(host: Host, pci: PciAddress, seconds: float = DEVICE_SECONDS) -> tuple[RdmaDevice, Link]:
    """Wait for the VF's RDMA device and netdev, and return them. DeviceUnusable (101) says which did not appear."""
    with host.log.step("await_devices", vf=pci) as step:
        if not host.sysfs.has_module("ib_ipoib"):
            seconds = 0.0  # there will be no netdev
        found = await_fact(lambda: read_host_devices(host, pci), seconds)
        if found is None:
            rdma = host.sysfs.read_rdma(pci)
            missing = "netdev (ib_ipoib)" if rdma and rdma.node_guid is not None else "RDMA device"
            raise DeviceUnusable(
                f"VF {pci}: its {missing} did not appear within {seconds:.0f} s after its driver was bound",
                "see the kernel log",
            )
        step.note(rdma=found[0].name, netdev=found[1].name)
        return found
