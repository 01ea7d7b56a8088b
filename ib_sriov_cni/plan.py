"""What is to be done with a VF: facts to a decision, wanted and found to differences. No I/O.

Facts are read under the VF's lock; every rule that refuses an ADD stands here.
"""

from __future__ import annotations

from ib_sriov_cni.errors import DeviceUnusable, TryAgainLater, UnsupportedField, VerificationFailed
from ib_sriov_cni.model import Guid, Link, PortReport, RdmaDevice, VfConfig, VfFunction, normalize_pkey
from ipam.address import parse_cidr, render_cidr
from ipam.value import Value, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from ib_sriov_cni.netconf import NetConf
    from ipam.result import Result, Route

LOCALLY_ADMINISTERED = 0x02 << 56  # IEEE Std 802, 8.2: the bit of the first byte
# Drivers that hand a VF to a virtual machine: no netdev, no RDMA device, and no rebind by us.
PASS_THROUGH_DRIVERS = frozenset(("vfio-pci", "pci-stub", "uio_pci_generic", "igb_uio"))


class Facts(Value):
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

    guid: Guid  # the one the VF has at the end, node and port alike unless kept
    node_guid: Guid  # differs from `guid` only where a VF's two GUIDs are kept as they are
    origin: str  # kept, derived, or the key it was requested by
    set_guid: bool
    rebind: bool
    link_state: str  # to be set; "" leaves it
    move_rdma: bool


def plan_add(conf: NetConf, facts: Facts) -> Plan:
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
        guid=port,
        node_guid=node,
        origin=origin,
        set_guid=change,
        rebind=change and not facts.passed_through,
        link_state="" if conf.link_state == facts.config.link_state else conf.link_state,
        move_rdma=conf.rdma_isolation and not facts.passed_through,
    )


def _refuse_unusable(conf: NetConf, facts: Facts) -> None:
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


def _choose_guid(conf: NetConf, facts: Facts) -> tuple[Guid | None, str]:
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


def keeps_guid(conf: NetConf, facts: Facts) -> bool:
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


class Difference(str):
    """One difference, in words; `kind` tells what sort it is, `about` the thing it is of (an address, a route …)."""

    __slots__ = ("about", "kind")

    kind: str
    about: object

    def __new__(cls, kind: str, words: str, about: object = None) -> Self:
        """Keep what may be done about it beside the words."""
        made = super().__new__(cls, words)
        made.kind, made.about = kind, about
        return made


def identity_differences(plan_guid: Guid, plan_node: Guid, facts: Facts) -> list[str]:
    """Compare a VF's own GUIDs with the planned ones."""
    found = []
    if facts.port_guid is not None and facts.port_guid != plan_guid:
        found.append(f"port GUID is {facts.port_guid}, planned {plan_guid}")
    if facts.node_guid is not None and facts.node_guid != plan_node:
        found.append(f"node GUID is {facts.node_guid}, planned {plan_node}")
    return found


def link_differences(link: Link | None, *, name: str, guid: Guid, mtu: int | None, pci: str) -> list[Difference]:
    """Compare the netdev in the pod with what it must be."""
    if link is None:
        return [Difference("interface", f"interface {name} is gone")]
    found = []
    if not link.up:
        found.append(Difference("down", f"interface {name} is down", name))
    if link.pci and link.pci != pci:
        words = f"interface {name} is not the VF's: its PCI device is {link.pci}, not {pci}"
        found.append(Difference("interface", words))
    if guid and link.port_guid != guid:  # zero: the Go plugin's record does not tell
        found.append(Difference("guid", f"interface {name} has port GUID {link.port_guid}, not {guid}"))
    if mtu and link.mtu != mtu:
        found.append(Difference("mtu", f"interface {name} has mtu {link.mtu}, not {mtu}"))
    return found


