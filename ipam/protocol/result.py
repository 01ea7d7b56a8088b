"""The result of a CNI ADD: one model, parsed from and rendered to every version of the specification (C7, C9)."""

from __future__ import annotations

from ipam.protocol.address import canonical_address, canonical_cidr
from ipam.protocol.bounds import LIST_ITEMS, describe_excess, join_faults
from ipam.protocol.errors import DecodingFailure, InvalidConfiguration
from ipam.protocol.request import version_at_least
from ipam.protocol.spelling import RESULT, respell
from ipam.protocol.value import Value, replace
from ipam.protocol.versions import VERSIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NO_DNS: Mapping[str, object] = {}

_ROUTE_NUMBERS = ("mtu", "advmss", "priority", "table", "scope")


class Interface(Value):
    """A network interface; `sandbox` is the path of its network namespace, "" on the host."""

    name: str
    mac: str = ""
    sandbox: str = ""
    mtu: int | None = None
    socket_path: str | None = None
    pci_id: str | None = None


class Address(Value):
    """An address with prefix length, such as "10.1.2.3/24"; `interface` is an index into Result.interfaces."""

    address: str
    gateway: str | None = None
    interface: int | None = None


class Route(Value):
    """A route; the kernel chooses what is None."""

    dst: str
    gw: str | None = None
    mtu: int | None = None
    advmss: int | None = None
    priority: int | None = None
    table: int | None = None
    scope: int | None = None


class Result(Value):
    """The result of an ADD; `dns` has the specification's keys: nameservers, domain, search, options."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Mapping[str, object] = NO_DNS


class FaultReader:
    """Reads typed members of JSON objects and collects what is wrong with them in `faults`."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def member(self, holder: Mapping[str, object], key: str, kind: type, place: str) -> object:
        """Return the member; None if it is absent, null or, which is a fault, of another type or a list too long."""
        found = holder.get(key)
        if isinstance(found, list) and kind is list and len(found) > LIST_ITEMS:
            self.faults.append(describe_excess(f"{place}{key}", "items", len(found), LIST_ITEMS))
            return None
        if found is None or (isinstance(found, kind) and not (kind is int and isinstance(found, bool))):
            return found
        self.faults.append(f"{place}{key} is not {_KINDS[kind]}")
        return None

    def text(self, holder: Mapping[str, object], key: str, place: str) -> str | None:
        found = self.member(holder, key, str, place)
        return found if isinstance(found, str) else None

    def number(self, holder: Mapping[str, object], key: str, place: str) -> int | None:
        found = self.member(holder, key, int, place)
        return found if isinstance(found, int) else None

    def spelled(self, holder: Mapping[str, object], key: str, place: str, read: Callable[[str], str]) -> str | None:
        found = self.text(holder, key, place)
        if not found:
            return None
        try:
            return read(found)
        except ValueError as error:
            self.faults.append(f"{place}{key}: {error}")
            return None

    def objects(self, holder: Mapping[str, object], key: str, place: str = "") -> list[tuple[str, dict[str, object]]]:
        """Return the objects of a list, each with its place, such as "ips[0].". Other items are faults."""
        found = self.member(holder, key, list, place)
        items = []
        for index, item in enumerate(found if isinstance(found, list) else []):
            if isinstance(item, dict):
                items.append((f"{place}{key}[{index}].", item))
            else:
                self.faults.append(f"{place}{key}[{index}] is not an object")
        return items

    def object(self, holder: Mapping[str, object], key: str) -> dict[str, object] | None:
        found = self.member(holder, key, dict, "")
        return found if isinstance(found, dict) else None


_KINDS: dict[type, str] = {str: "a string", int: "an integer", list: "a list", dict: "an object"}


