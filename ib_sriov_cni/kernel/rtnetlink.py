"""Door to rtnetlink: links, the PF's VF settings, addresses and routes of one network namespace.

It makes no decisions. A refusal by the kernel becomes KernelRefused (102) with operation, object and reason.
Sources: net/core/rtnetlink.c, drivers/infiniband/ulp/ipoib/ipoib_main.c, `man 7 rtnetlink`.
"""

from __future__ import annotations

import errno
import os
from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from struct import unpack_from

from ib_sriov_cni.core.errors import KernelRefused
from ib_sriov_cni.core.values import (
    ARPHRD_INFINIBAND,
    IFF_UP,
    LINK_STATE_NAMES,
    LINK_STATES,
    MAIN_TABLE,
    OWN_PROTOCOL,
    Guid,
    Link,
    PodRoute,
    VfConfig,
)
from ib_sriov_cni.kernel import netlink_messages as m
from ib_sriov_cni.kernel.netlink_socket import NETLINK_ROUTE, NetlinkError, NetlinkSocket
from ipam.protocol import bounds
from ipam.protocol.result import Route
from ipam.protocol.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from typing import Any

    from ib_sriov_cni.core.values import VfFunction

RTEXT_FILTER_VF, RTEXT_FILTER_SKIP_STATS = 1, 8
IFA_F_NODAD = 0x02
RT_TABLE_UNSPEC, RTN_UNICAST = 0, 1
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
OPERSTATES = ("unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up")
GONE = (errno.ENODEV, errno.ENXIO)
RTA_GATEWAY = 5


