"""Restoring the names and settings of a VF's devices, even if another device has taken a name meanwhile.

Names are for people: a VF with another one serves the next pod as well. So a name that the kernel does not let us
restore is tried again while that may help, then logged, and never a reason to fail.
"""

from __future__ import annotations

import errno
import time

from ib_sriov_cni.attach.devices import await_fact, read_netdev
from ib_sriov_cni.core.errors import CniError, KernelRefused, TryAgainLater
from ib_sriov_cni.core.fault_collector import FaultCollector

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.record import Record
    from ib_sriov_cni.core.values import Link, PciAddress, RdmaDevice

NAME_SECONDS = 5.0  # to wait for a name that another device has
BUSY_NAME_SECONDS = 20.0  # likewise, while that device's VF is locked by a running call
RENAMED_SECONDS = 1.0  # to try again while udev or NetworkManager works on the device
# What they cause: the device has another name by now, or (a reason before Linux 6.12) is up again.
RENAMED = (errno.ENODEV, errno.ENOENT, errno.EBUSY)


def restore_names(host: Host, record: Record, rdma: RdmaDevice, link: Link) -> None:
    """Restore the names and settings that the VF's devices had in the host's namespace before the ADD.

    What cannot be restored is logged.
    """
    with host.log.step("restore_names", vf=record.pci, netdev=record.had_netdev, rdma=record.had_rdma):
        restore_rdma_name(host, record.pci, rdma, record.had_rdma)
        link = read_netdev(host, record.pci) or link  # udev may have renamed it since
        if record.had_netdev and link.name != record.had_netdev:

            def rename_netdev(name: str) -> None:
                now = read_netdev(host, record.pci) or link
                host.rtnl.set_down(now)
                host.rtnl.set_name(now, name)

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
    begun = time.monotonic()
    reason = ""

    def attempt() -> bool | None:
        nonlocal is_renamed, reason
        try:
            rename(name)
        except KernelRefused as refusal:
            waited = time.monotonic() - begun
            if refusal.errno != errno.EEXIST:  # EINVAL: kernels before 4.20 cannot rename RDMA devices
                reason = str(refusal)
                return None if refusal.errno in RENAMED and waited < RENAMED_SECONDS else False
            reason = "another device has it"
            if not is_renamed:
                is_renamed = True
                _quietly(lambda: rename(temporary))
            return None if free_name() or waited < NAME_SECONDS else False
        return True

    try:
        is_done = await_fact(attempt, BUSY_NAME_SECONDS)
    except CniError as fault:  # of looking at who has the name
        is_done, reason = False, str(fault)
    if not is_done:
        words = f"name not restored: {reason}"
        host.log.warning(words, name=name)


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
        if record is None or host.is_from_earlier_boot(record) or (netdev or rdma) in _own_names(record):
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
    collector = FaultCollector()
    for name in link.altnames:
        if name not in record.had_altnames:
            collector.attempt(host.rtnl.remove_altname, link, name)
    for name in record.had_altnames:
        if name not in link.altnames:
            collector.attempt(host.rtnl.add_altname, link, name)
    if record.had_mtu and link.mtu != record.had_mtu:
        collector.attempt(host.rtnl.set_mtu, link, record.had_mtu)
    if record.had_up:
        collector.attempt(host.rtnl.set_up, link)
    for fault in collector.faults:
        host.log.warning("setting not restored", vf=record.pci, error=fault)


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
