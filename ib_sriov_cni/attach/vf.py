"""What the verbs of an attachment do to a VF alike: read its facts, bind it anew, wait for its devices."""

from __future__ import annotations

import errno
import time

from ib_sriov_cni.errors import CniError, DeviceUnusable, KernelRefused, TryAgainLater, VerificationFailed
from ib_sriov_cni.plan import Facts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from ib_sriov_cni.host import Host
    from ib_sriov_cni.model import Link, PciAddress, RdmaDevice
    from ib_sriov_cni.netns import Netns
    from ib_sriov_cni.records import Record
    from ib_sriov_cni.rtnl import Rtnl

    T = TypeVar("T")

NEW_NETDEV_SECONDS = 10.0  # for the netdev that is made anew when its RDMA device moves
DEVICE_SECONDS = 30.0  # for a VF's devices to appear after bind has returned
NAME_SECONDS = 5.0  # for a name to become free that another device has
BUSY_NAME_SECONDS = 20.0  # likewise, while a call works on that one
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

    Of the PF's VFs this one alone: the others' GUIDs matter only where one is given (`read_holders`).
    `with_mode`: the RDMA namespace mode too, which needs a socket of its own; without it is taken for shared.
    """
    function = host.sysfs.read_function(pci)
    if not function.pf_netdev:
        raise DeviceUnusable(
            f"VF {pci}: its PF {function.pf} has no netdev here, so the VF's GUID and link state cannot be set",
            "load ib_ipoib on the host, and keep the PF's netdev in the host's namespace",
        )
    pf_link, configs = host.vf_configs.read(function, alone=True)
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


def move_rdma(host: Host, pci: PciAddress, name: str, netns: Netns) -> None:
    """Move an RDMA device into a pod; under a name of its own where names are each namespace's and it has this one."""
    try:
        host.rdma.move_device(name, netns.fd)
    except KernelRefused as refusal:
        if refusal.errno != errno.EEXIST:
            raise
        host.rdma.set_name(name, rdma_aside(pci))
        host.rdma.move_device(rdma_aside(pci), netns.fd)


def find_new_netdev(host: Host, pci: PciAddress, pod: Rtnl) -> tuple[Link, bool]:
    """Find the netdev that replaces the one an RDMA device's move destroyed: at home or, since 6.17, in the pod.

    Tells whether it is at home.
    """

    def read() -> tuple[Link, bool] | None:
        link = read_netdev(host, pci)
        if link is not None:
            return link, True
        link = pod.find_link(pci)
        return (link, False) if link is not None else None

    found = await_fact(read, NEW_NETDEV_SECONDS)
    if found is None:
        raise VerificationFailed(
            f"VF {pci}: no netdev appeared within {NEW_NETDEV_SECONDS:.0f} s of its RDMA device's move",
            "is ib_ipoib loaded? see the kernel log",
        )
    return found


def restore_names(host: Host, record: Record, rdma: RdmaDevice, link: Link) -> None:
    """Give the VF's devices at home the names and settings they had before the ADD."""
    with host.log.step("restore_names", vf=record.pci, netdev=record.had_netdev, rdma=record.had_rdma):
        restore_rdma_name(host, record.pci, rdma, record.had_rdma)
        if record.had_netdev and link.name != record.had_netdev:

            def rename_netdev(name: str) -> None:
                host.rtnl.set_down(link)
                host.rtnl.set_name(link, name)

            def push_netdev() -> bool:
                return _push_aside(host, host.sysfs.read_netdev_function(record.had_netdev), netdev=record.had_netdev)

            _rename(host, rename_netdev, push_netdev, record.had_netdev, netdev_aside(record.pci))
        _restore_settings(host, record, link)


def restore_rdma_name(host: Host, pci: PciAddress, rdma: RdmaDevice, name: str) -> None:
    """Give the VF's RDMA device at home its name back."""
    if not name or rdma.name == name:
        return

    def rename(new: str) -> None:
        host.rdma.set_name(host.sysfs.read_rdma_name(pci) or rdma.name, new)

    def push() -> bool:
        return _push_aside(host, host.sysfs.read_rdma_function(name), rdma=name)

    _rename(host, rename, push, name, rdma_aside(pci))


def _rename(host: Host, rename: Callable[[str], None], push: Callable[[], bool], name: str, aside: str) -> None:
    """Rename; where another device has the name, see that it goes.

    The kernel gives out the lowest free name, so VFs that are bound at once get each other's. Ours steps aside, so
    that two of them cannot wait for each other; what a dead call has left with our name is pushed aside; a call that
    is on its way takes its VF away from our name by itself.
    """
    stepped_aside = False
    deadline = time.monotonic() + NAME_SECONDS

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
            if not push() and time.monotonic() > deadline:
                return False
            return None
        return True

    if not await_fact(attempt, BUSY_NAME_SECONDS):
        host.log.warning("name is taken by another device, not restored", name=name, now=aside)


def _push_aside(host: Host, pci: PciAddress | None, *, netdev: str = "", rdma: str = "") -> bool:
    """Take a name from a VF that should not have it by its record; tells whether the name is free, or will be.

    Under that VF's lock, if it can be had at once: whoever has it gives the name up.
    """
    owner = host.records.read_owner(pci) if pci else None
    if pci is None or owner is None:
        return False
    try:
        lock = host.locks.take(pci, f"{owner.container_id} {owner.ifname}", 0)
    except TryAgainLater:
        return True
    with lock:
        record = host.records.read(owner)
        if record is None or record.boot_id != host.read_boot_id() or (netdev or rdma) in _own_names(record):
            return False
        if netdev:
            link = host.rtnl.read_link(netdev)
            if link is not None and host.sysfs.read_netdev(pci) == netdev:
                _quietly(lambda: host.rtnl.set_down(link))
                _quietly(lambda: host.rtnl.set_name(link, netdev_aside(pci)))
        elif host.sysfs.read_rdma_function(rdma) == pci:
            _quietly(lambda: host.rdma.set_name(rdma, rdma_aside(pci)))
        return True


def _own_names(record: Record) -> tuple[str, str]:
    return (record.had_netdev, record.had_rdma)


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


def netdev_aside(pci: PciAddress) -> str:
    """Give a netdev's name that no other VF's has; at most 15 characters, with a domain of up to 32 bits."""
    return "s" + pci.replace(":", "").replace(".", "")


def rdma_aside(pci: PciAddress) -> str:
    """Give an RDMA device's name that no other VF's has."""
    return f"ib{netdev_aside(pci)}"
