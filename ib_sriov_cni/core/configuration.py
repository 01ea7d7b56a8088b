"""The network configuration of `type: ib-sriov`: from a request's JSON to typed values and faults. No I/O.

docs/configuration.md describes the keys; core/known_keys.py has their names, and the order of a value's sources.
"""

from __future__ import annotations

from ib_sriov_cni.core.errors import CniError, InvalidConfiguration
from ib_sriov_cni.core.known_keys import DEVICE_SOURCES, GUID_SOURCES, PKEY_SOURCES, find_first, look_up
from ib_sriov_cni.core.pod_choices import parse_choices, restrict_choices
from ib_sriov_cni.core.values import GUID_FORM, HEX, LINK_STATES, PCI_FORM, Guid, PciAddress, describe_value
from ipam.protocol.bounds import join_faults
from ipam.protocol.result import Result, parse_result
from ipam.protocol.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    from ipam.protocol.request import Request

    T = TypeVar("T")

LOG_LEVELS = ("debug", "info", "warning", "error")
# Words of other plugins and of the logging libraries that are common in Go.
OTHER_LOG_LEVELS = {
    "trace": "debug",
    "verbose": "info",
    "notice": "info",
    "warn": "warning",
    **dict.fromkeys(("err", "critical", "fatal", "panic"), "error"),
}
MAX_SECONDS = 3600
IPOIB_MTU_MIN, IPOIB_MTU_MAX = 68, 65520  # bytes; the maximum is that of IPoIB's connected mode (RFC 4755)
IB_KUBERNETES_KEY = "mellanox.infiniband.app"
# The DHCP plugin's client does not implement RFC 4390, DHCP over InfiniBand.
REFUSED_IPAM = {"dhcp": "its client needs 6-byte hardware addresses, IPoIB's have 20"}


class NetConf(Value):
    """A checked network configuration.

    `device` is None only where none is needed (GC, STATUS) or where a DEL found no usable one.
    """

    name: str
    device: PciAddress | None
    guid: Guid | None
    guid_source: str  # the key that `guid` was found under, for messages
    link_state: str  # "": leave it as it is
    vfio_pci_mode: bool  # the device is for a virtual machine; only then it may be a PF
    rdma_isolation: bool
    pkey: int | None
    mtu: int | None
    accept_ra: bool  # whether the pod's interface takes router advertisements
    ib_kubernetes: bool
    ib_kubernetes_ready: bool
    pod_may_choose: tuple[str, ...]  # words of pod_choices.WORDS
    ipam_type: str  # "": no addresses
    port_timeout: float  # seconds; 0: do not wait
    lock_timeout: float  # seconds
    log_level: str
    log_file: str
    state_dir: str  # "": the default
    device_info_file: str
    pod: str  # namespace/name from CNI_ARGS; "" without one
    prev_result: Result | None
    warnings: tuple[str, ...] = ()  # values of logLevel and logFile that mean nothing


class _Reader:
    """Reads typed values from JSON objects and collects every fault on the way."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.warnings: list[str] = []

    def refuse(self, key: str, expected: str, found: object) -> None:
        """Note a fault: which key, what its value must be, what it is."""
        self.faults.append(f"{key} must be {expected} (got {describe_value(found)})")

    def typed(self, holder: Mapping[str, object], key: str, kind: type[T], default: T, expected: str) -> T:
        """Return `holder[key]` if it is of type `kind`. A bool is not a number, and "true" is not a bool."""
        found = holder.get(key)
        if found is None:
            return default
        if isinstance(found, kind) and (kind is bool or not isinstance(found, bool)):
            return found
        self.refuse(key, expected, found)
        return default

    def parsed(self, key: str, found: object, parse: Callable[[str], T], expected: str) -> T | None:
        """Return a string's value, by `parse`, which raises ValueError."""
        try:
            if isinstance(found, str):
                return parse(found)
        except ValueError:
            pass
        self.refuse(key, expected, found)
        return None

    def seconds(self, holder: Mapping[str, object], key: str, default: float) -> float:
        """Return a duration, in seconds."""
        found = holder.get(key, default)
        if found is None:
            return default
        if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 <= found <= MAX_SECONDS:
            self.refuse(key, f"a number of seconds from 0 to {MAX_SECONDS}", found)
            return default
        return float(found)

    def one_of(self, holder: Mapping[str, object], key: str, words: tuple[str, ...], default: str) -> str:
        """Return one of `words`."""
        found = holder.get(key)
        if found is None or found == "":
            return default
        if not isinstance(found, str) or found not in words:
            self.refuse(key, f"{', '.join(words[:-1])} or {words[-1]}", found)
            return default
        return found