class Rtnl:
    """rtnetlink in the network namespace that the thread is in when this is made, even if the thread leaves it.

    All methods raise KernelRefused (102).
    """

    def __init__(self, *, trace: Callable[[str], None] | None = None) -> None:
        """Open the socket. Raises OSError."""
        self._socket = NetlinkSocket(NETLINK_ROUTE, trace=trace)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def netns_cookie(self) -> int:
        """Return the cookie of its namespace; 0 before Linux 5.14."""
        return self._socket.netns_cookie()

    def _ask(self, operation: str, target: str, message: type[Any], kind: int, **how: Any) -> list[Any]:
        try:
            return self._socket.ask(message, kind, **how)
        except NetlinkError as refusal:
            raise KernelRefused(operation, target, refusal.errno, reason=refusal.reason) from None

    # ---- links

    def read_link(self, which: int | str) -> Link | None:
        """Return the link with that index, name or alternative name; None if there is none."""
        fields = {"index": which} if isinstance(which, int) else {}
        attrs: list[tuple[str, object]] = [("IFLA_EXT_MASK", RTEXT_FILTER_SKIP_STATS)]
        if isinstance(which, str):
            attrs.append(("IFLA_IFNAME", os.fsencode(which)))
        try:
            answers = self._socket.ask(m.linkmsg, m.RTM_GETLINK, fields=fields, attrs=attrs, keep=_link)
        except NetlinkError as refusal:
            if refusal.errno in GONE:
                return None
            raise KernelRefused("read", f"netdev {which}", refusal.errno, reason=refusal.reason) from None
        return answers[0]

    def read_links(self, most: int = bounds.LINKS) -> list[Link]:
        """Return all links of the namespace."""
        attrs = [("IFLA_EXT_MASK", RTEXT_FILTER_SKIP_STATS)]
        return self._ask(
            "list", "netdevs", m.linkmsg, m.RTM_GETLINK, flags=m.NLM_F_DUMP, attrs=attrs, keep=_link, most=most
        )

    def find_link(self, pci: str, links: Sequence[Link] | None = None) -> Link | None:
        """Return the IPoIB netdev of that PCI function (not a P_Key child); None if there is none.

        Makes a dump, unless `links` has those of an earlier one: the kernel finds links only by index or name.
        """
        for link in self.read_links() if links is None else links:
            if link.pci == pci and link.kind == ARPHRD_INFINIBAND and not link.lower:
                return link
        return None

    def find_children(self, pci: str, guid: Guid, links: Sequence[Link] | None = None) -> list[Link]:
        """Return the P_Key children of that PCI function, or of that port GUID if the kernel reports no PCI device.

        It reports none for children made by netlink (as of 6.12), and none at all before 5.14. Makes a dump, unless
        `links` has those of an earlier one.
        """
        found = self.read_links() if links is None else links
        children = [link for link in found if link.lower and link.port_guid is not None]
        return [link for link in children if (link.pci == pci if link.pci else link.port_guid == guid)]

    def read_children_of(self, parent: Link) -> tuple[str, ...]:
        """Return the names of a netdev's P_Key children in the host's namespace, which is this one."""
        links = [link for link in self.read_links(bounds.HOST_LINKS) if link.lower == parent.index]
        return tuple([link.name for link in links if link.kind == ARPHRD_INFINIBAND])

    def add_child(self, parent: Link, name: str, pkey: int) -> None:
        """Make an IPoIB child of `parent` with another P_Key, in this namespace (ipoib_netlink.c)."""
        info = {"attrs": [("IFLA_INFO_KIND", "ipoib"), ("IFLA_INFO_DATA", {"attrs": [("IFLA_IPOIB_PKEY", pkey)]})]}
        self._ask(
            f"make child {name} of P_Key {pkey:#06x} of",
            f"netdev {parent.name}",
            m.linkmsg,
            m.RTM_NEWLINK,
            flags=m.NLM_F_ACK | m.NLM_F_CREATE | m.NLM_F_EXCL,
            attrs=[("IFLA_IFNAME", name), ("IFLA_LINK", parent.index), ("IFLA_LINKINFO", info)],
        )

    def remove_link(self, link: Link) -> None:
        """Delete the netdev; does nothing if it is gone."""
        try:
            fields = {"index": link.index}
            self._ask("delete", f"netdev {link.name}", m.linkmsg, m.RTM_DELLINK, flags=m.NLM_F_ACK, fields=fields)
        except KernelRefused as refusal:
            if refusal.errno not in GONE:
                raise

    def _set(self, operation: str, link: Link, *, attrs: Sequence[tuple[str, object]] = (), **fields: int) -> None:
        self._ask(
            operation,
            f"netdev {link.name}",
            m.linkmsg,
            m.RTM_SETLINK,
            flags=m.NLM_F_ACK,
            fields={"index": link.index, **fields},
            attrs=attrs,
        )

    def set_up(self, link: Link) -> None:
        """Bring the netdev up."""
        self._set("bring up", link, flags=IFF_UP, change=IFF_UP)

    def set_down(self, link: Link) -> None:
        """Take the netdev down."""
        self._set("take down", link, flags=0, change=IFF_UP)

    def set_mtu(self, link: Link, mtu: int) -> None:
        """Set the MTU, in bytes."""
        self._set(f"set mtu {mtu} of", link, attrs=[("IFLA_MTU", mtu)])

    def set_name(self, link: Link, name: str) -> None:
        """Rename the netdev."""
        self._set(f"rename to {name}", link, attrs=[("IFLA_IFNAME", os.fsencode(name))])

    def move_link(self, link: Link, netns: int, name: str) -> None:
        """Move the netdev to the namespace of that open file and rename it there, which is not atomic.

        If the name is taken there (EEXIST), the netdev may have been moved all the same.
        """
        attrs = [("IFLA_NET_NS_FD", netns), ("IFLA_IFNAME", os.fsencode(name))]
        self._set(f"move to another namespace as {name}", link, attrs=attrs)

    def add_altname(self, link: Link, name: str) -> None:
        """Add an alternative name."""
        flags = m.NLM_F_CREATE | m.NLM_F_EXCL | m.NLM_F_APPEND
        self._altname("add altname", m.RTM_NEWLINKPROP, flags, link, name)

    def remove_altname(self, link: Link, name: str) -> None:
        """Remove an alternative name."""
        self._altname("remove altname", m.RTM_DELLINKPROP, 0, link, name)

    def _altname(self, operation: str, kind: int, flags: int, link: Link, name: str) -> None:
        attrs = [("IFLA_PROP_LIST", {"attrs": [("IFLA_ALT_IFNAME", os.fsencode(name))]})]
        target = f"{name} of netdev {link.name}"
        fields = {"index": link.index}
        self._ask(operation, target, m.linkmsg, kind, flags=m.NLM_F_ACK | flags, fields=fields, attrs=attrs)

    # ---- the PF's settings of its VFs

    def read_pf(
        self, pf_netdev: str, pf_index: int = 0, *, only: int | None = None
    ) -> tuple[Link, dict[int, VfConfig]]:
        """Return a PF's netdev and its settings of its VFs, by VF index.

        The netdev is identified by `pf_index`, or by its name if that is 0. `only`: decode the VF of that index alone,
        which saves most of the time; the kernel always sends all.
        """
        fields, named = _addressed(pf_netdev, pf_index)
        attrs = [("IFLA_EXT_MASK", RTEXT_FILTER_VF | RTEXT_FILTER_SKIP_STATS), *named]
        how = {"fields": fields, "attrs": attrs, "keep": lambda answer: (_link(answer), vf_configs(answer, only))}
        (found,) = self._ask("read VFs of", f"PF {pf_netdev}", m.linkmsg, m.RTM_GETLINK, **how)
        return found  # type: ignore[no-any-return]

    def set_vf_link_state(self, vf: VfFunction, state: str) -> None:
        """Set the VF's link state: auto, enable or disable. Takes effect at once."""
        content = {"number": LINK_STATES[state]}
        self._set_vf(f"set link state {state} of", vf, "IFLA_VF_LINK_STATE", content)

    def set_vf_node_guid(self, vf: VfFunction, guid: Guid) -> None:
        """Set the VF's node GUID, which takes effect when the VF is bound to its driver again."""
        self._set_vf(f"set node GUID {guid} of", vf, "IFLA_VF_IB_NODE_GUID", {"guid": int(guid)})

    def set_vf_port_guid(self, vf: VfFunction, guid: Guid) -> None:
        """Set the VF's port GUID, which takes effect when the VF is bound to its driver again."""
        self._set_vf(f"set port GUID {guid} of", vf, "IFLA_VF_IB_PORT_GUID", {"guid": int(guid)})

    def _set_vf(self, operation: str, vf: VfFunction, name: str, content: dict[str, int]) -> None:
        info = {"attrs": [(name, {"vf": vf.index, **content})]}
        fields, named = _addressed(vf.pf_netdev, vf.pf_index)
        attrs = [*named, ("IFLA_VFINFO_LIST", {"attrs": [("IFLA_VF_INFO", info)]})]
        target = f"VF {vf.index} of PF {vf.pf_netdev}"
        self._ask(operation, target, m.linkmsg, m.RTM_SETLINK, flags=m.NLM_F_ACK, fields=fields, attrs=attrs)

    # ---- addresses and routes

    def read_addresses(self, link: Link) -> list[str]:
        """Return the link's addresses as text with prefix length."""

        def keep(answer: Any) -> str | None:
            if answer["index"] != link.index:  # before Linux 4.20 the dump has those of all links
                return None
            packed = answer.get_attr("IFA_LOCAL") or answer.get_attr("IFA_ADDRESS")
            return f"{inet_ntop(answer['family'], packed)}/{answer['prefixlen']}"

        fields = {"index": link.index}
        how = {"flags": m.NLM_F_DUMP, "fields": fields, "keep": keep, "most": bounds.ADDRESSES}
        return self._ask("list", f"addresses of netdev {link.name}", m.addrmsg, m.RTM_GETADDR, **how)

    def add_address(self, link: Link, cidr: str) -> None:
        """Add an address with prefix length.

        IPv6 addresses are added without duplicate address detection, which would make them unusable for a second or
        more. Their reservation makes them unique (RFC 4862, section 5.4, allows to disable it).
        """
        text, _, prefix = cidr.partition("/")
        family, packed = _packed(text)
        attrs: list[tuple[str, object]] = [("IFA_LOCAL", packed), ("IFA_ADDRESS", packed)]
        length = int(prefix)
        if family == AF_INET and length < 31:
            host = (1 << (32 - length)) - 1
            attrs.append(("IFA_BROADCAST", (int.from_bytes(packed, "big") | host).to_bytes(4, "big")))
        if family == AF_INET6:
            attrs.append(("IFA_FLAGS", IFA_F_NODAD))
        self._ask(
            "add address",
            f"{cidr} to netdev {link.name}",
            m.addrmsg,
            m.RTM_NEWADDR,
            flags=m.NLM_F_ACK | m.NLM_F_CREATE | m.NLM_F_EXCL,
            fields={"family": family, "prefixlen": length, "index": link.index},
            attrs=attrs,
        )

    def add_route(self, link: Link, route: Route, *, further_path: bool = False) -> None:
        """Add a unicast route through the link.

        If there is one with this destination, table and metric, that is EEXIST. `further_path`: it goes beside it.
        """
        family, packed = _packed(route.dst.partition("/")[0])
        length = int(route.dst.partition("/")[2])
        table = route.table or MAIN_TABLE
        scope = route.scope if route.scope is not None else RT_SCOPE_UNIVERSE if route.gw else RT_SCOPE_LINK
        attrs: list[tuple[str, object]] = [("RTA_OIF", link.index), ("RTA_TABLE", table)]
        if length:
            attrs.append(("RTA_DST", _network(packed, length)))
        if route.gw:
            attrs.append(("RTA_GATEWAY", _packed(route.gw)[1]))
        if route.priority:
            attrs.append(("RTA_PRIORITY", route.priority))
        metrics = [item for item in (("RTAX_MTU", route.mtu), ("RTAX_ADVMSS", route.advmss)) if item[1]]
        if metrics:
            attrs.append(("RTA_METRICS", {"attrs": metrics}))
        fields = {"family": family, "dst_len": length, "proto": OWN_PROTOCOL, "scope": scope, "type": RTN_UNICAST}
        fields["table"] = table if table < 256 else RT_TABLE_UNSPEC
        what = f"{route.dst} via {route.gw or 'link'} on netdev {link.name}"
        flags = m.NLM_F_ACK | m.NLM_F_CREATE | (m.NLM_F_APPEND if further_path else m.NLM_F_EXCL)
        self._ask("add route", what, m.routemsg, m.RTM_NEWROUTE, flags=flags, fields=fields, attrs=attrs)

    def read_routes(self, link: Link, *, ipv4: bool = True, ipv6: bool = True) -> list[Route]:
        """Return the unicast routes through the link, of all tables."""
        families = ((AF_INET, ipv4), (AF_INET6, ipv6))
        index = link.index
        found = [self._read_paths(f, lambda path: path.index == index, index) for f, wanted in families if wanted]
        return [path.route for paths in found for path in paths]

    def read_routes_to(self, destinations: Collection[str]) -> list[PodRoute]:
        """Return the unicast routes of all links and tables to these destinations, whose host bits are cleared."""
        families = {AF_INET6 if ":" in dst else AF_INET for dst in destinations}
        found = [self._read_paths(family, lambda path: path.route.dst in destinations) for family in sorted(families)]
        return [path for paths in found for path in paths]

    def _read_paths(self, family: int, wanted: Callable[[PodRoute], bool], index: int = 0) -> list[PodRoute]:
        """Return those of a family's unicast routes, one per path, that are wanted; `index`: only that link's.

        The kernel filters the dump only partly, so it is filtered again: before 4.20 it sends all routes, without IPv6
        those of other families, and a multipath route always as a whole.
        """

        def keep(answer: Any) -> list[PodRoute] | None:
            return [path for path in _paths(answer, family) if wanted(path)] or None

        attrs = [("RTA_OIF", index)] if index else []
        fields = {"family": family, "type": RTN_UNICAST}
        how = {"flags": m.NLM_F_DUMP, "fields": fields, "attrs": attrs, "keep": keep, "most": bounds.ROUTES}
        found = self._ask("list", "routes", m.routemsg, m.RTM_GETROUTE, **how)
        return [path for paths in found for path in paths]


