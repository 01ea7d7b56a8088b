"""Restoring the names and settings of a VF's devices, even if another device has taken a name meanwhile."""

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

NAME_SECONDS = 5.0  # to wait for a name that another device has
BUSY_NAME_SECONDS = 20.0  # likewise, while that device's VF is locked by a running call


def restore_names(host: Host, record: Record, rdma: RdmaDevice, link: Link) -> None:
    """Restore the names and settings that the VF's devices had in the host's namespace before the ADD.

    A name that stays taken is logged; the device then keeps a temporary one. Raises KernelRefused (102) for any other
    reason that a device cannot be renamed.
    """
    with host.log.step("restore_names", vf=record.pci, netdev=record.had_netdev, rdma=record.had_rdma):
        restore_rdma_name(host, record.pci, rdma, record.had_rdma)
        if record.had_netdev and link.name != record.had_netdev:

            def rename_netdev(name: str) -> None:
                host.rtnl.set_down(link)
                host.rtnl.set_name(link, name)

            def free_name() -> bool:
                return _free_name(host, host.sysfs.read_netdev_function(record.had_netdev), netdev=record.had_netdev)

            _rename(host, rename_netdev, free_name, record.had_netdev, temporary_netdev_name(record.pci))
        _restore_settings(host, record, link)


def restore_rdma_name(host: Host, pci: PciAddress, rdma: RdmaDevice, name: str) -> None:
    """Rename the VF's RDMA device in the host's namespace to `name`, unless that is "". See restore_names."""
    if not name or rdma.name == name:
        return

    def rename(new: str) -> None:
        host.rdma.set_name(host.sysfs.read_rdma_name(pci) or rdma.name, new)

    def free_name() -> bool:
        return _free_name(host, host.sysfs.read_rdma_function(name), rdma=name)

    _rename(host, rename, free_name, name, temporary_rdma_name(pci))


def _rename(
    host: Host, rename: Callable[[str], None], free_name: Callable[[], bool], name: str, temporary: str
) -> None:
    """Rename a device to `name`. If another device has that name, first get it freed.

    The kernel gives out the lowest free name, so VFs that are bound at the same time get each other's. Ours takes its
    temporary name first, so that two of them cannot wait for each other. A device that a dead call left with our name
    is renamed here (`free_name`); a call that is still running gives the name up by itself.
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
                _quietly(lambda: rename(temporary))
            if not free_name() and time.monotonic() > deadline:
                return False
            return None
        return True

    if not await_fact(attempt, BUSY_NAME_SECONDS):
        host.log.warning("name not restored: another device has it", name=name, now=temporary)


def _free_name(host: Host, pci: PciAddress | None, *, netdev: str = "", rdma: str = "") -> bool:
    """Rename the device of VF `pci` that has a name which, by its record, it should not have.

    Returns whether the name is free, or soon will be: if that VF's lock is held, its holder will give the name up.
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
    """Restore what a move or a rebind loses: alternative names, MTU, up. None of them is worth a failed DEL."""
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
    """Return a netdev name unique to the VF: at most 15 characters, even with a PCI domain of 32 bits."""
    return "s" + pci.replace(":", "").replace(".", "")


def temporary_rdma_name(pci: PciAddress) -> str:
    """Return an RDMA device name unique to the VF."""
    return f"ib{temporary_netdev_name(pci)}"
