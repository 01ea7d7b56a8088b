"""The names of the keys of a network configuration, and reading them in any case, as programs written in Go do.

encoding/json gives a member to the field whose name differs in upper and lower case only, unless there is a field of
exactly that name; of two such members the later one counts, and null changes nothing (decode.go, fold.go).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    # A key's name -> the names inside its value, an object or a list of objects; None for any other value.
    Names = Mapping[str, Any]


def name_all(names: Iterable[str], **inner: Names) -> Names:
    """Return Names of keys that have no names inside, and of those that have."""
    return {**dict.fromkeys(names), **inner}


RANGE = name_all(("subnet", "rangeStart", "rangeEnd", "gateway"))
ROUTE = name_all(("dst", "gw", "mtu", "advmss", "priority", "table", "scope"))
SLICES = name_all(("flannel", "indexFile", "index", "count"))
DNS = name_all(("nameservers", "domain", "search", "options"))
# The section of an IPAM plugin, as host-local has it.
IPAM = name_all(("type", *RANGE, "resolvConf", "dataDir"), ranges=RANGE, routes=ROUTE, slices=SLICES)
_LEGACY = name_all(("ip", "gateway"), routes=ROUTE)
RESULT = name_all(
    ("cniVersion",),
    interfaces=name_all(("name", "mac", "mtu", "sandbox", "socketPath", "pciID")),
    ips=name_all(("version", "address", "gateway", "interface")),
    routes=ROUTE,
    dns=DNS,
    ip4=_LEGACY,
    ip6=_LEGACY,
)
RUNTIME_CONFIG = name_all(("ips", "mac"), ipRanges=RANGE)
CNI_ARGS = name_all(("ips", "mac"))
_ATTACHMENT = name_all(("containerID", "ifname"))
# `capabilities` is a map in libcni, whose keys are compared exactly.
CONFIGURATION: Names = {
    **dict.fromkeys(("cniVersion", "name", "type", "capabilities", "lockTimeout")),
    "ipam": IPAM,
    "runtimeConfig": RUNTIME_CONFIG,
    "args": {"cni": CNI_ARGS},
    "dns": DNS,
    "prevResult": RESULT,
    "cni.dev/valid-attachments": _ATTACHMENT,
    "cni.dev/attachments": _ATTACHMENT,
}

_UNKNOWN = object()


def respell(found: dict[str, object], names: Names, faults: list[str], place: str = "") -> dict[str, object]:
    """Return the object with its keys spelled as in `names`; other keys stay. It is `found` itself if nothing differs.

    A fault is added for a key that is there in two spellings with different values; the later one counts.
    """
    is_strange = False
    changed = {}
    for key, item in found.items():
        inner = names.get(key, _UNKNOWN)
        if inner is None:
            continue
        if inner is _UNKNOWN:
            is_strange = True
        elif isinstance(item, (dict, list)):
            spelled = _respell_inner(item, inner, faults, f"{place}{key}")
            if spelled is not item:
                changed[key] = spelled
    if is_strange:
        folded = {name.casefold(): name for name in names}
        if any(key not in names and key.casefold() in folded for key in found):
            return _rename(found, folded, names, faults, place)
    return {**found, **changed} if changed else found


def _respell_inner(item: object, names: Names, faults: list[str], place: str) -> object:
    if isinstance(item, dict):
        return respell(item, names, faults, f"{place}.")
    if not isinstance(item, list):
        return item
    spelled = [_respell_inner(each, names, faults, f"{place}[{i}]") for i, each in enumerate(item)]
    return spelled if any(one is not other for one, other in zip(spelled, item, strict=True)) else item


def _rename(
    found: dict[str, object], folded: dict[str, str], names: Names, faults: list[str], place: str
) -> dict[str, object]:
    spelled: dict[str, object] = {}
    spelling: dict[str, str] = {}  # the key in `found` that a key's value is from
    for key, item in found.items():
        name = key if key in names else folded.get(key.casefold(), key)
        if item is None and name in spelled:
            continue
        if spelled.get(name) is not None and not _is_same(spelled[name], item):
            faults.append(f"{place}{spelling[name]} and {place}{key} are one key, and must not have different values")
        spelled[name], spelling[name] = item, key
    return respell(spelled, names, faults, place)


def _is_same(one: object, other: object) -> bool:
    return type(one) is type(other) and one == other  # True is equal to 1
