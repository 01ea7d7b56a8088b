"""Restoring a VF's GUIDs and link state on the PF.

A PF that refuses must not keep a pod from being deleted, or a VF from the next pod for ever. What was refused is tried
again by whoever comes next: the next DEL, the next ADD of the VF, the agent, `ib-sriov repair`.
"""

from __future__ import annotations

import errno
import time

from ib_sriov_cni.attach.devices import await_fact
from ib_sriov_cni.core.errors import CniError, DeviceUnusable, KernelRefused, NotRestored
from ib_sriov_cni.core.values import GUID_MAX, Guid, is_pass_through

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.record import Record
    from ib_sriov_cni.core.values import PciAddress, RdmaDevice, VfConfig, VfFunction

PF_SECONDS = 5.0  # to wait for the PF's netdev, which ib_ipoib may be just about to make
SET_TRIES = 3
MAY_PASS = (errno.EAGAIN, errno.EBUSY, errno.EIO, errno.ETIMEDOUT)  # of a firmware that is busy
UNASSIGNED = Guid(GUID_MAX)


def restore_config(host: Host, record: Record) -> None:
    """Set the VF's GUIDs and link state on the PF to what they were before the ADD, if the ADD set them.

    The VF itself takes the GUIDs only at a rebind. Raises NotRestored (101 if the PF has no netdev, 102 if it refuses)
    if the PF still has a GUID of the pod, or may have.
    """
    if not record.sets_guid and not record.link_state:
        return  # the ADD left them alone
    function = _await_pf(host, record.pci)
    if function.pf is None:
        host.log.debug("the function has no PF here, so nothing was set on it", vf=record.pci)
        return
    with host.log.step("restore_config", vf=record.pci, pf=function.pf_netdev):
        try:
            now = host.vf_configs.read_vf(function)
            if record.link_state and record.had_link_state and not (now and now.link_state == record.had_link_state):
                _restore_link_state(host, record, function)
            if record.sets_guid:
                _restore_guids(host, record, function, now)
        except (KernelRefused, DeviceUnusable) as fault:
            words = f"VF {record.pci} was taken from its pod, but its settings could not be restored: {fault.msg}"
            hint = "the next DEL, the next ADD of the VF and 'ib-sriov repair' try again"
            raise NotRestored(words, f"{fault.details}; {hint}".lstrip("; "), code=fault.code) from None


def _await_pf(host: Host, pci: PciAddress) -> VfFunction:
    """Return the VF and its PF. Waits up to PF_SECONDS for the PF's netdev, if it cannot be set without it."""

    def read() -> VfFunction | None:
        function = host.sysfs.read_function(pci)
        return function if function.pf is None or host.vf_configs.can_set(function) else None

    return await_fact(read, PF_SECONDS) or host.sysfs.read_function(pci)


def _restore_link_state(host: Host, record: Record, function: VfFunction) -> None:
    """Restore the link state. A refusal is logged: the next ADD sets the one that it needs."""
    try:
        with host.log.step("restore_link_state", state=record.had_link_state):
            _try(lambda: host.vf_configs.set_link_state(function, record.had_link_state))
    except KernelRefused as refusal:
        host.log.warning("link state not restored", vf=record.pci, error=refusal)


def old_guids(record: Record) -> tuple[Guid, Guid]:
    """Return the node and port GUID that a rebind before the ADD would have given the VF.

    That is what an administrator has set on the PF, whether the VF has taken it or not; else what the VF itself had,
    because a PF's driver knows only what was set through it since it was loaded.
    """
    return (
        _choose_old(record.had_node_guid, record.had_config_node_guid),
        _choose_old(record.had_port_guid, record.had_config_port_guid),
    )


def _choose_old(own: Guid | None, config: Guid | None) -> Guid:
    """Choose for one GUID; zero, which a fresh VF has, if nothing was known."""
    if config is not None and not config.fault:
        return config
    return own if own is not None else config if config is not None else Guid(0)


def is_foreign(record: Record, rdma: RdmaDevice | None) -> bool:
    """Return whether the VF has other GUIDs than a rebind before the ADD would have given it, or may have."""
    if rdma is None or rdma.node_guid is None or rdma.port_guid is None:
        return True  # in the pod, where they cannot be read
    node, port = old_guids(record)
    own = record.had_node_guid, record.had_port_guid
    has = rdma.node_guid, rdma.port_guid
    return has != own and not (_is_same(has[0], node) and _is_same(has[1], port))


