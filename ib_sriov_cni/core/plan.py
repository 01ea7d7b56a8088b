"""Decides what an ADD does with a VF, from facts that were read under the VF's lock. No I/O.

Every rule by which the state of a VF refuses an ADD is here.
"""

from __future__ import annotations

from ib_sriov_cni.core.errors import DeviceUnusable, TryAgainLater, UnsupportedField
from ib_sriov_cni.core.values import (
    OTHER,
    PHYSICAL,
    Guid,
    Link,
    PortReport,
    RdmaDevice,
    VfConfig,
    VfFunction,
    is_pass_through,
    normalize_pkey,
    render_bind_commands,
)
from ipam.protocol.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.core.configuration import NetConf
    from ib_sriov_cni.core.record import Record
    from ib_sriov_cni.core.values import PciAddress

WITHOUT_PF = "has no PF on this machine, through which GUID and link state are set"
LOCALLY_ADMINISTERED = 0x02 << 56  # the U/L bit of the first byte (IEEE Std 802, 8.2)


class VfFacts(Value):
    """What is known about a VF before anything is changed; all read under its lock."""

    function: VfFunction
    pf_link: Link | None  # None without a PF
    configs: dict[int, VfConfig]  # what the PF reports about its VFs, by VF index; it may leave out some, or all
    rdma: RdmaDevice | None
    netdev: Link | None  # in the host's namespace
    rdma_here: bool  # the RDMA device is visible in the host's namespace
    mode: str  # RDMA namespace mode: shared or exclusive
    link_layers: tuple[str, ...] = ()  # of each port of the RDMA device: InfiniBand, Ethernet; none if it is elsewhere
    ipoib: bool = True  # ib_ipoib is loaded; looked up only if there is no netdev
    children: tuple[str, ...] = ()  # P_Key children of the netdev; read only if a P_Key is requested
    earlier: Record | None = None  # of a try that left its GUID and link state on the VF (Record.undone_at)
    holders: dict[Guid, str] = {}  # noqa: RUF012  # who else on this node has which GUID; read only if one will be set

    @property
    def config(self) -> VfConfig:
        """What the PF reports about this VF; nothing of it is known if the PF does not list it."""
        return self.configs.get(self.function.index) or VfConfig()

    @property
    def passed_through(self) -> bool:
        """Whether the VF is bound to a driver that passes it through to a virtual machine."""
        return is_pass_through(self.function.driver)

    @property
    def node_guid(self) -> Guid | None:
        """The VF's own node GUID; of a passed-through VF, which cannot be asked, the PF's setting."""
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

    @property
    def had_guids(self) -> tuple[Guid | None, Guid | None]:
        """The VF's node and port GUID before any ADD: what DEL restores, and what decides whether it keeps them."""
        earlier = self.earlier
        return (earlier.had_node_guid, earlier.had_port_guid) if earlier else (self.node_guid, self.port_guid)

    @property
    def had_config_guids(self) -> tuple[Guid | None, Guid | None]:
        """The node and port GUID that the PF had for the VF before any ADD."""
        if self.earlier:
            return self.earlier.had_config_node_guid, self.earlier.had_config_port_guid
        return self.config.node_guid, self.config.port_guid

    @property
    def had_link_state(self) -> str:
        """The link state that the PF had for the VF before any ADD; "" if it does not report it."""
        return self.earlier.had_link_state if self.earlier else self.config.link_state


class Plan(Value):
    """What an ADD is going to do."""

    port_guid: Guid  # what the VF will have
    node_guid: Guid  # equal to `port_guid` unless the VF had two different GUIDs, or has them on the PF
    origin: str  # kept, configured (on the PF), derived, or the key that requested it
    sets_guid: bool  # differs from what the VF had before any ADD: DEL restores that
    writes_guid: bool  # differs from what the VF has
    needs_rebind: bool
    link_state: str  # to be set; "": leave it as it is
    moves_rdma: bool


def plan_add(conf: NetConf, facts: VfFacts) -> Plan:
    """Return the plan. Changes nothing.

    Raises DeviceUnusable (101), UnsupportedField (2) or TryAgainLater (11) with the reason and what to do.
    """
    _refuse_unusable(conf, facts)
    guids, origin = _choose_guids(conf, facts)
    has, had = (facts.node_guid, facts.port_guid), facts.had_guids
    if guids is None:
        # Kept. That saves the rebind, which takes most of an ADD's time and causes all of its races.
        node, port = had[0] or Guid(0), had[1] or Guid(0)
        change = facts.earlier is not None and has != had
    else:
        node, port = guids
        change = has != guids
    return Plan(
        port_guid=port,
        node_guid=node,
        origin=origin,
        sets_guid=change or (guids is not None and had != guids),
        writes_guid=change,
        needs_rebind=change and not facts.passed_through,
        link_state=_choose_link_state(conf, facts),
        moves_rdma=conf.rdma_isolation and not facts.passed_through,
    )