def _paths(answer: Any, family: int) -> list[PodRoute]:
    """Return the paths of a unicast route of that family; else none."""
    if (answer["family"], answer["type"]) != (family, RTN_UNICAST):
        return []
    packed = answer.get_attr("RTA_DST") or bytes(4 if family == AF_INET else 16)
    metrics = answer.get_attr("RTA_METRICS")
    route = Route(
        dst=f"{inet_ntop(family, packed)}/{answer['dst_len']}",
        table=answer.get_attr("RTA_TABLE") or answer["table"],
        priority=answer.get_attr("RTA_PRIORITY"),
        mtu=metrics.get_attr("RTAX_MTU") if metrics else None,
    )
    paths = [(answer.get_attr("RTA_OIF"), answer.get_attr("RTA_GATEWAY"))]
    if several := answer.get_attr("RTA_MULTIPATH"):
        paths = _next_hops(several)
    return [
        PodRoute(
            route=replace(route, gw=inet_ntop(family, gateway) if gateway else None),
            index=out or 0,
            protocol=answer["proto"],
        )
        for out, gateway in paths
    ]


def _next_hops(packed: bytes) -> list[tuple[int, bytes | None]]:
    """Return ifindex and gateway of each path: a struct rtnexthop, followed by its attributes."""
    found, at = [], 0
    while at + 8 <= len(packed):
        size, _flags, _hops, index = unpack_from("HBBi", packed, at)
        gateway, inside = None, at + 8
        while inside + 4 <= at + size:
            length, kind = unpack_from("HH", packed, inside)
            if kind == RTA_GATEWAY:
                gateway = packed[inside + 4 : inside + length]
            inside += max(length + 3 & ~3, 4)
        found.append((index, gateway))
        at += max(size + 3 & ~3, 8)
    return found


