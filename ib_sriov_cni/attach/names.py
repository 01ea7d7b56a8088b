"""Giving a VF's devices the names they had, also where another device has taken one."""

from __future__ import annotations

import errno
import time

from ib_sriov_cni.attach.devices import await_fact
from ib_sriov_cni.core.errors import CniError, KernelRefused, TryAgainLater

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.record import Record
    from ib_sriov_cni.core.values import Link, PciAddress, RdmaDevice

NAME_SECONDS = 5.0  # for a name to become free that another device has
BUSY_NAME_SECONDS = 20.0  # likewise, while a call works on that one


def restore_names(host: Host, record: Record, rdma: RdmaDevice, link: Link) -> None:
    """Give the VF's devices at home the names and settings they had before the ADD."""
    with host.log.step("restore_names", vf=record.pci, netdev=record.had_netdev, rdma=record.had_rdma):
        restore_rdma_name(host, record.pci, rdma, record.had_rdma)
        if record.had_netdev and link.name != record.had_netdev:

            def rename_netdev(name: str) -> None:
                host.rtnl.set_down(link)
                host.rtnl.set_name(link, name)

            def push_netdev() -> bool:
                return _take_name_away(
                    host, host.sysfs.read_netdev_function(record.had_netdev), netdev=record.had_netdev
                )

            _rename(host, rename_netdev, push_netdev, record.had_netdev, temporary_netdev_name(record.pci))
        _restore_settings(host, record, link)


def restore_rdma_name(host: Host, pci: PciAddress, rdma: RdmaDevice, name: str) -> None:
    """Give the VF's RDMA device at home its name back."""
    if not name or rdma.name == name:
        return

    def rename(new: str) -> None:
        host.rdma.set_name(host.sysfs.read_rdma_name(pci) or rdma.name, new)

    def push() -> bool:
        return _take_name_away(host, host.sysfs.read_rdma_function(name), rdma=name)

    _rename(host, rename, push, name, temporary_rdma_name(pci))


def _rename(host: Host, rename: Callable[[str], None], push: Callable[[], bool], name: str, aside: str) -> None:
    """Rename; where another device has the name, see that it goes.

    The kernel gives out the lowest free name, so VFs that are bound at once get each other's. Ours steps aside, so
    that two of them cannot wait for each other; what a dead call has left with our name is pushed aside; a call that
    is on its way takes its VF away from our name by itself.
    """
    is_renamed = False
    deadline = time.monotonic() + NAME_SECONDS

    def attempt() -> bool | None:
        nonlocal is_renamed
        try:
            rename(name)
        except KernelRefused as refusal:
            if refusal.errno != errno.EEXIST:
                raise
            if not is_renamed:
                is_renamed = True
                _quietly(lambda: rename(aside))
            if not push() and time.monotonic() > deadline:
                return False
            return None
        return True

    if not await_fact(attempt, BUSY_NAME_SECONDS):
        host.log.warning("name is taken by another device, not restored", name=name, now=aside)


def _take_name_away(host: Host, pci: PciAddress | None, *, netdev: str = "", rdma: str = "") -> bool:
    """Take a name from a VF that should not have it by its record; tells whether the name is free, or will be.

    Under that VF's lock, if it can be had at once: whoever has it gives the name up.
    """
    owner = host.ownership.read_owner(pci) if pci else None
    if pci is None or owner is None:
        return False
    try:
        lock = host.locks.take(pci, owner.holder, 0)
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
                _quietly(lambda: host.rtnl.set_name(link, temporary_netdev_name(pci)))
        elif host.sysfs.read_rdma_function(rdma) == pci:
            _quietly(lambda: host.rdma.set_name(rdma, temporary_rdma_name(pci)))
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


def temporary_netdev_name(pci: PciAddress) -> str:
    """Give a netdev's name that no other VF's has; at most 15 characters, with a domain of up to 32 bits."""
    return "s" + pci.replace(":", "").replace(".", "")


def temporary_rdma_name(pci: PciAddress) -> str:
    """Give an RDMA device's name that no other VF's has."""
    return f"ib{temporary_netdev_name(pci)}"