def refuse_function(conf: NetConf, pci: PciAddress, kind: str, driver: str) -> None:
    """Refuse a function that this network does not attach, whatever its state.

    Raises DeviceUnusable (101: it is not a VF) or UnsupportedField (2: vfioPciMode).
    """
    if kind == OTHER:
        raise DeviceUnusable(
            f"deviceID {pci} is not an SR-IOV virtual function",
            "only a VF can be attached to a pod: correct the device plugin's selectors",
        )
    if kind == PHYSICAL and not conf.vfio_pci_mode:
        raise DeviceUnusable(
            f"deviceID {pci} is a physical function, not a VF",
            "correct the device plugin's selectors; only with vfioPciMode, and for a virtual machine, a pod gets a PF",
        )
    if conf.vfio_pci_mode and driver and not is_pass_through(driver):
        raise UnsupportedField(
            f"vfioPciMode needs a driver that passes {pci} through, it is bound to {driver}",
            "bind it to vfio-pci or another VFIO driver, or remove vfioPciMode; nothing was changed",
        )


def _refuse_unusable(conf: NetConf, facts: VfFacts) -> None:
    function = facts.function
    vf = function.label
    refuse_function(conf, function.pci, function.kind, function.driver)
    if not function.driver:
        bind = f"bind it: {render_bind_commands(function.pci, function.pf_driver or '<driver>')}"
        raise DeviceUnusable(f"{vf} has no driver", "bind it to vfio-pci" if conf.vfio_pci_mode else bind)
    if conf.link_state and function.pf is None:
        raise UnsupportedField(f"link_state: {vf} {WITHOUT_PF}", "remove link_state; nothing was changed")
    if conf.ib_kubernetes and not (conf.guid is not None and conf.ib_kubernetes_ready):
        raise TryAgainLater(
            f"network {conf.name}: ib-kubernetes has not given this pod a GUID yet, which ibKubernetesEnabled requires",
            "is ib-kubernetes running, and does the configuration have the capability infinibandGUID?",
        )
    if facts.passed_through:
        return
    _refuse_ports(vf, facts)
    if conf.rdma_isolation and facts.mode != "exclusive":
        raise UnsupportedField(
            f"rdmaIsolation needs the RDMA namespace mode exclusive, it is {facts.mode}",
            "set 'options ib_core netns_mode=0' in /etc/modprobe.d and reboot; nothing was changed",
        )
    if facts.rdma is None:
        raise DeviceUnusable(
            f"{vf} has no RDMA device", "load the RDMA half of its driver (modprobe mlx5_ib ib_uverbs)"
        )
    if not facts.rdma_here:
        raise DeviceUnusable(
            f"{vf} is in use: its RDMA device {facts.rdma.name} is in another network namespace",
            "another pod has it; the device plugin must not allocate it twice",
        )
    if facts.netdev is None:
        if not facts.ipoib:
            raise DeviceUnusable(f"{vf} has no netdev, because ib_ipoib is not loaded", "modprobe ib_ipoib")
        raise DeviceUnusable(
            f"{vf} has no netdev on the host, although ib_ipoib is loaded: it is in another network namespace, or lost",
            "if another pod has it, the device plugin must not allocate it twice; else bind the VF's driver again, and "
            "see the kernel log for why ib_ipoib did not take it",
        )
    if conf.pkey is not None and facts.children:
        raise DeviceUnusable(
            f"{vf} has P_Key children on the host: {', '.join(facts.children)}",
            "delete them (ip link delete NAME): DEL could not tell them from the pod's",
        )


def _refuse_ports(vf: str, facts: VfFacts) -> None:
    if "Ethernet" in facts.link_layers:
        raise DeviceUnusable(
            f"{vf} is not an InfiniBand VF: the link layer of its port is Ethernet",
            'correct the device plugin\'s selectors ("linkTypes": ["infiniband"]), or set the port to InfiniBand '
            "(mlxconfig: LINK_TYPE_P1=1); nothing was changed",
        )
    if len(facts.link_layers) > 1:
        raise DeviceUnusable(
            f"{vf} has {len(facts.link_layers)} ports: which of them the pod should get cannot be said",
            "give each VF one port (mlx4_core: num_vfs=<on port 1>,<on port 2>,0); nothing was changed",
        )


