"""What makes a VF's character devices anew, one VF of the node at a time, so that each gets its numbers back.

The kernel gives out the lowest free number of each kind when a VF's driver is bound, and also when its RDMA device
moves to another network namespace: rdma_dev_change_netns (drivers/infiniband/core/device.c) removes all clients of the
device, of which uverbs and umad are two, and adds them again. So two VFs that are without numbers at once can get each
other's, and a container that was given the files of one would open the other's (core/device_numbers.py).
"""

from __future__ import annotations

import time

from ib_sriov_cni.attach.devices import DEVICE_SECONDS, await_devices, await_fact
from ib_sriov_cni.attach.rebind import rebind
from ib_sriov_cni.core.device_numbers import free_numbers, missing_devices, numbers_of, predict_devices
from ib_sriov_cni.core.errors import DeviceUnusable
from ipam.protocol.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.attach.number_gap import Holders
    from ib_sriov_cni.core.values import Link, PciAddress, RdmaDevice
    from ib_sriov_cni.state.locks import Lock

    T = TypeVar("T")


# Seconds:
PAUSE = 0.05  # between looks at a lower number that another call is about to take
LATE = 2.0  # for umad devices to appear after uverbs device and netdev
EXCHANGE = 5.0  # for another VF to give up a number of this one, which is without driver meanwhile
SETTLE = 2.0  # for a namespace that is ending to have returned its RDMA device


class Renumbering(Value):
    """For whom, and under which conditions, a VF's character devices are made anew."""

    devices: tuple[str, ...] | None  # what the VF must have afterwards; None: what it has now
    holder: str  # for the lock
    seconds: float  # to wait for the lock
    may_change: bool  # other numbers are accepted; the caller looks


def keep_numbers(
    host: Host,
    pci: PciAddress,
    how: Renumbering,
    act: Callable[[], T],
    *,
    operation: str,
    again: Callable[[], T] | None = None,
) -> T:
    """Call `act`, which makes the VF's devices anew, under the node's lock of rebinds; return what it returns.

    `operation` names it in messages. If the VF gets other numbers all the same, it is rebound once it can have its own
    (`_exchange`), and then `again` is called: an RDMA device that returns from a namespace that ends takes no
    lock, and can take a number at that moment. Raises TryAgainLater (11) if the lock is held for too long;
    DeviceUnusable (101) if the VF's devices get other numbers: before `act` if that can be foreseen, else after it.
    """
    with host.log.step("lock_rebind", vf=pci):
        lock = _take_lock(host, pci, how)
    try:
        devices = _wanted_devices(host, pci, how)
        change = foresee_change(host, pci, devices)
        if change is not None and not how.may_change and not await_numbers(host, pci, devices):
            from ib_sriov_cni.attach.number_gap import describe_gap

            raise DeviceUnusable(
                f"VF {pci} has {_words(devices)}; {operation} would give it {_words(change)}, and its container has "
                "the old ones",
                f"this was not done. {describe_gap(host, pci, devices)}",
            )
        found = act()
        if again is not None and missing_devices(devices, host.sysfs.read_char_devices(pci)):
            from ib_sriov_cni.attach.number_gap import Holders, is_waited_for

            if not how.may_change or is_waited_for(host, pci):
                words = "another device took a number of the VF's; rebinding it"
                host.log.warning(words, vf=pci, devices=_words(devices))
                driver = host.sysfs.read_driver(pci)
                holders = Holders(host, pci, devices)
                try:
                    rebind(host, pci, driver, lambda: _exchange(host, pci, devices, how, lock, holders))
                finally:
                    holders.bind(holders.count)
                found = again()
        has = host.sysfs.read_char_devices(pci)
    finally:
        lock.release()
    if missing_devices(devices, has) and not how.may_change:
        raise DeviceUnusable(
            f"VF {pci} had {_words(devices)}; after {operation} it has {_words(has)}, and its container has the old "
            "ones",
            "something else on this node binds drivers at the same time; restart the device plugin, then delete the "
            "pod",
        )
    return found


