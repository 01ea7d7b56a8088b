"""What is to be done with a VF: facts to a decision, wanted and found to differences. No I/O.

VfFacts are read under the VF's lock; every rule that refuses an ADD stands here.
"""

from __future__ import annotations

from ib_sriov_cni.core.errors import DeviceUnusable, TryAgainLater, UnsupportedField
from ib_sriov_cni.core.values import (
    PASS_THROUGH_DRIVERS,
    Guid,
    Link,
    PortReport,
    RdmaDevice,
    VfConfig,
    VfFunction,
    normalize_pkey,
)
from ipam.protocol.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.core.configuration import NetConf

LOCALLY_ADMINISTERED = 0x02 << 56  # IEEE Std 802, 8.2: the bit of the first byte


class VfFacts(Value):
    """What is known of a VF before anything is done, all read under its lock."""

    function: VfFunction
    pf_link: Link
    configs: dict[int, VfConfig]  # what the PF says of its VFs, by index; of this one at least
    rdma: RdmaDevice | None
    netdev: Link | None  # in the host's namespace
    rdma_here: bool  # the RDMA device is seen from the host's namespace
    mode: str  # RDMA namespace mode: shared or exclusive
    children: tuple[str, ...] = ()  # P_Key children of the netdev; read if a P_Key is asked for
    holders: dict[Guid, str] = {}  # noqa: RUF012  # GUIDs that others on this node have, and who; read if one is chosen

    @property
    def config(self) -> VfConfig:
        """What the PF says of this VF."""
        empty = VfConfig(node_guid=Guid(0), port_guid=Guid(0), link_state="")
        return self.configs.get(self.function.index, empty)

    @property
    def passed_through(self) -> bool:
        """Whether the VF belongs to a driver for virtual machines."""
        return self.function.driver in PASS_THROUGH_DRIVERS

    @property
    def node_guid(self) -> Guid | None:
        """The VF's own node GUID; what the PF remembers where the VF cannot be asked."""
        if self.rdma and self.rdma.node_guid is not None:
            return self.rdma.node_guid
        return self.config.node_guid if self.passed_through else None

    @property
    def port_guid(self) -> Guid | None:
        """The VF's own port GUID, likewise."""
        if self.rdma and self.rdma.port_guid is not None:
            return self.rdma.port_guid
        if self.netdev and self.netdev.port_guid is not None:
            return self.netdev.port_guid
        return self.config.port_guid if self.passed_through else None


class Plan(Value):
    """What an ADD is going to do."""

    port_guid: Guid  # the one the VF has at the end, node and port alike unless kept
    node_guid: Guid  # differs from `port_guid` only where a VF's two GUIDs are kept as they are
    origin: str  # kept, derived, or the key it was requested by
    sets_guid: bool
    needs_rebind: bool
    link_state: str  # to be set; "" leaves it
    moves_rdma: bool


def plan_add(conf: NetConf, facts: VfFacts) -> Plan:
    """Decide, or refuse with the reason and what to do (codes 2, 11, 101); nothing has been touched."""
    _refuse_unusable(conf, facts)
    guid, origin = _choose_guid(conf, facts)
    node, port = facts.node_guid, facts.port_guid
    if guid is None:
        # Kept: neither write nor rebind, which is most of the cost and all of the races.
        node, port = node or Guid(0), port or Guid(0)
        change = False
    else:
        change = (node, port) != (guid, guid)
        node = port = guid
    return Plan(
        port_guid=port,
        node_guid=node,
        origin=origin,
        sets_guid=change,
        needs_rebind=change and not facts.passed_through,
        link_state="" if conf.link_state == facts.config.link_state else conf.link_state,
        moves_rdma=conf.rdma_isolation and not facts.passed_through,
    )


