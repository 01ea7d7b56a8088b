"""Parse the network configuration as host-local reads it; all faults are reported in one message (H1 to H3, C4).

The parts of the network configuration that matter here::

    {"name": "ib", "cniVersion": "1.0.0", "lockTimeout": 60,
     "ipam": {"type": "host-local", "dataDir": "/var/lib/cni/networks", "resolvConf": "/etc/resolv.conf",
              "subnet": …, "rangeStart": …, "rangeEnd": …, "gateway": …,      one range, the older form
              "ranges": [[{"subnet": …, "rangeStart": …, "rangeEnd": …, "gateway": …}, …], …],
              "routes": [{"dst": …, "gw": …}], "slices": {…}},
     "runtimeConfig": {"ipRanges": [[{…}]], "ips": ["10.0.0.7/24"]},
     "args": {"cni": {"ips": ["10.0.0.7"]}}}
"""

from __future__ import annotations

from ipam.host_local.ranges import describe_fault, find_overlaps, parse_range
from ipam.protocol.address import parse_address, parse_cidr
from ipam.protocol.bounds import LIST_ITEMS, describe_excess, join_faults
from ipam.protocol.errors import InvalidConfiguration
from ipam.protocol.request import version_at_least
from ipam.protocol.result import FaultReader, parse_route
from ipam.protocol.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ipam.host_local.ranges import Range, RangeSet
    from ipam.host_local.slices import SliceSource
    from ipam.protocol.address import Address
    from ipam.protocol.request import Request
    from ipam.protocol.result import Route

DATA_DIR = "/var/lib/cni/networks"
LOCK_TIMEOUT = 60.0  # seconds


class Place(Value):
    """Where the leases of a network are, and how long to wait for their lock (seconds)."""

    data_dir: str
    network: str
    lock_timeout: float = LOCK_TIMEOUT


class Settings(Value):
    """Everything that an ADD needs."""

    place: Place
    sets: tuple[RangeSet, ...]
    requested: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    resolv_conf: str = ""
    slices: SliceSource | None = None


def parse_place(conf: Mapping[str, object]) -> Place:
    """Return what a release needs. Faults in other keys are ignored: they must not prevent a release (H6).

    Raises InvalidConfiguration (7) if dataDir is not a path.
    """
    faults: list[str] = []
    data_dir = _parse_data_dir(_section(conf), faults)
    if faults:
        raise InvalidConfiguration(join_faults(faults))
    return Place(data_dir=data_dir, network=_name(conf), lock_timeout=_parse_timeout(conf, []))


def parse_settings(request: Request) -> Settings:
    """Return the settings in a request's configuration. Raises InvalidConfiguration (7) with its faults."""
    conf = request.conf
    ipam = _section(conf)
    reader = FaultReader()
    faults = reader.faults
    if not isinstance(conf.get("ipam"), dict):
        faults.append("ipam is missing")
    place = Place(
        data_dir=_parse_data_dir(ipam, faults), network=_name(conf), lock_timeout=_parse_timeout(conf, faults)
    )
    resolv_conf = reader.text(ipam, "resolvConf", "ipam.") or ""
    if "\0" in resolv_conf:
        faults.append("ipam.resolvConf contains a NUL byte")
    routes = tuple([parse_route(reader, where, item) for where, item in reader.objects(ipam, "routes", "ipam.")])
    settings = Settings(
        place=place,
        sets=_parse_sets(conf, ipam, request.version, reader),
        requested=_parse_requested(request, reader),
        routes=routes,
        resolv_conf=resolv_conf,
        slices=_parse_slices(ipam, faults),
    )
    if faults:
        raise InvalidConfiguration(join_faults(faults))
    return settings


def _section(conf: Mapping[str, object], *keys: str) -> Mapping[str, object]:
    found: object = conf
    for key in keys or ("ipam",):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _name(conf: Mapping[str, object]) -> str:
    return str(conf.get("name", ""))


def _parse_data_dir(ipam: Mapping[str, object], faults: list[str]) -> str:
    data_dir = ipam.get("dataDir")
    if data_dir in (None, ""):
        data_dir = DATA_DIR
    if not isinstance(data_dir, str) or "\0" in data_dir:
        faults.append("ipam.dataDir is not a path")
        return DATA_DIR
    return data_dir


def _parse_timeout(conf: Mapping[str, object], faults: list[str]) -> float:
    timeout = conf.get("lockTimeout")
    if timeout is None:
        return LOCK_TIMEOUT
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 <= timeout <= 86400:
        faults.append("lockTimeout must be a number of seconds between 0 and 86400")
        return LOCK_TIMEOUT
    return float(timeout)