def _is_same(one: Guid, other: Guid) -> bool:
    """Compare two GUIDs; zero and all ones both mean that there is none."""
    return one == other or bool(one.fault and other.fault)


def _restore_guids(host: Host, record: Record, function: VfFunction, now: VfConfig | None) -> None:
    """Restore both GUIDs where the PF has what the ADD has set, or does not report what it has."""
    node, port = old_guids(record)
    if is_pass_through(record.driver) and (node.fault or port.fault):
        node, port = _replace_unknown(host, function, node, port)
    configs = host.vf_configs
    if _needs_restoring(host, record, now.node_guid if now else None, record.node_guid, node):
        with host.log.step("restore_node_guid", guid=node):
            _restore_guid(host, record, function, now, node, lambda guid: configs.set_node_guid(function, guid))
    if _needs_restoring(host, record, now.port_guid if now else None, record.port_guid, port):
        with host.log.step("restore_port_guid", guid=port):
            _restore_guid(host, record, function, now, port, lambda guid: configs.set_port_guid(function, guid))


def _replace_unknown(host: Host, function: VfFunction, node: Guid, port: Guid) -> tuple[Guid, Guid]:
    """Return the GUID that an ADD would derive in the place of what a VF that is passed through had and nobody knows.

    Such a VF cannot be asked for its own GUID, and its PF does not know one that came from the firmware. The ADD has
    written over it, so with zero the VF would be without a GUID when it is bound next, whatever it had before.
    """
    try:
        derived = _derive_guid(host, function)
    except CniError as fault:
        host.log.debug("what the VF had is unknown, and no GUID can be derived", vf=function.pci, error=fault)
        return node, port
    return derived if node.fault else node, derived if port.fault else port


def _needs_restoring(host: Host, record: Record, now: Guid | None, ours: Guid, old: Guid) -> bool:
    """Return whether the PF has the pod's GUID, or may have. What somebody has set since the ADD is left alone.

    `ours`: what the ADD has set; zero, if that is not known (records of the Go plugin).
    """
    if now is None:
        return True
    if _is_same(now, old):
        return False
    if ours and now != ours:
        if not now.fault and now not in (record.had_config_node_guid, record.had_config_port_guid):
            host.log.warning("the PF has a GUID that somebody has set since the ADD; it stays", vf=record.pci, guid=now)
        return False
    return True


def _restore_guid(
    host: Host,
    record: Record,
    function: VfFunction,
    now: VfConfig | None,
    old: Guid,
    set_guid: Callable[[Guid], None],
) -> None:
    """Set the old GUID; if the PF refuses it, another one that is not the pod's.

    Firmware may refuse zero, which a fresh VF has; all ones mean the same (the Go plugin writes these), and the GUID
    that an ADD would derive is the VF's own. Raises KernelRefused (102) if the PF refuses every one of them.
    """
    try:
        _try(lambda: set_guid(old))
    except KernelRefused as refusal:
        for derives in (False, True):
            try:
                other = _derive_guid(host, function) if derives else UNASSIGNED
                set_guid(other)
            except CniError:
                continue
            host.log.warning("the PF refuses the old GUID; the VF got another one", old=old, now=other, error=refusal)
            return
        is_reported = now is not None and now.port_guid is not None
        if is_reported or is_foreign(record, host.sysfs.read_rdma(record.pci)):
            raise
        # The VF has its old GUID: very likely the ADD could not set another one either.
        host.log.warning("the PF refuses the GUID that the VF has already", vf=record.pci, error=refusal)


def _derive_guid(host: Host, function: VfFunction) -> Guid:
    """Return the GUID that an ADD would derive. Raises CniError if there is none, or somebody else has it."""
    from ib_sriov_cni.core.plan import derive_guid

    pf_link, configs = host.vf_configs.read(function)
    others = {
        guid
        for index, config in configs.items()
        if index != function.index
        for guid in (config.node_guid, config.port_guid)
        if guid is not None
    }
    records = [host.records.read(key) for pci, key in host.ownership.read_owners() if pci != function.pci]
    others |= {record.port_guid for record in records if record is not None}
    return derive_guid(pf_link.port_guid, function, others)


def _try(setting: Callable[[], None]) -> None:
    """Call it up to SET_TRIES times, as long as the reason of the refusal may pass."""
    for attempt in range(1, SET_TRIES + 1):
        try:
            setting()
        except KernelRefused as refusal:
            if attempt == SET_TRIES or refusal.errno not in MAY_PASS:
                raise
            time.sleep(0.1 * attempt)
        else:
            return