def _refuse_unusable(conf: NetConf, facts: VfFacts) -> None:
    function = facts.function
    who = f"VF {function.pci}"
    if not function.driver:
        raise DeviceUnusable(f"{who} has no driver", f"bind it: echo {function.pci} > /sys/bus/pci/drivers_probe")
    if conf.ib_kubernetes and not (conf.guid is not None and conf.ib_kubernetes_ready):
        raise TryAgainLater(
            f"network {conf.name}: ibKubernetesEnabled, but ib-kubernetes has not given this pod a GUID yet",
            "is ib-kubernetes running, and is infinibandGUID among the configuration's capabilities?",
        )
    if facts.passed_through:
        return
    if conf.rdma_isolation and facts.mode != "exclusive":
        raise UnsupportedField(
            f"rdmaIsolation: true needs the RDMA namespace mode exclusive, it is {facts.mode}",
            "set 'options ib_core netns_mode=0' in /etc/modprobe.d and reboot; nothing was touched",
        )
    if facts.rdma is None:
        raise DeviceUnusable(f"{who} has no RDMA device", "is the driver's RDMA part loaded (mlx5_ib), and ib_uverbs?")
    if not facts.rdma_here:
        raise DeviceUnusable(
            f"{who} is in use: its RDMA device {facts.rdma.name} is in another network namespace",
            "another pod has it; the device plugin must not give it twice",
        )
    if facts.netdev is None:
        raise DeviceUnusable(
            f"{who} has no netdev here: ib_ipoib is not loaded, or the netdev is in another network namespace",
            "modprobe ib_ipoib; if another pod has the VF, the device plugin must not give it twice",
        )
    if conf.pkey is not None and facts.children:
        raise DeviceUnusable(
            f"{who} has P_Key children on the host: {', '.join(facts.children)}",
            "a VF for pods must have none, DEL could not tell them from the pod's: ip link delete them",
        )


def _choose_guid(conf: NetConf, facts: VfFacts) -> tuple[Guid | None, str]:
    """Give the GUID to set and its origin; None keeps what the VF has."""
    if conf.guid is not None:
        if conf.guid in facts.holders:
            raise DeviceUnusable(
                f"{conf.guid_source} {conf.guid} is held by {facts.holders[conf.guid]}",
                "a GUID names one port of the fabric: give this pod another, or none",
            )
        return conf.guid, conf.guid_source
    if keeps_guid(conf, facts):
        return None, "kept"
    others = {
        guid
        for index, c in facts.configs.items()
        if index != facts.function.index
        for guid in (c.node_guid, c.port_guid)
    }
    return derive_guid(facts.pf_link.port_guid, facts.function, others | set(facts.holders)), "derived"


def keeps_guid(conf: NetConf, facts: VfFacts) -> bool:
    """Whether the VF stays as it is: no GUID is asked for, and it has usable ones."""
    node, port = facts.node_guid, facts.port_guid
    return conf.guid is None and bool(node and port) and not (node and node.fault) and not (port and port.fault)


def derive_guid(pf_guid: Guid | None, function: VfFunction, others: set[Guid]) -> Guid:
    """Make a VF's GUID from its PF's port GUID and its index: stable over reboots, unique on the fabric.

    The locally administered bit is set, and index plus one stands in the two middle bytes, which hold a
    filler (ff:fe of an EUI-64, 03:00 with Mellanox) that distinguishes no two HCAs. Raises DeviceUnusable if
    the PF has no GUID or another of its VFs has the result.
    """
    if not pf_guid:
        raise DeviceUnusable(
            f"VF {function.pci} has no GUID and none can be derived: PF {function.pf} has none itself",
            "give one (guid), or bring the PF's port up",
        )
    middle = 0xFFFF << 24
    guid = Guid((pf_guid | LOCALLY_ADMINISTERED) & ~middle | (function.index + 1) << 24)
    if guid.fault or guid in others or guid == pf_guid:
        raise DeviceUnusable(f"VF {function.pci}: the derived GUID {guid} is taken on its PF", "give one (guid)")
    return guid


# ---- wanted and found


def needs_child(report: PortReport, pkey: int) -> bool:
    """Whether the P_Key, which is in the table, needs an interface of its own: a netdev has that of index 0."""
    return normalize_pkey(report.pkeys[0]) != normalize_pkey(pkey)


def port_is_awaited(conf: NetConf, link_state: str) -> bool:
    """Whether the port has to become ACTIVE: not if nobody waits, nor if the VF's link is disabled."""
    return conf.port_timeout > 0 and link_state != "disable"