def parse_netconf(request: Request, *, lenient: bool = False, needs_device: bool = True) -> NetConf:
    """Return the configuration of a request.

    Raises InvalidConfiguration (7), which lists its faults. `lenient`, for DEL: wrong values are ignored, because
    a faulty configuration must not keep an attachment from being released (C13). `needs_device` is False for GC and
    STATUS, which concern a network and not one attachment.
    """
    reader = _Reader()
    request = restrict_choices(request, reader.faults)
    conf = request.conf
    guid, guid_source = _read_guid(reader, request)
    ipam_type = _read_ipam(reader, conf)
    netconf = NetConf(
        name=str(conf.get("name", "")),
        device=_read_device(reader, request, needed=needs_device),
        guid=guid,
        guid_source=guid_source,
        link_state=reader.one_of(conf, "link_state", tuple(LINK_STATES), ""),
        vfio_pci_mode=reader.typed(conf, "vfioPciMode", bool, False, "true or false"),
        rdma_isolation=reader.typed(conf, "rdmaIsolation", bool, False, "true or false"),
        pkey=_read_pkey(reader, request),
        mtu=_read_mtu(reader, conf),
        accept_ra=reader.typed(conf, "acceptRA", bool, False, "true or false"),
        ib_kubernetes=reader.typed(conf, "ibKubernetesEnabled", bool, False, "true or false"),
        ib_kubernetes_ready=look_up(conf, ("args", "cni", IB_KUBERNETES_KEY)) == "configured",
        pod_may_choose=parse_choices(conf.get("podMayChoose"), reader.faults),
        ipam_type=ipam_type,
        port_timeout=reader.seconds(conf, "portTimeout", 30.0),
        lock_timeout=reader.seconds(conf, "lockTimeout", 60.0),
        log_level=_read_log_level(reader, conf),
        log_file=_read_log_file(reader, conf),
        state_dir=_read_path(reader, conf, "stateDir"),
        device_info_file=_read_path(reader, _object(conf.get("runtimeConfig")), "CNIDeviceInfoFile"),
        pod=parse_pod(request.args),
        prev_result=_read_prev_result(reader, request),
        warnings=tuple(reader.warnings),
    )
    reader.seconds(conf, "ipamTimeout", 0)  # only checked here: delegation reads it, because a DEL accepts any value
    if reader.faults and not lenient:
        raise InvalidConfiguration(f"network {netconf.name}: " + join_faults(reader.faults), "nothing was changed")
    return netconf


def _object(found: object) -> dict[str, object]:
    return found if isinstance(found, dict) else {}


def _read_device(reader: _Reader, request: Request, *, needed: bool) -> PciAddress | None:
    place, found = find_first(request, DEVICE_SOURCES)
    if place:
        return reader.parsed(place, found, PciAddress.parse, PCI_FORM)
    if needed:
        hint = "the SR-IOV device plugin passes it through Multus if the network has a resourceName"
        reader.faults.append(f"deviceID must be the PCI address of a VF (got nothing): {hint}")
    return None


def _read_guid(reader: _Reader, request: Request) -> tuple[Guid | None, str]:
    place, found = find_first(request, GUID_SOURCES)
    if not place:
        return None, ""
    guid = reader.parsed(place, found, Guid.parse, GUID_FORM)
    if guid is not None and guid.fault:
        reader.faults.append(f"{place} must be a GUID that a port can have (got {guid}, which {guid.fault})")
    return guid, place


