"""The keys of a network configuration of `type: ib-sriov`: the one table behind `config explain`, `config schema`,
`config validate`'s warnings, and the reference in docs/configuration.md.

core/configuration.py is what decides; a test with generated configurations holds the schema to it. What JSON Schema
cannot say: that 1.0 is no whole number, and what host-local computes from its ranges.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ib_sriov_cni.core.configuration import IB_KUBERNETES_KEY, IPOIB_MTU_MAX, IPOIB_MTU_MIN, LOG_LEVELS, MAX_SECONDS
from ib_sriov_cni.core.values import LINK_STATES
from ib_sriov_cni.state.directory import DEFAULT_STATE_DIR
from ipam.protocol.versions import VERSIONS

Schema = dict[str, Any]

# The end of the text in ECMA-262 and in Python alike, where $ would let a line's end pass.
END = r"(?![\s\S])"
HEX = "[0-9a-fA-F]"
NAME = rf"^[a-zA-Z0-9][a-zA-Z0-9_.\-]*{END}"
PCI = rf"^{HEX}{{4,8}}:{HEX}{{2}}:[01]{HEX}\.[0-7]{END}"
GUID = rf"^\s*(?:0[xX])?(?:{HEX}{{16}}|{HEX}{{4}}(?::{HEX}{{4}}){{3}}|{HEX}{{2}}(?::{HEX}{{2}}){{7}})\s*{END}"
NO_GUID = rf"^\s*(?:0[xX])?(?:[0:]+\s*{END}|[fF][fF])"
PKEY = rf"^(?:0[xX])?0*{HEX}{{1,4}}{END}"
NO_PKEY = rf"^(?:0[xX])?0*(?:8000)?{END}"
PATH = rf"^/[^\u0000]*{END}"


def _text(pattern: str, *excluded: str) -> Schema:
    schema: Schema = {"type": "string", "pattern": pattern}
    return {**schema, "not": {"pattern": excluded[0]}} if excluded else schema


def _seconds() -> Schema:
    return {"type": "number", "minimum": 0, "maximum": MAX_SECONDS}


@dataclass(frozen=True, kw_only=True)
class ConfigKey:
    """One key. `words` says its type as the reference does, `default` what holds without it."""

    name: str  # with dots: ipam.type
    words: str
    default: str
    meaning: str
    schema: Schema
    example: str  # JSON
    empty: bool = False  # "" counts as absent; null always does

    @property
    def allowed(self) -> Schema:
        """The schema of what the parser takes, null and "" included."""
        choices: list[Schema] = [{"type": "null"}]
        if self.empty:
            choices.append({"const": ""})
        return {"anyOf": [self.schema, *choices], "description": self.meaning}


KEYS = (
    ConfigKey(
        name="deviceID",
        words="PCI address of a VF",
        default="required for ADD",
        meaning="Multus puts it here (also as `pciBusID`), or into `runtimeConfig.deviceID`, which comes first",
        schema=_text(PCI),
        example='"0000:3b:00.2"',
        empty=True,
    ),
    ConfigKey(
        name="guid",
        words="GUID",
        default="none",
        meaning="the VF's node and port GUID; see [guids.md](guids.md) for the order of sources; colons or none",
        schema=_text(GUID, NO_GUID),
        example='"02:11:22:33:44:55:66:77"',
        empty=True,
    ),
    ConfigKey(
        name="link_state",
        words="`auto`, `enable`, `disable`",
        default="none: left alone",
        meaning="the VF's link state on the PF; DEL restores it",
        schema={"enum": list(LINK_STATES)},
        example='"auto"',
        empty=True,
    ),
    ConfigKey(
        name="rdmaIsolation",
        words="bool",
        default="false",
        meaning="move the RDMA device into the pod too; needs the RDMA namespace mode `exclusive`",
        schema={"type": "boolean"},
        example="true",
    ),
    ConfigKey(
        name="pkey",
        words='P_Key, `"0x8001"`',
        default="none",
        meaning="must be in the table of the VF's port; see [P_Keys](#p_keys)",
        schema={
            "anyOf": [
                _text(PKEY, NO_PKEY),
                {"type": "integer", "minimum": 1, "maximum": 0xFFFF, "not": {"const": 0x8000}},
            ]
        },
        example='"0x8001"',
        empty=True,
    ),
    ConfigKey(
        name="mtu",
        words="bytes",
        default="none: the kernel's",
        meaning="of the interface in the pod",
        schema={
            "anyOf": [{"type": "integer", "minimum": IPOIB_MTU_MIN, "maximum": IPOIB_MTU_MAX}, {"const": 0}],
        },
        example="4092",
    ),
    ConfigKey(
        name="ibKubernetesEnabled",
        words="bool",
        default="false",
        meaning="refuse (code 11) until ib-kubernetes has given a GUID",
        schema={"type": "boolean"},
        example="true",
    ),
    ConfigKey(
        name="ipam",
        words="object",
        default="none: no addresses",
        meaning="`host-local` is bundled and runs in process ([ipam.md](ipam.md)); other types are executed from "
        "CNI_PATH; `dhcp` is refused, it cannot speak over IPoIB",
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
        example='{"type": "host-local", "subnet": "10.56.0.0/16", "slices": {"flannel": true}}',
    ),
    ConfigKey(
        name="portTimeout",
        words="seconds",
        default="10",
        meaning="how long to wait for the port to become ACTIVE; 0 does not wait",
        schema=_seconds(),
        example="30",
    ),
    ConfigKey(
        name="lockTimeout",
        words="seconds",
        default="60",
        meaning="how long to wait for the VF's lock, then code 11",
        schema=_seconds(),
        example="60",
    ),
    ConfigKey(
        name="ipamTimeout",
        words="seconds",
        default="90",
        meaning="how long an executed IPAM plugin may take; then it is killed and the call fails",
        schema=_seconds(),
        example="90",
    ),
    ConfigKey(
        name="logLevel",
        words=", ".join([f"`{level}`" for level in LOG_LEVELS]),
        default="`info`",
        meaning="from which level on lines are written",
        schema={"enum": list(LOG_LEVELS)},
        example='"debug"',
        empty=True,
    ),
    ConfigKey(
        name="logFile",
        words="absolute path",
        default="none",
        meaning="one line a step; without it the lines go to stderr, with it only warnings and worse do; a symbolic "
        "link is not followed",
        schema=_text(PATH),
        example='"/var/log/ib-sriov.log"',
        empty=True,
    ),
    ConfigKey(
        name="stateDir",
        words="absolute path",
        default=f"`{DEFAULT_STATE_DIR}`",
        meaning="records of attachments",
        schema=_text(PATH),
        example=f'"{DEFAULT_STATE_DIR}"',
        empty=True,
    ),
)
BY_NAME = {key.name: key for key in KEYS}

# What the specification and the neighbours put into a configuration: known, and not ours to explain at length.
PROTOCOL = {
    "cniVersion": f"version of the CNI specification, {VERSIONS[0]} to {VERSIONS[-1]}; absent: {VERSIONS[0]}",
    "name": "the network; letters, digits, `_`, `.`, `-`, the first a letter or digit; at most 255",
    "type": "`ib-sriov`: the name of the executable",
    "capabilities": "what Multus may put into runtimeConfig: `infinibandGUID`, `deviceID`, `CNIDeviceInfoFile`, `ips`",
    "runtimeConfig": "what the runtime puts in: `deviceID`, `infinibandGUID`, `CNIDeviceInfoFile`, `ips`, `ipRanges`",
    "args": "`args.cni`: what a pod's annotation asks for: `guid`, `pkey`, `ips`, and ib-kubernetes' mark",
    "pciBusID": "the VF, where `deviceID` is not given",
    "dns": "handed on",
    "prevResult": "what the plugins before made; CHECK needs it",
    "cni.dev/valid-attachments": "GC: the attachments to keep",
    "cni.dev/attachments": "GC: the same, in older runtimes",
}
RUNTIME_CONFIG = ("deviceID", "infinibandGUID", "CNIDeviceInfoFile", "ips", "ipRanges", "mac")
ARGS_CNI = ("guid", "pkey", "ips", IB_KUBERNETES_KEY)
HOST_LOCAL = (
    *("type", "subnet", "rangeStart", "rangeEnd", "gateway", "ranges", "routes", "resolvConf", "dataDir", "slices"),
)
RANGE = ("subnet", "rangeStart", "rangeEnd", "gateway")
ROUTE = ("dst", "gw", "mtu", "advmss", "priority", "table", "scope")
SLICES = ("flannel", "indexFile", "index", "count")


# ---- the schema


def _nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _host_local() -> Schema:
    text = _nullable({"type": "string"})
    one = {"type": "object", "required": ["subnet"], "properties": dict.fromkeys(RANGE, text)}
    number = _nullable({"type": "integer"})
    fields = {**dict.fromkeys(ROUTE[:2], text), **dict.fromkeys(ROUTE[2:], number)}
    route = {"type": "object", "required": ["dst"], "properties": fields}
    count = _nullable({"type": "integer", "minimum": 1})
    return {
        "type": "object",
        "properties": {
            **dict.fromkeys(RANGE, text),
            "ranges": _nullable({"type": "array", "items": {"type": "array", "items": one}}),
            "routes": _nullable({"type": "array", "items": route}),
            "resolvConf": text,
            "dataDir": text,
            "slices": _nullable({"type": "object", "properties": {"count": count}}),
        },
    }


def _given(*path: str) -> Schema:
    """Whether there is something at a path: not null and not ""."""
    schema: Schema = {"not": {"enum": [None, ""]}}
    for name in reversed(path):
        schema = {"type": "object", "required": [name], "properties": {name: schema}}
    return schema


def _at(path: tuple[str, ...], schema: Schema) -> Schema:
    for name in reversed(path):
        schema = {"properties": {name: schema}}
    return schema


def _first_of(schema: Schema, *paths: tuple[str, ...]) -> Schema:
    """The first one given counts, and only that one is looked at (C19)."""
    chain: Schema = {}
    for path in reversed(paths):
        chain = {"if": _given(*path), "then": _at(path, schema), "else": chain}
    return chain


def make_schema() -> Schema:
    """Give the JSON Schema (2020-12) of a network configuration of `type: ib-sriov`."""
    device, guid, pkey = [BY_NAME[name].schema for name in ("deviceID", "guid", "pkey")]
    sourced = {"deviceID", "guid", "pkey"}
    properties: Schema = {
        "cniVersion": {"enum": [*VERSIONS, "", None], "description": PROTOCOL["cniVersion"]},
        "name": {"type": "string", "pattern": NAME, "maxLength": 255, "description": PROTOCOL["name"]},
        "type": {**_nullable({"type": "string"}), "description": PROTOCOL["type"]},
        "capabilities": {**_nullable({"type": "object"}), "description": PROTOCOL["capabilities"]},
        "runtimeConfig": {
            **_nullable({"type": "object"}),
            "description": PROTOCOL["runtimeConfig"],
            "properties": {"CNIDeviceInfoFile": {"anyOf": [_text(PATH), {"enum": ["", None]}]}},
        },
        "args": {
            **_nullable({"type": "object"}),
            "description": PROTOCOL["args"],
            "properties": {"cni": _nullable({"type": "object"})},
        },
        "dns": _nullable({"type": "object"}),
        "prevResult": {**_nullable({"type": "object"}), "description": PROTOCOL["prevResult"]},
        "pciBusID": {"description": PROTOCOL["pciBusID"]},
    }
    for key in KEYS:
        properties[key.name] = {"description": key.meaning} if key.name in sourced else key.allowed
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Network configuration of type ib-sriov",
        "type": "object",
        "required": ["name"],
        "properties": properties,
        "allOf": [
            _first_of(device, ("runtimeConfig", "deviceID"), ("deviceID",), ("pciBusID",)),
            _first_of(guid, ("runtimeConfig", "infinibandGUID"), ("args", "cni", "guid"), ("guid",)),
            _first_of(pkey, ("args", "cni", "pkey"), ("pkey",)),
        ],
        "$defs": {"host-local": _host_local()},
    }


# ---- the reference


def render_reference() -> str:
    """Give the table of docs/configuration.md."""
    rows = [f"| `{key.name}` | {key.words}; {_default(key)} | {key.meaning} |" for key in KEYS]
    return "\n".join(["| key | type; default | meaning |", "|---|---|---|", *rows]) + "\n"


def _default(key: ConfigKey) -> str:
    return key.default if key.default.startswith(("none", "required")) else f"default {key.default}"


# ---- what is unknown


def unknown_keys(conf: Mapping[str, object]) -> list[str]:
    """Say of each key that nobody reads which known one is nearest."""
    found = [_unknown(name, "", [*BY_NAME, *PROTOCOL]) for name in conf if name not in BY_NAME and name not in PROTOCOL]
    parts: list[tuple[str, object, Iterable[str]]] = [
        ("runtimeConfig.", conf.get("runtimeConfig"), RUNTIME_CONFIG),
        ("args.", conf.get("args"), ("cni",)),
    ]
    ipam = conf.get("ipam")
    if isinstance(ipam, dict) and ipam.get("type") == "host-local":
        parts += [("ipam.", ipam, HOST_LOCAL), ("ipam.slices.", ipam.get("slices"), SLICES)]
        parts += [(f"ipam.routes[{i}].", item, ROUTE) for i, item in enumerate(_list(ipam.get("routes")))]
        for i, ranges in enumerate(_list(ipam.get("ranges"))):
            parts += [(f"ipam.ranges[{i}][{j}].", item, RANGE) for j, item in enumerate(_list(ranges))]
    for place, holder, known in parts:
        if isinstance(holder, dict):
            found += [_unknown(name, place, known) for name in holder if name not in set(known)]
    return found


def _list(found: object) -> list[object]:
    return found if isinstance(found, list) else []


def _unknown(name: str, place: str, known: Iterable[str]) -> str:
    near = nearest(name, known)
    return f"{place}{name} is no key of it and is ignored" + (f"; is {place}{near} meant?" if near else "")


def nearest(name: str, known: Iterable[str]) -> str:
    """Give the known word that is most like `name`, "" if none is: case, `_` and `-` do not count."""
    plain = {_plain(word): word for word in known}
    found = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.7)
    return plain[found[0]] if found else ""


def _plain(word: str) -> str:
    return word.lower().replace("_", "").replace("-", "")
