"""Carrying out one planned repair, under the VF's lock, after checking that it is still needed."""

from __future__ import annotations

from ib_sriov_cni.attach.check import record_differences
from ib_sriov_cni.attach.configure_interface import add_routes, enable_ipv6
from ib_sriov_cni.attach.heal import release_dead
from ib_sriov_cni.attach.keep_numbers import bind_in_turn
from ib_sriov_cni.attach.liveness import LIVE, judge
from ib_sriov_cni.attach.pod_namespace import open_sandbox
from ib_sriov_cni.core.fault_collector import FaultCollector
from ib_sriov_cni.node.contain import make_error
from ib_sriov_cni.node.plan_repair import (
    ADDRESS,
    BIND,
    DISOWN,
    LINK_STATE,
    OWNER,
    RELEASE,
    REPAIRABLE,
    UP,
    Repair,
    is_recorded,
)
from ipam.protocol.result import Route

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.comparison import Difference
    from ib_sriov_cni.core.record import Record
    from ib_sriov_cni.kernel.netns import Netns

LOCK_SECONDS = 10.0  # to wait for a VF's lock, unless the caller says otherwise


def apply_repair(host: Host, repair: Repair, *, lock_timeout: float = LOCK_SECONDS) -> str:
    """Carry out one repair, under the VF's lock. Returns what was done, "" if it is no longer needed.

    Raises CniError: TryAgainLater (11) if the lock is held for longer than `lock_timeout` seconds, what the repair
    itself raises, and InternalFault (100) for any other exception.
    """
    try:
        return _apply(host, repair, lock_timeout)
    except Exception as fault:  # see node/contain.py
        raise make_error(fault) from fault


def _apply(host: Host, repair: Repair, lock_timeout: float) -> str:
    with host.log.step("repair", kind=repair.kind, vf=repair.pci, attachment=repair.key.path if repair.key else ""):
        if repair.pci is None:
            host.stray_files.remove(str(repair.about))
            return repair.what
        if repair.kind == RELEASE:
            return repair.what if _apply_release(host, repair, lock_timeout) else ""
        holder = repair.key.holder if repair.key else "repair -"
        with host.locks.take(repair.pci, holder, lock_timeout):
            if repair.kind in {BIND, DISOWN}:
                done = _apply_to_vf(host, repair, holder, lock_timeout)
            else:
                done = _apply_to_pod(host, repair)
            return repair.what if done else ""


def _apply_release(host: Host, repair: Repair, lock_timeout: float) -> bool:
    if repair.key is None:
        return False
    collector = FaultCollector()
    released = release_dead(host, repair.key, lock_timeout, collector)
    collector.raise_faults()
    return released


def _apply_to_vf(host: Host, repair: Repair, holder: str, lock_timeout: float) -> bool:
    pci = repair.pci
    if pci is None or not host.sysfs.exists(pci):
        return False
    if repair.kind == DISOWN:
        owner = host.ownership.read_owner(pci)
        if owner is None or owner != repair.about or is_recorded(host, owner):
            return False
        host.ownership.disclaim(pci, owner)
        return True
    if host.sysfs.read_driver(pci):
        return False
    bind_in_turn(host, pci, str(repair.about), holder=holder, seconds=lock_timeout)
    return True


def _apply_to_pod(host: Host, repair: Repair) -> bool:
    record = host.records.read(repair.key) if repair.key else None
    if record is None or record.pci != repair.pci or judge(host, record).state != LIVE:
        return False
    faults = record_differences(host, record, reservation=repair.kind == ADDRESS)
    if any(fault.kind == "reservation" for fault in faults):
        return False
    names = {REPAIRABLE.get(fault.kind, fault.kind) for fault in faults if _is_about(fault, repair)}
    if repair.kind not in names:
        return False
    if repair.kind == OWNER:
        return _claim(host, record)
    if repair.kind == LINK_STATE:
        host.vf_configs.set_link_state(host.sysfs.read_function(record.pci), str(repair.about))
        return True
    netns = open_sandbox(record)
    if netns is None:
        return False
    with netns:
        return _apply_inside(host, repair, record, netns)


def _claim(host: Host, record: Record) -> bool:
    owner = host.ownership.read_owner(record.pci)
    rival = host.records.read(owner) if owner is not None else None
    if rival is not None and rival.pci == record.pci and not judge(host, rival).is_over:
        return False
    host.ownership.claim(record.pci, record.key)
    return True


def _is_about(fault: Difference, repair: Repair) -> bool:
    return repair.kind == OWNER or fault.about == repair.about


def _apply_inside(host: Host, repair: Repair, record: Record, netns: Netns) -> bool:
    pod = host.open_rtnl(netns)
    try:
        link = pod.read_link(str(repair.about) if repair.kind == UP else record.key.ifname)
        if link is None:
            return False
        if repair.kind == UP:
            pod.set_up(link)
        elif repair.kind == ADDRESS:
            if ":" in str(repair.about):
                enable_ipv6(host, netns, link.name)
            pod.add_address(link, str(repair.about))
        elif isinstance(repair.about, Route):
            add_routes(pod, link, [repair.about])
        return True
    finally:
        pod.close()