def _parse_sets(
    conf: Mapping[str, object], ipam: Mapping[str, object], version: str, reader: FaultReader
) -> tuple[RangeSet, ...]:
    """Return the range sets in order: runtimeConfig.ipRanges, the single range of the older form, ranges (H1)."""
    before = len(reader.faults)
    given, own = [
        reader.member(holder, key, list, place)
        for holder, key, place in (
            (_section(conf, "runtimeConfig"), "ipRanges", "runtimeConfig."),
            (ipam, "ranges", "ipam."),
        )
    ]
    count = sum([len(items) for lists in (given, own) for items in _items(lists) if isinstance(items, list)])
    if count > LIST_ITEMS:
        reader.faults.append(describe_excess("ipam.ranges and runtimeConfig.ipRanges", "ranges", count, LIST_ITEMS))
        return ()
    sets = _parse_lists(given, "runtimeConfig.ipRanges", reader.faults)
    if ipam.get("subnet") not in (None, ""):
        sets += [_parse_set([("ipam.", ipam)], "ipam.", reader.faults)]
    sets += _parse_lists(own, "ipam.ranges", reader.faults)
    if len(reader.faults) > before:
        return ()
    if not sets:
        reader.faults.append("no IP ranges specified: ipam has neither ranges nor subnet")
    for bits, family in ((32, "IPv4"), (128, "IPv6")):
        if sum(found[0].bits == bits for found in sets) > 1 and not version_at_least(version, "0.3.0"):
            reader.faults.append(f"cniVersion {version} does not support more than 1 address per family ({family})")
    numbered = [(index, part) for index, range_set in enumerate(sets) for part in range_set]
    reader.faults += [f"range set {one} overlaps with {other}" for one, other in find_overlaps(numbered)]
    return tuple(sets)


def _items(found: object) -> list[object]:
    return found if isinstance(found, list) else []


def _parse_lists(lists: object, place: str, faults: list[str]) -> list[RangeSet]:
    sets = []
    for index, items in enumerate(_items(lists)):
        where = f"{place}[{index}]"
        if isinstance(items, list):
            sets.append(_parse_set([(f"{where}[{i}].", item) for i, item in enumerate(items)], where, faults))
        else:
            faults.append(f'{where} is not a list of ranges: the form is [[{{"subnet": "172.16.0.0/24"}}]]')
    return sets


def _parse_set(items: list[tuple[str, object]], where: str, faults: list[str]) -> RangeSet:
    ranges: list[Range] = []
    for place, item in items:
        try:
            if not isinstance(item, dict):
                raise TypeError("not an object")
            ranges.append(parse_range(item))
        except (TypeError, ValueError) as error:
            faults += [f"{place.rstrip('.')}: {fault}" for fault in error.args]
    if len(ranges) == len(items):
        fault = describe_fault(tuple(ranges))
        if fault:
            faults.append(f"{where.rstrip('.')}: {fault}")
    return tuple(ranges)


def _parse_requested(request: Request, reader: FaultReader) -> tuple[Address, ...]:
    """Return the requested addresses without duplicates: CNI_ARGS, args.cni.ips, then runtimeConfig.ips (H3)."""
    texts: list[tuple[str, object]] = []
    if request.args.get("IP"):
        texts.append(("CNI_ARGS IP", request.args["IP"]))
    sources = (("args.cni.", ("args", "cni")), ("runtimeConfig.", ("runtimeConfig",)))
    for place, keys in sources:
        found = reader.member(_section(request.conf, *keys), "ips", list, place)
        texts += [(f"{place}ips[{i}]", text) for i, text in enumerate(_items(found))]
    if len(texts) > LIST_ITEMS:
        reader.faults.append(describe_excess("a pod's request", "addresses", len(texts), LIST_ITEMS))
        return ()
    requested: dict[Address, None] = {}
    for place, text in texts:
        try:
            if not isinstance(text, str):
                raise TypeError("not a string")
            address = parse_cidr(text)[0] if "/" in text else parse_address(text)
        except (TypeError, ValueError) as error:
            reader.faults.append(f"{place}: {error}")
            continue
        requested[address] = None
    return tuple(requested)


def _parse_slices(ipam: Mapping[str, object], faults: list[str]) -> SliceSource | None:
    if ipam.get("slices") is None:
        return None
    from ipam.host_local.slices import parse_slices

    return parse_slices(ipam["slices"], faults)