def address_differences(
    wanted: Result, index: int | None, addresses: list[str], routes: list[Route]
) -> list[Difference]:
    """Compare the addresses and routes in the pod with those of a result (interface `index` of it)."""
    found = [
        Difference("address", f"address {ip.address} is gone", ip.address)
        for ip in wanted.ips
        if ip.interface == index and ip.address not in addresses
    ]
    there = {(route.dst, route.gw) for route in routes}
    found += [
        Difference("route", f"route {route.dst} via {route.gw or 'link'} is gone", route)
        for route in effective_routes(wanted)
        if (normal_destination(route.dst), route.gw) not in there
    ]
    return found


def normal_destination(cidr: str) -> str:
    """Clear the host bits of a destination, as the kernel shows it."""
    (bits, number), prefix = parse_cidr(cidr)
    host = (1 << (bits - prefix)) - 1
    return render_cidr((bits, number & ~host), prefix)


def effective_routes(result: Result) -> list[Route]:
    """Give the result's routes with the gateway they take: their own, else their family's first address's."""
    gateways: dict[bool, str] = {}
    for ip in result.ips:
        if ip.gateway:
            gateways.setdefault(":" in ip.address, ip.gateway)
    return [replace(route, gw=route.gw or gateways.get(":" in route.dst)) for route in result.routes]


def verify_port(report: PortReport, plan: Plan, conf: NetConf) -> None:
    """Compare what verbs say with the plan. Raises VerificationFailed (103)."""
    faults = []
    if report.link_layer != "InfiniBand":
        faults.append(f"its link layer is {report.link_layer}, not InfiniBand")
    if report.port_guid != plan.guid:
        faults.append(f"its port GUID is {report.port_guid}, not {plan.guid}")
    if report.node_guid != plan.node_guid:
        faults.append(f"its node GUID is {report.node_guid}, not {plan.node_guid}")
    if conf.pkey is not None and normalize_pkey(conf.pkey) not in {normalize_pkey(p) for p in report.pkeys}:
        table = ", ".join([f"{pkey:#06x}" for pkey in report.pkeys if pkey])
        faults.append(
            f"P_Key {conf.pkey:#06x} is not in its table ({table or 'empty'}): the subnet manager must put it there"
        )
    if faults:
        raise VerificationFailed(f"RDMA device {report.device} in the pod: " + "; ".join(faults))


def needs_child(report: PortReport, pkey: int) -> bool:
    """Whether the P_Key, which is in the table, needs an interface of its own: a netdev has that of index 0."""
    return normalize_pkey(report.pkeys[0]) != normalize_pkey(pkey)


def child_differences(link: Link, parent: Link | None, pkey: int) -> list[Difference]:
    """Compare a P_Key's interface in the pod, and the VF's netdev that it stands on, with what they must be."""
    found = []
    lower = parent.index if parent is not None else link.lower
    if not lower or link.lower != lower or normalize_pkey(link.pkey or 0) != normalize_pkey(pkey):
        found.append(Difference("interface", f"interface {link.name} is not the one of P_Key {pkey:#06x}"))
    if parent is not None and not parent.up:
        words = f"interface {parent.name} is down, which {link.name} needs"
        found.append(Difference("down", words, parent.name))
    return found


def port_is_awaited(conf: NetConf, link_state: str) -> bool:
    """Whether the port has to become ACTIVE: not if nobody waits, nor if the VF's link is disabled."""
    return conf.port_timeout > 0 and link_state != "disable"


def verify_active(report: PortReport, conf: NetConf, *, waited: bool) -> None:
    """Demand an ACTIVE port. Raises VerificationFailed (103) with what the port says and the usual causes."""
    if not waited or report.state == "ACTIVE":
        return
    causes = {
        "DOWN": "link_state disable on the PF, no GUID known to the subnet manager, or no cable",
        "INIT": "no subnet manager answers, or it does not serve virtual ports (OpenSM: virt_enabled 2)",
        "ARMED": "the subnet manager is configuring the port: try a longer portTimeout",
    }.get(report.state, "see the subnet manager's log")
    raise VerificationFailed(
        f"RDMA device {report.device}: port 1 is {report.state} after {conf.port_timeout:g} s "
        f"(LID {report.lid}, subnet manager's LID {report.sm_lid})",
        f"usual causes: {causes}; portTimeout 0 asks for no wait",
    )
