"""The keys of a network configuration of `type: ib-sriov`: the table behind `config explain`, `config schema`, the
warnings of `config validate`, and the reference in docs/configuration.md.

The parser in core/configuration.py is authoritative; a test with generated configurations compares the schema with it.
JSON Schema cannot express that 1.0 is not an integer, what host-local computes from its ranges, or keys in any case.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ib_sriov_cni.core.configuration import IPOIB_MTU_MAX, IPOIB_MTU_MIN, LOG_LEVELS, MAX_SECONDS
from ib_sriov_cni.core.known_keys import DEVICE_SOURCES, GUID_SOURCES, KNOWN, PKEY_SOURCES
from ib_sriov_cni.core.pod_choices import KEY as CHOICES_KEY
from ib_sriov_cni.core.pod_choices import SOURCES
from ib_sriov_cni.core.pod_choices import WORDS as CHOICES
from ib_sriov_cni.core.values import LINK_STATES
from ib_sriov_cni.state.directory import DEFAULT_STATE_DIR
from ipam.protocol.bounds import LIST_ITEMS
from ipam.protocol.spelling import IPAM, RANGE, ROUTE
from ipam.protocol.versions import VERSIONS

if TYPE_CHECKING:
    from ipam.protocol.spelling import Names

Schema = dict[str, Any]

# The end of the text, in both ECMA-262 and Python; $ would also match before a trailing newline.
END_OF_TEXT = r"(?![\s\S])"
HEX_DIGIT = "[0-9a-fA-F]"
NAME_PATTERN = rf"^[a-zA-Z0-9][a-zA-Z0-9_.\-]*{END_OF_TEXT}"
PCI_PATTERN = rf"^{HEX_DIGIT}{{4,8}}:{HEX_DIGIT}{{2}}:[01]{HEX_DIGIT}\.[0-7]{END_OF_TEXT}"
GUID_DIGITS = f"{HEX_DIGIT}{{16}}|{HEX_DIGIT}{{4}}(?::{HEX_DIGIT}{{4}}){{3}}|{HEX_DIGIT}{{2}}(?::{HEX_DIGIT}{{2}}){{7}}"
GUID_PATTERN = rf"^\s*(?:0[xX])?(?:{GUID_DIGITS})\s*{END_OF_TEXT}"
BAD_GUID_PATTERN = rf"^\s*(?:0[xX])?(?:[0:]+\s*{END_OF_TEXT}|[fF][fF])"
PKEY_PATTERN = rf"^(?:0[xX])?0*{HEX_DIGIT}{{1,4}}{END_OF_TEXT}"
BAD_PKEY_PATTERN = rf"^(?:0[xX])?0*(?:8000)?{END_OF_TEXT}"
PATH_PATTERN = rf"^/[^\u0000]*{END_OF_TEXT}"


def _text(pattern: str, *excluded: str) -> Schema:
    schema: Schema = {"type": "string", "pattern": pattern}
    return {**schema, "not": {"pattern": excluded[0]}} if excluded else schema


def _seconds() -> Schema:
    return {"type": "number", "minimum": 0, "maximum": MAX_SECONDS}


@dataclass(frozen=True, kw_only=True)
class ConfigKey:
    """One key. `type_text` is its type in the words of the reference, `default` what applies without it."""

    name: str
    type_text: str
    default: str
    meaning: str
    schema: Schema
    example: str  # JSON
    empty_is_absent: bool = False  # "" counts as absent; null always does

    @property
    def allowed(self) -> Schema:
        """The schema of what the parser accepts, including null and ""."""
        choices: list[Schema] = [{"type": "null"}]
        if self.empty_is_absent:
            choices.append({"const": ""})
        return {"anyOf": [self.schema, *choices], "description": self.meaning}


KEYS = (
    ConfigKey(
        name="deviceID",
        type_text="PCI address of a VF",
        default="required for ADD",
        meaning="Multus sets it (also as `pciBusID`), or sets `runtimeConfig.deviceID`, which takes precedence",
        schema=_text(PCI_PATTERN),
        example='"0000:3b:00.2"',
        empty_is_absent=True,
    ),
    ConfigKey(
        name="guid",
        type_text="GUID",
        default="none",
        meaning="the VF's node and port GUID, with or without colons; [guids.md](guids.md) has the order of sources",
        schema=_text(GUID_PATTERN, BAD_GUID_PATTERN),
        example='"02:11:22:33:44:55:66:77"',
        empty_is_absent=True,
    ),
    ConfigKey(
        name="link_state",
        type_text="`auto`, `enable`, `disable`",
        default="none: unchanged, but `auto` for a VF that is disabled",
        meaning="the VF's link state on the PF; DEL restores it; see [Link state](#link-state)",
        schema={"enum": list(LINK_STATES)},
        example='"auto"',
        empty_is_absent=True,
    ),
    ConfigKey(
        name="vfioPciMode",
        type_text="bool",
        default="false",
        meaning="the device is for a virtual machine: refuse one that no VFIO driver has, and let a PF pass; see "
        "[Virtual machines](#virtual-machines)",
        schema={"type": "boolean"},
        example="true",
    ),
    ConfigKey(
        name="rdmaIsolation",
        type_text="bool",
        default="false",
        meaning="also move the RDMA device into the pod; needs the RDMA namespace mode `exclusive`",
        schema={"type": "boolean"},
        example="true",
    ),
    ConfigKey(
        name="pkey",
        type_text='P_Key, `"0x8001"`',
        default="none",
        meaning="the partition; must be in the P_Key table of the VF's port; see [P_Keys](#p_keys)",
        schema={
            "anyOf": [
                _text(PKEY_PATTERN, BAD_PKEY_PATTERN),
                {"type": "integer", "minimum": 1, "maximum": 0xFFFF, "not": {"const": 0x8000}},
            ]
        },
        example='"0x8001"',
        empty_is_absent=True,
    ),
    ConfigKey(
        name="mtu",
        type_text="bytes",
        default="none: the kernel's",
        meaning="the MTU of the interface in the pod; see [MTU](#mtu)",
        schema={
            "anyOf": [{"type": "integer", "minimum": IPOIB_MTU_MIN, "maximum": IPOIB_MTU_MAX}, {"const": 0}],
        },
        example="4092",
    ),
    ConfigKey(
        name="acceptRA",
        type_text="bool",
        default="false",
        meaning="whether the interface in the pod accepts IPv6 router advertisements",
        schema={"type": "boolean"},
        example="true",
    ),
    ConfigKey(
        name=CHOICES_KEY,
        type_text="list of " + ", ".join([f"`{word}`" for word in CHOICES]),
        default="all of them",
        meaning="what a pod may choose by its annotation; the rest is refused; ib-kubernetes needs `guid`; see "
        "[What a pod may choose](#what-a-pod-may-choose)",
        schema={"type": "array", "items": {"enum": list(CHOICES)}},
        example='["ips"]',
    ),
    ConfigKey(
        name="ibKubernetesEnabled",
        type_text="bool",
        default="false",
        meaning="fail with code 11 until ib-kubernetes has assigned a GUID",
        schema={"type": "boolean"},
        example="true",
    ),
    ConfigKey(
        name="ipam",
        type_text="object",
        default="none: no addresses",
        meaning="`host-local` is bundled and runs in the same process ([ipam.md](ipam.md)); other plugins are executed "
        "from CNI_PATH; `dhcp` is refused because it does not work over IPoIB",
        schema={
            "type": "object",
            "anyOf": [
                {"maxProperties": 0},
                {"required": ["type"], "properties": {"type": {"type": "string", "minLength": 1}}},
            ],
            "not": {"required": ["type"], "properties": {"type": {"const": "dhcp"}}},
            "if": {"required": ["type"], "properties": {"type": {"const": "host-local"}}},
            "then": {"$ref": "#/$defs/host-local"},
        },
        example='{"type": "host-local", "subnet": "172.16.0.0/16", "slices": {"flannel": true}}',
    ),
    ConfigKey(
        name="portTimeout",
        type_text="seconds",
        default="30",
        meaning="how long to wait for the port to become ACTIVE, and to get the `pkey`; 0: do not wait; see "
        "[A slow subnet manager](#a-slow-subnet-manager)",
        schema=_seconds(),
        example="30",
    ),
    ConfigKey(
        name="lockTimeout",
        type_text="seconds",
        default="60",
        meaning="how long to wait for the VF's lock, or one holder of the lock of rebinds, before failing with code 11",
        schema=_seconds(),
        example="60",
    ),
    ConfigKey(
        name="ipamTimeout",
        type_text="seconds",
        default="90",
        meaning="how long an executed IPAM plugin may take before it is killed and the call fails",
        schema=_seconds(),
        example="90",
    ),
    ConfigKey(
        name="logLevel",
        type_text=", ".join([f"`{level}`" for level in LOG_LEVELS]),
        default="`info`",
        meaning="the lowest level that is logged; words of other plugins (`warn`, `panic`, `verbose`) are understood, "
        "in any case",
        schema={"examples": list(LOG_LEVELS)},
        example='"debug"',
    ),
    ConfigKey(
        name="logFile",
        type_text="absolute path",
        default="none",
        meaning="where to log, one line per step; without it the log goes to stderr, with it only warnings and errors "
        "do; a symbolic link is not followed",
        schema={"examples": ["/var/log/ib-sriov.log"]},
        example='"/var/log/ib-sriov.log"',
    ),
    ConfigKey(
        name="stateDir",
        type_text="absolute path",
        default=f"`{DEFAULT_STATE_DIR}`",
        meaning="where the records of attachments are kept",
        schema=_text(PATH_PATTERN),
        example=f'"{DEFAULT_STATE_DIR}"',
        empty_is_absent=True,
    ),
)
BY_NAME = {key.name: key for key in KEYS}

# Keys that the CNI specification, runtimes and Multus define.
PROTOCOL_KEYS = {
    "cniVersion": f"version of the CNI specification, {VERSIONS[0]} to {VERSIONS[-1]}; default {VERSIONS[0]}",
    "name": "the network's name: letters, digits, `_`, `.`, `-`, the first a letter or digit; at most 255 characters",
    "type": "`ib-sriov`: the name of the executable",
    "capabilities": "what Multus may pass in runtimeConfig: `infinibandGUID`, `deviceID`, `CNIDeviceInfoFile`, `ips`",
    "runtimeConfig": "what the runtime passes: `deviceID`, `infinibandGUID`, `CNIDeviceInfoFile`, `ips`, `ipRanges`",
    "args": "`args.cni` has what a pod's annotation asks for: `guid`, `pkey`, `ips`, and ib-kubernetes' mark",
    "pciBusID": "the VF, if `deviceID` is not set",
    "dns": "passed on to an executed IPAM plugin",
    "prevResult": "the result of the previous plugins, or of ADD; CHECK needs it",
    "cni.dev/valid-attachments": "GC: the attachments to keep",
    "cni.dev/attachments": "GC: the same, from older runtimes",
}
# Of the Go plugin, and without a meaning here.
GO_KEYS = {
    "publishPfGuid": "which writes the PF's GUID into an annotation of the pod",
    "kubeconfig": "which needs it for publishPfGuid",
}
RUNTIME_CONFIG_KEYS = tuple(KNOWN["runtimeConfig"])
HOST_LOCAL_KEYS = tuple(IPAM)
# What `config explain` says of keys inside other keys. docs/ipam.md explains them at length.
INNER_KEYS = {
    "ipam.type": "`host-local` for the bundled plugin, or the name of an executable in CNI_PATH",
    "ipam.subnet": "one range, the older form of `ipam.ranges`: the subnet, such as `172.16.0.0/24`",
    "ipam.rangeStart": "the first address of that range; default the subnet's second address",
    "ipam.rangeEnd": "the last address of that range; default the subnet's last one (IPv4: the one before broadcast)",
    "ipam.gateway": "the gateway of that range, which is never handed out; default the subnet's second address",
    "ipam.ranges": 'list of range sets; a pod gets one address of each set: `[[{"subnet": "172.16.0.0/24"}]]`; a range '
    "may also have `rangeStart`, `rangeEnd` and `gateway`; see docs/ipam.md",
    "ipam.routes": 'routes of the pod: `[{"dst": "10.60.0.0/16", "gw": "172.16.0.1"}]`; see docs/ipam.md',
    "ipam.resolvConf": "a resolv.conf whose name servers and domains go into the result",
    "ipam.dataDir": "where the leases are kept; default `/var/lib/cni/networks`",
    "ipam.slices": 'gives each node its own part of the subnet: `{"flannel": true}`, or `indexFile` or `index` with '
    "`count`; see docs/ipam.md",
}
RANGE_KEYS, ROUTE_KEYS = tuple(RANGE), tuple(ROUTE)


# ---- the schema


def _nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _host_local() -> Schema:
    text = _nullable({"type": "string"})
    one = {"type": "object", "required": ["subnet"], "properties": dict.fromkeys(RANGE_KEYS, text)}
    number = _nullable({"type": "integer"})
    fields = {**dict.fromkeys(ROUTE_KEYS[:2], text), **dict.fromkeys(ROUTE_KEYS[2:], number)}
    route = {"type": "object", "required": ["dst"], "properties": fields}
    count = _nullable({"type": "integer", "minimum": 1})
    return {
        "type": "object",
        "properties": {
            **dict.fromkeys(RANGE_KEYS, text),
            "ranges": _nullable({"type": "array", "items": {"type": "array", "items": one}, "maxItems": LIST_ITEMS}),
            "routes": _nullable({"type": "array", "items": route, "maxItems": LIST_ITEMS}),
            "resolvConf": text,
            "dataDir": text,
            "slices": _nullable({"type": "object", "properties": {"count": count}}),
        },
    }


def _is_set(*path: str, empty: tuple[object, ...] = (None, "")) -> Schema:
    """Return a schema that holds if the value at a path is neither absent nor one of `empty`."""
    schema: Schema = {"not": {"enum": list(empty)}}
    for name in reversed(path):
        schema = {"type": "object", "required": [name], "properties": {name: schema}}
    return schema


def _at(path: tuple[str, ...], schema: Schema) -> Schema:
    for name in reversed(path):
        schema = {"properties": {name: schema}}
    return schema


def _first_of(schema: Schema, *paths: tuple[str, ...]) -> Schema:
    """Return a schema that applies `schema` to the first of the paths that is set, and to no other (C19)."""
    chain: Schema = {}
    for path in reversed(paths):
        chain = {"if": _is_set(*path), "then": _at(path, schema), "else": chain}
    return chain


def _in_document(sources: tuple[tuple[str, ...], ...]) -> list[tuple[str, ...]]:
    return [source for source in sources if source[0] != "CNI_ARGS"]


def _allowed_choices() -> list[Schema]:
    """Return schemas that refuse what podMayChoose does not list (names in their usual case)."""
    schemas = []
    for word in CHOICES:
        forbids = {"type": "array", "not": {"contains": {"const": word}}}
        chosen = [_is_set(*path, empty=(None, "", [])) for path in _in_document(SOURCES[word])]
        condition = {"required": [CHOICES_KEY], "properties": {CHOICES_KEY: forbids}}
        schemas.append({"if": condition, "then": {"not": {"anyOf": chosen}}})
    return schemas


def make_schema() -> Schema:
    """Return the JSON Schema (2020-12) of a network configuration of `type: ib-sriov`."""
    device, guid, pkey = [BY_NAME[name].schema for name in ("deviceID", "guid", "pkey")]
    several_sources = {"deviceID", "guid", "pkey"}  # see allOf below
    properties: Schema = {
        "cniVersion": {"enum": [*VERSIONS, "", None], "description": PROTOCOL_KEYS["cniVersion"]},
        "name": {"type": "string", "pattern": NAME_PATTERN, "maxLength": 255, "description": PROTOCOL_KEYS["name"]},
        "type": {**_nullable({"type": "string"}), "description": PROTOCOL_KEYS["type"]},
        "capabilities": {**_nullable({"type": "object"}), "description": PROTOCOL_KEYS["capabilities"]},
        "runtimeConfig": {
            **_nullable({"type": "object"}),
            "description": PROTOCOL_KEYS["runtimeConfig"],
            "properties": {"CNIDeviceInfoFile": {"anyOf": [_text(PATH_PATTERN), {"enum": ["", None]}]}},
        },
        "args": {
            **_nullable({"type": "object"}),
            "description": PROTOCOL_KEYS["args"],
            "properties": {"cni": _nullable({"type": "object"})},
        },
        "dns": _nullable({"type": "object"}),
        "prevResult": {**_nullable({"type": "object"}), "description": PROTOCOL_KEYS["prevResult"]},
        "pciBusID": {"description": PROTOCOL_KEYS["pciBusID"]},
    }
    for key in KEYS:
        properties[key.name] = {"description": key.meaning} if key.name in several_sources else key.allowed
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Network configuration of type ib-sriov",
        "type": "object",
        "required": ["name"],
        "properties": properties,
        "allOf": [
            _first_of(device, *DEVICE_SOURCES),
            _first_of(guid, *_in_document(GUID_SOURCES)),
            _first_of(pkey, *PKEY_SOURCES),
            *_allowed_choices(),
        ],
        "$defs": {"host-local": _host_local()},
    }


# ---- the reference


def render_reference() -> str:
    """Return the table of keys in docs/configuration.md."""
    rows = [f"| `{key.name}` | {key.type_text}; {_default(key)} | {key.meaning} |" for key in KEYS]
    return "\n".join(["| key | type; default | meaning |", "|---|---|---|", *rows]) + "\n"


def _default(key: ConfigKey) -> str:
    return key.default if key.default.startswith(("none", "required")) else f"default {key.default}"


# ---- unknown keys


def describe_unknown_keys(conf: Mapping[str, object]) -> list[str]:
    """Return a warning for each key that is unknown, with the most similar known key, or in an unusual case."""
    ipam = next((item for key, item in conf.items() if key.casefold() == "ipam"), None)
    kind = next((item for key, item in ipam.items() if key.casefold() == "type"), "") if isinstance(ipam, dict) else ""
    names = {
        **dict.fromkeys(KNOWN),
        "runtimeConfig": KNOWN["runtimeConfig"],
        "args": {"cni": None},  # a pod's annotation may have anything
        "ipam": IPAM if kind == "host-local" else None,
    }
    return _describe_strange(conf, names, "")


def _describe_strange(found: object, names: Names, place: str) -> list[str]:
    if isinstance(found, list):
        said = [_describe_strange(item, names, f"{place}[{i}]") for i, item in enumerate(found)]
        return [text for texts in said for text in texts]
    if not isinstance(found, dict):
        return []
    folded = {name.casefold(): name for name in names}
    dotted = f"{place}." if place else ""
    said = []
    for key, item in found.items():
        name = key if key in names else folded.get(key.casefold())
        if name is None:
            said.append([_describe_unknown(key, dotted, names)])
            continue
        if name != key:
            said.append([f"{dotted}{key} is read as {dotted}{name}: write it so"])
        if names[name] is not None:
            said.append(_describe_strange(item, names[name], f"{dotted}{key}"))
    return [text for texts in said for text in texts]


def _describe_unknown(name: str, place: str, known: Iterable[str]) -> str:
    if not place and name in GO_KEYS:
        return f"{name} is a key of the Go plugin, {GO_KEYS[name]}; here it is ignored"
    near = find_nearest(name, known)
    return f"{place}{name} is not a known key and is ignored" + (f"; did you mean {place}{near}?" if near else "")


def find_nearest(name: str, known: Iterable[str], *, cutoff: float = 0.7) -> str:
    """Return the word in `known` that is most similar to `name`, "" if none is; case, `_` and `-` do not count."""
    plain = {_normalize(word): word for word in known}
    found = difflib.get_close_matches(_normalize(name), plain, n=1, cutoff=cutoff)
    return plain[found[0]] if found else ""


def _normalize(word: str) -> str:
    return word.lower().replace("_", "").replace("-", "")