def _addressed(name: str, index: int) -> tuple[dict[str, int], list[tuple[str, object]]]:
    """Return the fields and attributes that identify a link by its index, or by its name if that is 0."""
    return ({"index": index}, []) if index else ({}, [("IFLA_IFNAME", name)])


def vf_configs(answer: Any, only: int | None) -> dict[int, VfConfig]:
    """Return the settings of the VFs in a PF's RTM_NEWLINK, by VF index; `only`: of that one alone."""
    listed = answer.get_attr("IFLA_VFINFO_LIST")
    slots = [slot for slot in listed["attrs"] if slot.name == "IFLA_VF_INFO"] if listed else []
    if only is not None and only < len(slots):
        slots.insert(0, slots[only])  # the kernel lists them in order (rtnl_fill_vf): try this place first
    configs: dict[int, VfConfig] = {}
    for slot in slots:
        index, config = _vf_config(slot.value)
        if index is not None and only in (None, index):
            configs[index] = config
            if only is not None:
                break
    return configs


def _vf_config(info: Any) -> tuple[int | None, VfConfig]:
    """Return a VF's index, None if no attribute has it, and its settings as far as the kernel reports them."""
    state = info.get_attr("IFLA_VF_LINK_STATE")
    node, port = info.get_attr("IFLA_VF_IB_NODE_GUID"), info.get_attr("IFLA_VF_IB_PORT_GUID")
    return next((item["vf"] for item in (state, node, port) if item), None), VfConfig(
        node_guid=Guid(node["guid"]) if node else None,
        port_guid=Guid(port["guid"]) if port else None,
        link_state=LINK_STATE_NAMES.get(state["number"], "") if state else "",
    )


