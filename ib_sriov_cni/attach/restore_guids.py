"""Restoring a VF's GUIDs and link state on the PF."""

from __future__ import annotations

from ib_sriov_cni.core.errors import KernelRefused
from ib_sriov_cni.core.fault_collector import FaultCollector
from ib_sriov_cni.core.values import Guid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.record import Record
    from ib_sriov_cni.core.values import VfConfig, VfFunction


def restore_config(host: Host, record: Record) -> None:
    """Set the VF's GUIDs and link state on the PF to what they were before the ADD, if the ADD set them.

    The VF itself takes the GUIDs only at a rebind. Raises KernelRefused (102), DeviceUnusable (101).
    """
    if not record.sets_guid and not record.link_state:
        return  # the ADD left them alone
    function = host.sysfs.read_function(record.pci)
    if function.pf is None:
        host.log.debug("the function has no PF here, so nothing was set on it", vf=record.pci)
        return
    with host.log.step("restore_config", vf=record.pci, pf=function.pf_netdev):
        _, configs = host.vf_configs.read(function, alone=True)
        now = configs.get(function.index)
        collector = FaultCollector()
        if record.sets_guid:
            collector.attempt(lambda: _restore_guids(host, record, function, now))
        if record.link_state and record.had_link_state and not (now and now.link_state == record.had_link_state):
            collector.attempt(lambda: _restore_link_state(host, record, function))
        collector.raise_faults()


def _restore_link_state(host: Host, record: Record, function: VfFunction) -> None:
    with host.log.step("restore_link_state", state=record.had_link_state):
        host.vf_configs.set_link_state(function, record.had_link_state)


def _restore_guids(host: Host, record: Record, function: VfFunction, now: VfConfig | None) -> None:
    """Restore the GUIDs that the VF itself had: the PF driver knows only those set through it since it was loaded.

    What the PF does not report is written without comparing.
    """
    node = _first_known(record.had_node_guid, record.had_config_node_guid)
    port = _first_known(record.had_port_guid, record.had_config_port_guid)
    if now is None or now.node_guid != node:
        with host.log.step("restore_node_guid", guid=node):
            _restore_guid(now, record, lambda: host.vf_configs.set_node_guid(function, node))
    if now is None or now.port_guid != port:
        with host.log.step("restore_port_guid", guid=port):
            _restore_guid(now, record, lambda: host.vf_configs.set_port_guid(function, port))


def _restore_guid(now: VfConfig | None, record: Record, restore: Callable[[], None]) -> None:
    """Call `restore`. A refusal is ignored if the PF has its old GUIDs: then the ADD could not set them either."""
    try:
        restore()
    except KernelRefused:
        had = (record.had_config_node_guid, record.had_config_port_guid)
        if now is None or None in had or (now.node_guid, now.port_guid) != had:
            raise


def _first_known(own: Guid | None, config: Guid | None) -> Guid:
    """Return the VF's own GUID, else the PF's setting; zero, which a fresh VF has, if neither was known."""
    if own is not None:
        return own
    return config if config is not None else Guid(0)