def _choose_guids(conf: NetConf, facts: VfFacts) -> tuple[tuple[Guid, Guid] | None, str]:
    """Return the node and port GUID to set, None to keep what the VF has, and their origin."""
    if conf.guid is not None:
        if conf.guid in facts.holders:
            raise DeviceUnusable(
                f"{conf.guid_source} {conf.guid} is held by {facts.holders[conf.guid]}",
                "a GUID must be unique in the fabric: request another one for this pod, or none",
            )
        if facts.function.pf is None and (facts.node_guid, facts.port_guid) != (conf.guid, conf.guid):
            raise UnsupportedField(
                f"{conf.guid_source}: {facts.function.label} {WITHOUT_PF}",
                "request no GUID: it keeps the one that it has; nothing was changed",
            )
        return (conf.guid, conf.guid), conf.guid_source
    pending = _find_pending(facts)
    if pending is not None:
        return pending, "configured"
    if keeps_guid(conf, facts):
        return None, "kept"
    if facts.pf_link is None:
        if facts.passed_through:
            return None, "kept"
        raise DeviceUnusable(
            f"{facts.function.label} has no GUID, and {WITHOUT_PF}",
            "set its GUID on the machine that has its PF, and pass the VF through again",
        )
    others = {
        guid
        for index, c in facts.configs.items()
        if index != facts.function.index
        for guid in (c.node_guid, c.port_guid)
        if guid is not None
    }
    guid = derive_guid(facts.pf_link.port_guid, facts.function, others | set(facts.holders))
    return (guid, guid), "derived"


def _choose_link_state(conf: NetConf, facts: VfFacts) -> str:
    """Return the link state to set, "" to leave it as it is.

    A VF that the PF has switched off, as some HCAs start all of theirs, is switched on for the attachment like one
    without a GUID gets one: no pod can use it otherwise. Only `disable` in the configuration asks for a port that is
    down.
    """
    had = facts.had_link_state
    wanted = conf.link_state or ("auto" if had == "disable" else had)
    return "" if wanted == facts.config.link_state else wanted


def keeps_guid(conf: NetConf, facts: VfFacts) -> bool:
    """Return whether the VF keeps the GUIDs it had: none is requested or waits on the PF, and those are usable."""
    return conf.guid is None and _find_pending(facts) is None and all(map(_is_usable, facts.had_guids))


def _find_pending(facts: VfFacts) -> tuple[Guid, Guid] | None:
    """Return the node and port GUID that an administrator has set on the PF since the VF was last bound to its driver.

    None if there are none, if an earlier try has set them, or if one of them is somebody else's. If only one of them is
    set and the VF has no other one, it serves as both.
    """
    config = facts.config
    configured = [guid for guid in (config.node_guid, config.port_guid) if _is_usable(guid)]
    if facts.passed_through or facts.earlier is not None or any(guid in facts.holders for guid in configured):
        return None
    if not configured:
        return None
    node, port = [
        next(guid for guid in (one, has, configured[0]) if guid is not None and _is_usable(guid))
        for one, has in ((config.node_guid, facts.node_guid), (config.port_guid, facts.port_guid))
    ]
    return None if (node, port) == (facts.node_guid, facts.port_guid) else (node, port)


def _is_usable(guid: Guid | None) -> bool:
    return guid is not None and not guid.fault


def derive_guid(pf_guid: Guid | None, function: VfFunction, others: set[Guid]) -> Guid:
    """Return a VF's GUID, made from its PF's port GUID and its VF index: stable across reboots, unique in the fabric.

    It has the locally administered bit, and VF index + 1 in the two middle bytes. Those hold a filler (ff:fe in an
    EUI-64, 03:00 with Mellanox), which is the same in all HCAs. Raises DeviceUnusable (101) if the PF has no GUID or
    another VF has the derived one.
    """
    if not pf_guid:
        raise DeviceUnusable(
            f"VF {function.pci} has no GUID, and none can be derived: PF {function.pf} has none either",
            "set one with the key guid, or bring the PF's port up",
        )
    middle = 0xFFFF << 24
    guid = Guid((pf_guid | LOCALLY_ADMINISTERED) & ~middle | (function.index + 1) << 24)
    if guid.fault or guid in others or guid == pf_guid:
        raise DeviceUnusable(
            f"VF {function.pci}: the derived GUID {guid} is already in use", "set another one with the key guid"
        )
    return guid


def needs_child(report: PortReport, pkey: int) -> bool:
    """Return whether the P_Key needs an IPoIB child: the VF's own netdev has the P_Key at index 0 of the table."""
    return normalize_pkey(report.pkeys[0]) != normalize_pkey(pkey)


def port_is_awaited(conf: NetConf) -> bool:
    """Return whether ADD waits for the port to become ACTIVE: not with portTimeout 0, nor with a disabled link."""
    return conf.port_timeout > 0 and conf.link_state != "disable"