def _packed(text: str) -> tuple[int, bytes]:
    family = AF_INET6 if ":" in text else AF_INET
    return family, inet_pton(family, text)


def _network(packed: bytes, length: int) -> bytes:
    """Return an address with its host bits cleared; the kernel refuses a destination that has any set."""
    host = (1 << (len(packed) * 8 - length)) - 1
    return (int.from_bytes(packed, "big") & ~host).to_bytes(len(packed), "big")


def _link(answer: Any) -> Link:
    properties = answer.get_attr("IFLA_PROP_LIST")
    lower = answer.get_attr("IFLA_LINK") or 0
    return Link(
        index=answer["index"],
        name=_name(answer.get_attr("IFLA_IFNAME")),
        kind=answer["ifi_type"],
        flags=answer["flags"],
        mtu=answer.get_attr("IFLA_MTU") or 0,
        address=answer.get_attr("IFLA_ADDRESS") or b"",
        operstate=OPERSTATES[answer.get_attr("IFLA_OPERSTATE") or 0],
        pci=_name(answer.get_attr("IFLA_PARENT_DEV_NAME") or ""),
        altnames=tuple([_name(name) for name in properties.get_attrs("IFLA_ALT_IFNAME")]) if properties else (),
        lower=lower if lower != answer["index"] else 0,
        broadcast=answer.get_attr("IFLA_BROADCAST") or b"",
    )


def _name(found: str | bytes) -> str:
    """Return a name as text: the kernel, and so a pod, may use nearly any bytes in it."""
    return os.fsdecode(found)
