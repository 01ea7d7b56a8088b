"""What makes a VF's character devices anew, one VF of the node at a time, so that each gets its numbers back.

The kernel gives out the lowest free number of each kind when a VF's driver is bound, and also when its RDMA device
moves to another network namespace: rdma_dev_change_netns (drivers/infiniband/core/device.c) removes all clients of the
device, of which uverbs and umad are two, and adds them again. So two VFs that are without numbers at once can get each
other's, and a container that was given the files of one would open the other's (core/device_numbers.py).
"""

from __future__ import annotations

import time

from ib_sriov_cni.core.device_numbers import free_numbers, missing_devices, predict_devices
from ib_sriov_cni.core.errors import DeviceUnusable
from ipam.protocol.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.values import PciAddress
    from ib_sriov_cni.state.locks import Lock

    T = TypeVar("T")


PAUSE = 0.05  # seconds between looks at a lower number that another call is about to take


class Renumbering(Value):
    """For whom, and under which conditions, a VF's character devices are made anew."""

    devices: tuple[str, ...] | None  # what the VF must have afterwards; None: what it has now
    holder: str  # for the lock
    seconds: float  # to wait for the lock
    may_change: bool  # other numbers are accepted; the caller looks


def keep_numbers(
    host: Host, pci: PciAddress, how: Renumbering, act: Callable[[], T], *, operation: str, again: bool = False
) -> T:
    """Call `act`, which makes the VF's devices anew, under the node's lock of rebinds; return what it returns.

    `operation` names it in messages. With `again` it is called a second time if that gives the VF its numbers back.
    Raises TryAgainLater (11) if the lock is held for too long; DeviceUnusable (101) if the VF's devices get other
    numbers: before `act` if that can be foreseen, else after it.
    """
    with host.log.step("lock_rebind", vf=pci):
        lock = _take_lock(host, pci, how)
    with lock:
        devices = host.sysfs.read_char_devices(pci) if how.devices is None else how.devices
        change = foresee_change(host, pci, devices)
        if change is not None and not how.may_change:
            from ib_sriov_cni.attach.number_gap import describe_gap

            raise DeviceUnusable(
                f"VF {pci} has {_words(devices)}; {operation} would give it {_words(change)}, and its container has "
                "the old ones",
                f"this was not done. {describe_gap(host, pci, devices)}",
            )
        found = act()
        has = host.sysfs.read_char_devices(pci)
        if again and missing_devices(devices, has) and foresee_change(host, pci, devices) is None:
            found = act()  # somebody who takes no lock had the number for a moment
            has = host.sysfs.read_char_devices(pci)
    if missing_devices(devices, has) and not how.may_change:
        raise DeviceUnusable(
            f"VF {pci} had {_words(devices)}; after {operation} it has {_words(has)}, and its container has the old "
            "ones",
            "something else on this node binds drivers at the same time; restart the device plugin, then delete the "
            "pod",
        )
    return found


def _take_lock(host: Host, pci: PciAddress, how: Renumbering) -> Lock:
    """Take the lock of rebinds, once nobody is about to take a lower number; in any case after `how.seconds`."""
    deadline = time.monotonic() + how.seconds
    while True:
        lock = host.locks.take_for_rebind(how.holder, how.seconds)
        try:
            if not _is_awaited(host, pci, how) or time.monotonic() > deadline:
                return lock
        except BaseException:
            lock.release()
            raise
        lock.release()
        time.sleep(PAUSE)


def _is_awaited(host: Host, pci: PciAddress, how: Renumbering) -> bool:
    """Return whether a running call is about to take a lower number that is free. Fills such gaps of killed calls."""
    devices = host.sysfs.read_char_devices(pci) if how.devices is None else how.devices
    if foresee_change(host, pci, devices) is None:
        return False
    # Only now: what it imports is rarely needed.
    from ib_sriov_cni.attach.number_gap import bind_interrupted

    return not bind_interrupted(host, pci, devices)


def foresee_change(host: Host, pci: PciAddress, devices: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the devices that the VF would have if they were made anew; None if those are `devices`."""
    now, used = host.sysfs.read_char_devices(pci), host.sysfs.read_all_char_devices()
    if not free_numbers(devices, now, used) and not missing_devices(devices, now):
        return None
    predicted = predict_devices(devices, now, used)
    return predicted if missing_devices(devices, predicted) else None


def _words(devices: tuple[str, ...]) -> str:
    return ", ".join(devices) or "no devices"
