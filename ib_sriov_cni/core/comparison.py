"""Differences between a plan or a result and what the kernel shows, in words. No I/O."""

from __future__ import annotations

from ib_sriov_cni.core.errors import PortNotReady, VerificationFailed
from ib_sriov_cni.core.routes import effective_routes, normal_destination
from ib_sriov_cni.core.values import (
    MAIN_TABLE,
    Guid,
    Link,
    PortReport,
    normalize_pkey,
)
from ipam.protocol.bounds import join_faults

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal, Self

    from ib_sriov_cni.core.configuration import NetConf
    from ib_sriov_cni.core.plan import Plan, VfFacts
    from ipam.protocol.result import Result, Route

    DifferenceKind = Literal[
        "address",
        "config_guid",
        "dead",
        "down",
        "driver",
        "guid",
        "interface",
        "link_state",
        "mtu",
        "namespace",
        "owner",
        "pf",
        "rdma",
        "record",
        "reservation",
        "route",
        "unfinished",
        "vf",
    ]


class Difference(str):
    """One difference, in words; `kind` says of which kind, `about` names the object (an address, a route …)."""

    __slots__ = ("about", "kind")

    kind: DifferenceKind
    about: object

    def __new__(cls, kind: DifferenceKind, words: str, about: object = None) -> Self:
        """Attach kind and object to the words; a repair acts on those."""
        made = super().__new__(cls, words)
        made.kind, made.about = kind, about
        return made


def identity_differences(plan_guid: Guid, plan_node: Guid, facts: VfFacts) -> list[str]:
    """Return how a VF's own GUIDs differ from the planned ones; a GUID that cannot be read does not count."""
    found = []
    if facts.port_guid is not None and facts.port_guid != plan_guid:
        found.append(f"port GUID is {facts.port_guid}, not {plan_guid}")
    if facts.node_guid is not None and facts.node_guid != plan_node:
        found.append(f"node GUID is {facts.node_guid}, not {plan_node}")
    return found


# The MTUs that a broadcast group can give an IPoIB netdev: those of InfiniBand less IPoIB's header of 4 bytes.
GROUP_MTUS = frozenset((252, 508, 1020, 2044, 4092))


def limits_mtu(link: Link, mtu: int | None) -> bool:
    """Return whether the broadcast group keeps the netdev from having the MTU.

    A larger one can be set only before the group is joined; when it is, the kernel reduces the MTU to the group's
    (ipoib_mcast_join_finish), and afterwards never lets it be larger (ipoib_change_mtu).
    """
    return mtu is not None and link.mtu < mtu and link.mtu in GROUP_MTUS


def link_differences(link: Link | None, *, name: str, guid: Guid, mtu: int | None, pci: str) -> list[Difference]:
    """Return how the netdev in the pod differs from what it must be; a GUID of 0 and an MTU of None or 0 match any.

    An MTU that the broadcast group has reduced is no difference: nobody in the pod can change that.
    """
    if link is None:
        return [Difference("interface", f"interface {name} is gone")]
    found = []
    if not link.up:
        found.append(Difference("down", f"interface {name} is down", name))
    if link.pci and link.pci != pci:
        words = f"interface {name} is not the VF's: its PCI device is {link.pci}, not {pci}"
        found.append(Difference("interface", words))
    if guid and link.port_guid != guid:  # zero: a record of the Go plugin, which does not have it
        found.append(Difference("guid", f"interface {name} has port GUID {link.port_guid}, not {guid}"))
    if mtu and link.mtu != mtu and not limits_mtu(link, mtu):
        found.append(Difference("mtu", f"interface {name} has mtu {link.mtu}, not {mtu}"))
    return found


def address_differences(
    wanted: Result, index: int | None, addresses: list[str], routes: list[Route]
) -> list[Difference]:
    """Return the addresses (of interface `index`) and routes of a result that are missing in the pod.

    A route's metric counts only if the result has one.
    """
    held = frozenset(addresses)
    found = [
        Difference("address", f"address {ip.address} is gone", ip.address)
        for ip in wanted.ips
        if ip.interface == index and ip.address not in held
    ]
    present = {(route.dst, route.gw, route.table, metric) for route in routes for metric in (route.priority, None)}
    found += [
        Difference("route", f"route {route.dst} via {route.gw or 'link'} is gone", route)
        for route in effective_routes(wanted)
        if (normal_destination(route.dst), route.gw, route.table or MAIN_TABLE, route.priority) not in present
    ]
    return found


def verify_port(report: PortReport, plan: Plan) -> None:
    """Compare what libibverbs reports with the plan. Raises VerificationFailed (103)."""
    faults = []
    if report.link_layer != "InfiniBand":
        faults.append(f"its link layer is {report.link_layer}, not InfiniBand")
    if report.port_guid != plan.port_guid:
        faults.append(f"its port GUID is {report.port_guid}, not {plan.port_guid}")
    if report.node_guid != plan.node_guid:
        faults.append(f"its node GUID is {report.node_guid}, not {plan.node_guid}")
    if faults:
        raise VerificationFailed(f"RDMA device {report.device} in the pod: " + join_faults(faults))


def verify_pkey(report: PortReport, conf: NetConf) -> None:
    """Raise PortNotReady (103) if the P_Key that the network asks for is not in the port's table."""
    if conf.pkey is not None and normalize_pkey(conf.pkey) not in {normalize_pkey(p) for p in report.pkeys}:
        table = ", ".join([f"{pkey:#06x}" for pkey in report.pkeys if pkey])
        raise PortNotReady(
            f"RDMA device {report.device} in the pod: P_Key {conf.pkey:#06x} is not in its table ({table or 'empty'})",
            f"the subnet manager must add it: the partition needs this port's GUID, {report.port_guid}, or ALL "
            f"(opensm's partitions.conf, UFM, ib-kubernetes); portTimeout is {conf.port_timeout:g} s",
        )


def child_differences(link: Link, parent: Link | None, pkey: int) -> list[Difference]:
    """Return how a P_Key's interface in the pod, and the VF's netdev below it, differ from what they must be.

    `parent` is None if the VF's netdev was not read; then the link itself says what it is a child of.
    """
    found = []
    lower = parent.index if parent is not None else link.lower
    if not lower or link.lower != lower or normalize_pkey(link.pkey or 0) != normalize_pkey(pkey):
        found.append(Difference("interface", f"interface {link.name} is not the VF's child with P_Key {pkey:#06x}"))
    if parent is not None and not parent.up:
        words = f"interface {parent.name} is down, which {link.name} needs"
        found.append(Difference("down", words, parent.name))
    return found
