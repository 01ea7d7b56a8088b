"""What the verbs of an attachment do to a VF alike: read its facts, bind it anew, wait for its devices."""

from __future__ import annotations

import errno
import time

from ib_sriov_cni.errors import CniError, DeviceUnusable, KernelRefused
from ib_sriov_cni.plan import Facts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from ib_sriov_cni.host import Host
    from ib_sriov_cni.model import Link, PciAddress, RdmaDevice
    from ib_sriov_cni.records import Record

    T = TypeVar("T")

DEVICE_SECONDS = 30.0  # for a VF's devices to appear after bind has returned
NAME_SECONDS = 5.0  # for a name to become free that another VF passes through
BIND_TRIES = 3
FIRST_PAUSE, LAST_PAUSE = 0.002, 0.1


def await_fact(read: Callable[[], T | None], seconds: float) -> T | None:
    """Ask until there is an answer, at every event of the host's netdevs, or give None after `seconds`."""
    found = read()
    if found is not None:
        return found
    from ib_sriov_cni.nlsock import LinkEvents

    events = LinkEvents()
    try:
        deadline = time.monotonic() + seconds
        pause = FIRST_PAUSE
        while True:
            # Not everything has an event (an RDMA device before 6.12, a name in sysfs): look now and then too.
            found = read()
            left = deadline - time.monotonic()
            if found is not None or left <= 0:
                return found
            events.wait(min(pause, left))
            pause = min(pause * 2, LAST_PAUSE)
    finally:
        events.close()


def read_netdev(host: Host, pci: PciAddress) -> Link | None:
    """Give the VF's netdev in the host's namespace, under whatever name udev has given it by now."""
    for name in host.sysfs.read_netdevs(pci):
        link = host.rtnl.read_link(name)
        if link is not None and not link.lower:  # a P_Key child may be here while its parent is in a pod
            return link
    return None


def read_home(host: Host, pci: PciAddress) -> tuple[RdmaDevice, Link] | None:
    """Give the VF's RDMA device and netdev if both are in the host's namespace."""
    rdma = host.sysfs.read_rdma(pci)
    if rdma is None or rdma.node_guid is None:
        return None
    link = read_netdev(host, pci)
    return (rdma, link) if link else None


def read_facts(host: Host, pci: PciAddress, *, with_mode: bool = True) -> Facts:
    """Read everything that decides. Raises DeviceUnusable (101) for what is no VF of a usable PF.

    `with_mode`: the RDMA namespace mode too, which needs a socket of its own; without it is taken for shared.
    """
    function = host.sysfs.read_function(pci)
    if not function.pf_netdev:
        raise DeviceUnusable(
            f"VF {pci}: its PF {function.pf} has no netdev here, so the VF's GUID and link state cannot be set",
            "load ib_ipoib on the host, and keep the PF's netdev in the host's namespace",
        )
    pf_link, configs = host.vf_configs.read(function)
    rdma = host.sysfs.read_rdma(pci)
    return Facts(
        function=function,
        pf_link=pf_link,
        configs=configs,
        rdma=rdma,
        netdev=read_netdev(host, pci),
        rdma_here=rdma is not None and rdma.node_guid is not None,
        mode=host.rdma.read_mode() if rdma and with_mode else "shared",
    )


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


def await_devices(host: Host, pci: PciAddress) -> tuple[RdmaDevice, Link]:
    """Wait for the VF's RDMA device and netdev in the host's namespace. DeviceUnusable says what is missing."""
    with host.log.step("await_devices", vf=pci) as step:
        found = await_fact(lambda: read_home(host, pci), DEVICE_SECONDS)
        if found is None:
            rdma = host.sysfs.read_rdma(pci)
            missing = "netdev (ib_ipoib)" if rdma and rdma.node_guid is not None else "RDMA device"
            raise DeviceUnusable(
                f"VF {pci}: its {missing} did not appear within {DEVICE_SECONDS:.0f} s after its driver was bound",
                "see the kernel log",
            )
        step.tell(rdma=found[0].name, netdev=found[1].name)
        return found


def restore_names(host: Host, record: Record, rdma: RdmaDevice, link: Link) -> None:
    """Give the VF's devices at home the names and settings they had before the ADD.

    Another VF may bear the name for a moment while it passes through (the kernel gives out the lowest free
    one): then ours steps aside under a name of its own, so that two VFs cannot wait for each other.
    """
    pci = record.pci
    with host.log.step("restore_names", vf=pci, netdev=record.had_netdev, rdma=record.had_rdma):
        if record.had_rdma and rdma.name != record.had_rdma:

            def rename_rdma(name: str) -> None:
                now = host.sysfs.read_rdma(pci)
                host.rdma.set_name(now.name if now else rdma.name, name)

            _rename(host, rename_rdma, record.had_rdma, f"ib{aside_name(pci)}")
        if record.had_netdev and link.name != record.had_netdev:

            def rename_netdev(name: str) -> None:
                host.rtnl.set_down(link)
                host.rtnl.set_name(link, name)

            _rename(host, rename_netdev, record.had_netdev, aside_name(pci))
        _restore_settings(host, record, link)


def _rename(host: Host, rename: Callable[[str], None], name: str, aside: str) -> None:
    stepped_aside = False

    def attempt() -> bool | None:
        nonlocal stepped_aside
        try:
            rename(name)
        except KernelRefused as refusal:
            if refusal.errno != errno.EEXIST:
                raise
            if not stepped_aside:
                stepped_aside = True
                _quietly(lambda: rename(aside))
            return None
        return True

    if await_fact(attempt, NAME_SECONDS) is None:
        host.log.warning("name is taken by another device, not restored", name=name, now=aside)


def _restore_settings(host: Host, record: Record, link: Link) -> None:
    """Alternative names, MTU and administrative state are lost or changed on the way; none is worth a failed DEL."""
    for name in link.altnames:
        if name not in record.had_altnames:
            _quietly(lambda name=name: host.rtnl.remove_altname(link, name))  # type: ignore[misc]  # bound per turn
    for name in record.had_altnames:
        if name not in link.altnames:
            _quietly(lambda name=name: host.rtnl.add_altname(link, name))  # type: ignore[misc]  # bound per turn
    if record.had_mtu and link.mtu != record.had_mtu:
        _quietly(lambda: host.rtnl.set_mtu(link, record.had_mtu))
    if record.had_up:
        _quietly(lambda: host.rtnl.set_up(link))


def _quietly(action: Callable[[], None]) -> None:
    try:
        action()
    except CniError:
        pass


def pod_of(record: Record) -> str:
    """Name an attachment for a message."""
    who = f"pod {record.pod}" if record.pod else f"container {record.key.container_id}"
    return f"{who} (network {record.key.network}, {record.key.ifname})"


def aside_name(pci: PciAddress) -> str:
    """A name for a moment that no other VF takes; of at most 15 characters, with a domain of up to 32 bits."""
    return "s" + pci.replace(":", "").replace(".", "")