def parse_result(doc: object, version: str, *, of_ipam: bool = False) -> Result:
    """Return the result in a document of `version`, or of its own cniVersion if it has one.

    `of_ipam`: it is an IPAM plugin's, whose `interfaces`, and the indices of `ips` into them, are ignored: they should
    not be there (specification 1.1.0, section 5, "Delegated plugins (IPAM)"), but some plugins return them.
    Raises DecodingFailure (6) if it is not an object, InvalidConfiguration (7) with all faults.
    """
    if not isinstance(doc, dict):
        raise DecodingFailure("result is not a JSON object")
    reader = FaultReader()
    doc = respell(doc, RESULT, reader.faults)
    own = doc.get("cniVersion")
    if isinstance(own, str) and own in VERSIONS:
        version = own
    if version_at_least(version, "0.3.0"):
        result = _parse_current(reader, doc, of_ipam=of_ipam)
    else:
        result = _parse_legacy(reader, doc)
    if reader.faults:
        raise InvalidConfiguration(f"result: {join_faults(reader.faults)}")
    return result


def _parse_current(reader: FaultReader, doc: Mapping[str, object], *, of_ipam: bool) -> Result:
    found = [] if of_ipam else reader.objects(doc, "interfaces")
    interfaces = tuple([_parse_interface(reader, place, item) for place, item in found])
    number = None if of_ipam else len(interfaces)
    ips = tuple([_parse_ip(reader, place, item, number) for place, item in reader.objects(doc, "ips")])
    return Result(interfaces=interfaces, ips=ips, routes=_parse_routes(reader, doc, ""), dns=_parse_dns(reader, doc))


def _parse_legacy(reader: FaultReader, doc: Mapping[str, object]) -> Result:
    ips: list[Address] = []
    routes: list[Route] = []
    for key in ("ip4", "ip6"):
        item = reader.object(doc, key)
        if item is None:
            continue
        place = key + "."
        ips.append(
            Address(
                address=_required(reader, item, "ip", place, canonical_cidr),
                gateway=reader.spelled(item, "gateway", place, canonical_address),
            )
        )
        routes += _parse_routes(reader, item, place)
    return Result(ips=tuple(ips), routes=tuple(routes), dns=_parse_dns(reader, doc))


def _required(
    reader: FaultReader, item: Mapping[str, object], key: str, place: str, read: Callable[[str], str] = str
) -> str:
    before = len(reader.faults)
    found = reader.spelled(item, key, place, read)
    if found is None and len(reader.faults) == before:
        reader.faults.append(f"{place}{key} is missing")
    return found or ""


def _parse_interface(reader: FaultReader, place: str, item: Mapping[str, object]) -> Interface:
    return Interface(
        name=_required(reader, item, "name", place),
        mac=reader.text(item, "mac", place) or "",
        sandbox=reader.text(item, "sandbox", place) or "",
        mtu=reader.number(item, "mtu", place) or None,
        socket_path=reader.text(item, "socketPath", place) or None,
        pci_id=reader.text(item, "pciID", place) or None,
    )


def _parse_ip(reader: FaultReader, place: str, item: Mapping[str, object], interfaces: int | None) -> Address:
    """Return an address; `interfaces`: how many there are, None to ignore which one the address is for."""
    index = None if interfaces is None else reader.number(item, "interface", place)
    if index is not None and interfaces is not None and not 0 <= index < interfaces:
        reader.faults.append(f"{place}interface must be an index into interfaces (got {index}, there are {interfaces})")
    return Address(
        address=_required(reader, item, "address", place, canonical_cidr),
        gateway=reader.spelled(item, "gateway", place, canonical_address),
        interface=index,
    )


def _parse_routes(reader: FaultReader, doc: Mapping[str, object], place: str) -> tuple[Route, ...]:
    return tuple([parse_route(reader, inner, item) for inner, item in reader.objects(doc, "routes", place)])