def _read_pkey(reader: _Reader, request: Request) -> int | None:
    place, found = find_first(request, PKEY_SOURCES)
    if not place:
        return None
    number = _hexadecimal(found) if isinstance(found, str) else found
    if isinstance(number, int) and not isinstance(number, bool) and 0 < number <= 0xFFFF and number & 0x7FFF:
        return number
    reader.refuse(place, "a P_Key from 0x0001 to 0xffff other than 0x8000", found)
    return None


def _hexadecimal(text: str) -> int | None:
    """Return the number of hexadecimal digits with or without 0x; int() would accept signs, spaces, underscores too."""
    digits = text[2:] if text[:2] in {"0x", "0X"} else text
    return int(digits, 16) if digits and HEX.issuperset(digits) else None


def _read_mtu(reader: _Reader, conf: dict[str, object]) -> int | None:
    mtu = reader.typed(conf, "mtu", int, 0, "a number of bytes")
    if mtu and not IPOIB_MTU_MIN <= mtu <= IPOIB_MTU_MAX:
        reader.refuse("mtu", f"between {IPOIB_MTU_MIN} and {IPOIB_MTU_MAX}", mtu)
    return mtu or None


def _read_ipam(reader: _Reader, conf: dict[str, object]) -> str:
    ipam = _object(conf.get("ipam"))
    if not ipam:
        return ""
    kind = ipam.get("type")
    if kind in (None, ""):
        reader.faults.append("ipam.type must be the name of an IPAM plugin (got nothing)")
        return ""
    if not isinstance(kind, str):
        reader.refuse("ipam.type", "the name of an IPAM plugin", kind)
        return ""
    if kind in REFUSED_IPAM:
        reader.faults.append(
            "ipam.type must be a plugin that works over IPoIB, such as host-local or whereabouts "
            f"(got {kind!r}: {REFUSED_IPAM[kind]})"
        )
    return kind


def _read_log_level(reader: _Reader, conf: dict[str, object]) -> str:
    """Return one of LOG_LEVELS. A word that means nothing changes nothing that the pod gets: it is a warning."""
    found = conf.get("logLevel")
    if found is None or found == "":
        return "info"
    word = found.lower() if isinstance(found, str) else ""
    level = OTHER_LOG_LEVELS.get(word, word)
    if level in LOG_LEVELS:
        return level
    words = f"{', '.join(LOG_LEVELS[:-1])} or {LOG_LEVELS[-1]}"
    reader.warnings.append(f"logLevel should be {words} (got {describe_value(found)}): info is used")
    return "info"


def _read_log_file(reader: _Reader, conf: dict[str, object]) -> str:
    found = conf.get("logFile")
    if found is None or found == "":
        return ""
    if isinstance(found, str) and found.startswith("/") and "\0" not in found:
        return found
    reader.warnings.append(
        f"logFile should be an absolute path (got {describe_value(found)}): the log goes to standard error"
    )
    return ""


def _read_path(reader: _Reader, holder: dict[str, object], key: str) -> str:
    path = reader.typed(holder, key, str, "", "an absolute path")
    if path and (not path.startswith("/") or "\0" in path):
        reader.refuse(key, "an absolute path", path)
        return ""
    return path


def _read_prev_result(reader: _Reader, request: Request) -> Result | None:
    found = request.conf.get("prevResult")
    if found is None:
        return None
    try:
        return parse_result(found, request.version)
    except CniError as fault:
        reader.faults.append(f"prevResult must be a CNI result (got one that is not valid: {fault.msg})")
        return None


def parse_pod(args: Mapping[str, str]) -> str:
    """Return the pod that CNI_ARGS names, as namespace/name; empty if it names none."""
    name = args.get("K8S_POD_NAME", "")
    return f"{args.get('K8S_POD_NAMESPACE', '')}/{name}" if name else ""