def rebind_in_turn(
    host: Host, pci: PciAddress, driver: str, how: Renumbering, *, appear_seconds: float = DEVICE_SECONDS
) -> tuple[RdmaDevice, Link]:
    """Rebind the VF, with the node's lock of rebinds, and return its devices in the host's namespace.

    Raises as `rebind` and `keep_numbers`, and DeviceUnusable (101) if the devices do not appear within
    `appear_seconds`.
    """
    count = len(_wanted_devices(host, pci, how))

    def read() -> tuple[RdmaDevice, Link]:
        return await_all_devices(host, pci, count, appear_seconds)

    def act() -> tuple[RdmaDevice, Link]:
        rebind(host, pci, driver)
        return read()

    return keep_numbers(host, pci, how, act, operation="a rebind", again=read)


def await_all_devices(
    host: Host, pci: PciAddress, count: int, seconds: float = DEVICE_SECONDS
) -> tuple[RdmaDevice, Link]:
    """Wait for the VF's RDMA device and netdev, and then up to LATE seconds for `count` character devices.

    Raises DeviceUnusable (101) if RDMA device or netdev do not appear within `seconds`.
    """
    rdma, link = await_devices(host, pci, seconds)
    if len(rdma.char_devices) < count:
        # The kernel makes them one after the other.
        await_fact(lambda: len(host.sysfs.read_char_devices(pci)) >= count or None, LATE)
    return rdma, link


def bind_in_turn(host: Host, pci: PciAddress, driver: str, *, holder: str, seconds: float) -> None:
    """Bind a VF that has no driver, with the node's lock of rebinds: it must not get the numbers of a VF in between.

    Raises TryAgainLater (11) and KernelRefused (102).
    """
    from ib_sriov_cni.attach.driver_override import bind

    with host.locks.take_for_rebind(holder, seconds):
        bind(host, pci, driver)
        await_fact(lambda: host.sysfs.read_char_devices(pci) or None, LATE)


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
    devices = _wanted_devices(host, pci, how)
    if foresee_change(host, pci, devices) is None:
        return False
    # Only now: what it imports is rarely needed.
    from ib_sriov_cni.attach.number_gap import bind_interrupted

    return not bind_interrupted(host, pci, devices)


def await_numbers(host: Host, pci: PciAddress, devices: tuple[str, ...]) -> bool:
    """Wait up to SETTLE seconds until the VF would have `devices` if they were made anew. Returns whether it would.

    A call that waits for the numbers that the VF has now will give up others, so this returns True then too.
    """
    from ib_sriov_cni.attach.number_gap import is_waited_for

    def read() -> bool | None:
        return foresee_change(host, pci, devices) is None or is_waited_for(host, pci) or None

    return bool(await_fact(read, SETTLE))


def _exchange(
    host: Host, pci: PciAddress, devices: tuple[str, ...], how: Renumbering, lock: Lock, holders: Holders
) -> None:
    """Wait until the VF, which is without driver, would get `devices`; at most EXCHANGE seconds.

    The VFs of dead attachments that have them are unbound too, and bound again when this one is, or before, if they
    are to have the lower numbers. If a call is releasing such a VF already, it does so likewise: the lock of rebinds is
    released for it meanwhile.
    """
    deadline = time.monotonic() + EXCHANGE
    while True:
        holders.unbind()
        used = host.sysfs.read_all_char_devices()
        lower = len(numbers_of("uverbs", free_numbers(devices, (), used)))
        if not set(devices).intersection(used) and lower <= holders.count:
            holders.bind(lower)
            return
        if foresee_change(host, pci, devices) is None or time.monotonic() > deadline:
            return
        lock.release()
        time.sleep(PAUSE)
        lock.take_over(host.locks.take_for_rebind(how.holder, how.seconds))


def foresee_change(host: Host, pci: PciAddress, devices: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the devices that the VF would have if they were made anew; None if those are `devices`."""
    now, used = host.sysfs.read_char_devices(pci), host.sysfs.read_all_char_devices()
    if not free_numbers(devices, now, used) and not missing_devices(devices, now):
        return None
    predicted = predict_devices(devices, now, used)
    return predicted if missing_devices(devices, predicted) else None


def _wanted_devices(host: Host, pci: PciAddress, how: Renumbering) -> tuple[str, ...]:
    return host.sysfs.read_char_devices(pci) if how.devices is None else how.devices


def _words(devices: tuple[str, ...]) -> str:
    return ", ".join(devices) or "no devices"