def parse_route(reader: FaultReader, place: str, item: Mapping[str, object]) -> Route:
    """Return one route of a result or an ipam section. Faults are added to the reader."""
    mtu, advmss, priority, table, scope = [reader.number(item, key, place) for key in _ROUTE_NUMBERS]
    return Route(
        dst=_required(reader, item, "dst", place, canonical_cidr),
        gw=reader.spelled(item, "gw", place, canonical_address),
        mtu=mtu or None,  # 0 means "not set" in these three; in table and scope it is a value
        advmss=advmss or None,
        priority=priority or None,
        table=table,
        scope=scope,
    )


def _parse_dns(reader: FaultReader, doc: Mapping[str, object]) -> Mapping[str, object]:
    dns = reader.object(doc, "dns")
    if not dns:
        return NO_DNS
    kept: dict[str, object] = {}
    domain = reader.text(dns, "domain", "dns.")
    for key in ("nameservers", "search", "options"):
        found = reader.member(dns, key, list, "dns.")
        if isinstance(found, list) and found:
            if not all(isinstance(item, str) for item in found):
                reader.faults.append(f"dns.{key} is not a list of strings")
            kept[key] = list(found)
    if domain:
        kept["domain"] = domain
    return kept


def append_interface(before: Result, interface: Interface, reserved: Result) -> Result:
    """Return `before` with one more interface, and what an IPAM plugin reserved for it; earlier indices stay valid."""
    index = len(before.interfaces)
    return Result(
        interfaces=(*before.interfaces, interface),
        ips=(*before.ips, *[replace(ip, interface=index) for ip in reserved.ips]),
        routes=(*before.routes, *reserved.routes),
        dns=reserved.dns or before.dns,
    )


def render_result(result: Result, version: str) -> dict[str, object]:
    """Return the result as a document of `version`. Members that this version does not have are left out (C7)."""
    doc: dict[str, object] = {"cniVersion": version}
    newest = version_at_least(version, "1.1.0")
    if not version_at_least(version, "0.3.0"):
        doc.update(_render_legacy(result))
    else:
        versioned = not version_at_least(version, "1.0.0")
        parts = {
            "interfaces": [_render_interface(interface, full=newest) for interface in result.interfaces],
            "ips": [_render_ip(address, versioned=versioned) for address in result.ips],
            "routes": [_render_route(route, full=newest) for route in result.routes],
        }
        doc.update({key: items for key, items in parts.items() if items})
    if result.dns or not version_at_least(version, "1.0.0"):
        doc["dns"] = dict(result.dns)
    return doc


def _render_interface(interface: Interface, *, full: bool) -> dict[str, object]:
    members: dict[str, object] = {"name": interface.name, "mac": interface.mac, "sandbox": interface.sandbox}
    if full:
        members |= {"mtu": interface.mtu, "socketPath": interface.socket_path, "pciID": interface.pci_id}
    return {key: member for key, member in members.items() if member or key == "name"}


def _render_ip(address: Address, *, versioned: bool) -> dict[str, object]:
    members: dict[str, object] = {"version": _family(address.address)} if versioned else {}
    members |= {"interface": address.interface, "address": address.address, "gateway": address.gateway}
    return _given(members)


def _render_route(route: Route, *, full: bool) -> dict[str, object]:
    members: dict[str, object] = {"dst": route.dst, "gw": route.gw}
    if full:
        for key in _ROUTE_NUMBERS:
            members[key] = getattr(route, key)
    return _given(members)


def _given(members: dict[str, object]) -> dict[str, object]:
    return {key: member for key, member in members.items() if member is not None}


def _render_legacy(result: Result) -> dict[str, object]:
    doc: dict[str, object] = {}
    for key, family in (("ip4", "4"), ("ip6", "6")):
        first = next((address for address in result.ips if _family(address.address) == family), None)
        if first is None:
            continue
        routes = [_render_route(route, full=False) for route in result.routes if _family(route.dst) == family]
        doc[key] = _given({"ip": first.address, "gateway": first.gateway, "routes": routes or None})
    return doc


def _family(address: str) -> str:
    return "6" if ":" in address else "4"
