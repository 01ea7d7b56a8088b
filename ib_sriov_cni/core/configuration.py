"""The network configuration of `type: ib-sriov`: a Request's JSON to typed values, all faults at once. No I/O.

Keys and their meaning stand in docs/configuration.md; precedence of sources is C19: runtimeConfig before
args.cni before CNI_ARGS before the top level.
"""

from __future__ import annotations

from ib_sriov_cni.core.errors import CniError, InvalidConfiguration
from ib_sriov_cni.core.values import HEX, LINK_STATES, Guid, PciAddress
from ipam.protocol.result import Result, parse_result
from ipam.protocol.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    from ipam.protocol.request import Request

    T = TypeVar("T")

LOG_LEVELS = ("debug", "info", "warning", "error")
MAX_SECONDS = 3600
IPOIB_MTU_MIN, IPOIB_MTU_MAX = 68, 65520  # 65520: IPoIB connected mode (RFC 4755)
IB_KUBERNETES_KEY = "mellanox.infiniband.app"
# The DHCP client speaks over 6-byte hardware addresses only (RFC 4390 describes what it lacks).
REFUSED_IPAM = {
    "dhcp": "its client cannot speak over IPoIB's 20-byte hardware addresses, use host-local or whereabouts"
}


class NetConf(Value):
    """A network configuration, checked. `device` is None only where a DEL had to do without."""

    name: str
    device: PciAddress | None
    guid: Guid | None
    guid_source: str  # where `guid` was found, for messages
    link_state: str  # "" leaves it
    rdma_isolation: bool
    pkey: int | None
    mtu: int | None
    ib_kubernetes: bool
    ib_kubernetes_ready: bool
    ipam_type: str  # "" for no addresses
    port_timeout: float  # seconds; 0: do not wait
    lock_timeout: float  # seconds
    log_level: str
    log_file: str
    state_dir: str  # "" for the default
    device_info_file: str
    pod: str  # namespace/name from CNI_ARGS, "" if not told
    prev_result: Result | None


class _Reader:
    """Takes typed values from JSON objects and notes every fault on the way."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def typed(self, holder: Mapping[str, object], key: str, kind: type[T], default: T, words: str) -> T:
        """Give `holder[key]` if it is of that type; bool is no int and "true" is no bool."""
        found = holder.get(key)
        if found is None:
            return default
        if isinstance(found, kind) and (kind is bool or not isinstance(found, bool)):
            return found
        self.faults.append(f"{key}: {_show(found)} is not {words}")
        return default

    def parsed(self, place: str, text: object, parse: Callable[[str], T]) -> T | None:
        """Parse a string."""
        if not isinstance(text, str):
            self.faults.append(f"{place}: {_show(text)} is not a string")
            return None
        try:
            return parse(text)
        except ValueError as fault:
            self.faults.append(f"{place}: {fault}")
            return None

    def seconds(self, holder: Mapping[str, object], key: str, default: float) -> float:
        """Give a duration."""
        found = holder.get(key, default)
        if found is None:
            return default
        if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 <= found <= MAX_SECONDS:
            self.faults.append(f"{key}: {_show(found)} is not a number of seconds from 0 to {MAX_SECONDS}")
            return default
        return float(found)

    def one_of(self, holder: Mapping[str, object], key: str, words: tuple[str, ...], default: str) -> str:
        """Give one of some words."""
        found = holder.get(key)
        if found is None or found == "":
            return default
        if not isinstance(found, str) or found not in words:
            self.faults.append(f"{key}: {_show(found)} is none of {', '.join(words)}")
            return default
        return found


def parse_netconf(request: Request, *, lenient: bool = False, needs_device: bool = True) -> NetConf:
    """Read the configuration of a request.

    Raises InvalidConfiguration (7) that lists every fault. `lenient`, for DEL: what is wrong is passed over,
    because no fault of a configuration may keep an attachment from being released (C13). GC and STATUS, which
    speak of a network and not of an attachment, need no device.
    """
    reader = _Reader()
    conf = request.conf
    runtime, args_cni = _object(conf.get("runtimeConfig")), _object(_object(conf.get("args")).get("cni"))
    guid, guid_source = _read_guid(reader, runtime, args_cni, request.args, conf)
    ipam_type = _read_ipam(reader, conf)
    netconf = NetConf(
        name=str(conf.get("name", "")),
        device=_read_device(reader, runtime, conf, needed=needs_device),
        guid=guid,
        guid_source=guid_source,
        link_state=reader.one_of(conf, "link_state", tuple(LINK_STATES), ""),
        rdma_isolation=reader.typed(conf, "rdmaIsolation", bool, False, "true or false"),  # a default
        pkey=_read_pkey(reader, args_cni, conf),
        mtu=_read_mtu(reader, conf),
        ib_kubernetes=reader.typed(conf, "ibKubernetesEnabled", bool, False, "true or false"),  # a default
        ib_kubernetes_ready=args_cni.get(IB_KUBERNETES_KEY) == "configured",
        ipam_type=ipam_type,
        port_timeout=reader.seconds(conf, "portTimeout", 10.0),
        lock_timeout=reader.seconds(conf, "lockTimeout", 60.0),
        log_level=reader.one_of(conf, "logLevel", LOG_LEVELS, "info"),
        log_file=_read_path(reader, conf, "logFile"),
        state_dir=_read_path(reader, conf, "stateDir"),
        device_info_file=_read_path(reader, runtime, "CNIDeviceInfoFile"),
        pod=parse_pod(request.args),
        prev_result=_read_prev_result(reader, request),
    )
    reader.seconds(conf, "ipamTimeout", 0)  # the delegate door reads it itself: DEL has to do with any value
    if reader.faults and not lenient:
        raise InvalidConfiguration(f"network {netconf.name}: " + "; ".join(reader.faults), "nothing was touched")
    return netconf


def _object(found: object) -> dict[str, object]:
    return found if isinstance(found, dict) else {}


def _show(found: object) -> str:
    try:
        return repr(found)[:80]
    except RecursionError:  # the JSON reader goes deeper than what is left here
        return "something nested deeply"


def _read_device(
    reader: _Reader, runtime: dict[str, object], conf: dict[str, object], *, needed: bool
) -> PciAddress | None:
    for place, holder in (("runtimeConfig.deviceID", runtime), ("deviceID", conf), ("pciBusID", conf)):
        found = holder.get(place.rpartition(".")[2])
        if found not in (None, ""):
            return reader.parsed(place, found, PciAddress.parse)
    if needed:
        reader.faults.append("deviceID is missing: the device plugin and Multus give it (resourceName), or write it")
    return None


def _read_guid(
    reader: _Reader,
    runtime: dict[str, object],
    args_cni: dict[str, object],
    args: Mapping[str, str],
    conf: dict[str, object],
) -> tuple[Guid | None, str]:
    sources = (
        ("runtimeConfig.infinibandGUID", runtime.get("infinibandGUID")),
        ("args.cni.guid", args_cni.get("guid")),
        ("CNI_ARGS guid", args.get("guid")),
        ("guid", conf.get("guid")),
    )
    for place, found in sources:
        if found in (None, ""):
            continue
        guid = reader.parsed(place, found, Guid.parse)
        if guid is not None and guid.fault:
            reader.faults.append(f"{place}: {guid} {guid.fault}")
        return guid, place
    return None, ""


def _read_pkey(reader: _Reader, args_cni: dict[str, object], conf: dict[str, object]) -> int | None:
    place, found = ("args.cni.pkey", args_cni.get("pkey"))
    if found in (None, ""):
        place, found = ("pkey", conf.get("pkey"))
    if found in (None, ""):
        return None
    number = _hexadecimal(found) if isinstance(found, str) else found
    if isinstance(number, int) and not isinstance(number, bool) and 0 < number <= 0xFFFF and number & 0x7FFF:
        return number
    reader.faults.append(f'{place}: {_show(found)} is not a P_Key ("0x0001" to "0xffff")')
    return None


def _hexadecimal(text: str) -> int | None:
    """Read digits with or without 0x; int() alone would take signs, white space and underscores too."""
    digits = text[2:] if text[:2] in {"0x", "0X"} else text
    return int(digits, 16) if digits and HEX.issuperset(digits) else None


def _read_mtu(reader: _Reader, conf: dict[str, object]) -> int | None:
    mtu = reader.typed(conf, "mtu", int, 0, "a number of bytes")
    if mtu and not IPOIB_MTU_MIN <= mtu <= IPOIB_MTU_MAX:
        reader.faults.append(f"mtu: {mtu} is not from {IPOIB_MTU_MIN} to {IPOIB_MTU_MAX}")
    return mtu or None


def _read_ipam(reader: _Reader, conf: dict[str, object]) -> str:
    ipam = _object(conf.get("ipam"))
    if not ipam:
        return ""
    kind = ipam.get("type")
    if kind in (None, ""):
        reader.faults.append("ipam.type is missing")
        return ""
    if not isinstance(kind, str):
        reader.faults.append(f"ipam.type: {_show(kind)} is not a string")
        return ""
    if kind in REFUSED_IPAM:
        reader.faults.append(f"ipam.type {kind}: {REFUSED_IPAM[kind]}")
    return kind


def _read_path(reader: _Reader, holder: dict[str, object], key: str) -> str:
    path = reader.typed(holder, key, str, "", "a path")
    if path and (not path.startswith("/") or "\0" in path):
        reader.faults.append(f"{key}: {_show(path)} is not an absolute path")
        return ""
    return path


def _read_prev_result(reader: _Reader, request: Request) -> Result | None:
    found = request.conf.get("prevResult")
    if found is None:
        return None
    try:
        return parse_result(found, request.version)
    except CniError as fault:
        reader.faults.append(f"prevResult: {fault.msg}")
        return None


def parse_pod(args: Mapping[str, str]) -> str:
    """Name a pod for people, namespace/name; empty where CNI_ARGS names none."""
    name = args.get("K8S_POD_NAME", "")
    return f"{args.get('K8S_POD_NAMESPACE', '')}/{name}" if name else ""
