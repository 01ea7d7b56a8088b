"""Finds and validates the network configurations in a JSON or YAML text.

A text may contain a plugin's configuration, a list of plugins ("plugins"), a NetworkAttachmentDefinition with either in
spec.config, a Kubernetes List of these, and several YAML documents.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from ib_sriov_cni.cli.keys import describe_unknown_keys, find_nearest
from ib_sriov_cni.core.configuration import NetConf, parse_netconf
from ib_sriov_cni.core.errors import CniError, IncompatibleVersion
from ib_sriov_cni.core.known_keys import KNOWN
from ib_sriov_cni.doctor.facts import DEFAULT_CNI_PATH, PLUGIN
from ipam.host_local.config import parse_settings
from ipam.protocol.request import Request, parse_configuration, parse_request

INPUT = "network configuration on standard input"  # what the parser calls the text
SPELLINGS = (PLUGIN, "ib-sriov-cni")  # with that cutoff, "sriov" is not similar enough: it is a plugin of its own
RESOURCE_ANNOTATION = "k8s.v1.cni.cncf.io/resourceName"


@dataclass(kw_only=True)
class Configuration:
    """One configuration that was found in a text, or why it could not be read."""

    place: str  # "fabric.yaml, document 2, plugins[0]"
    conf: dict[str, object] = field(default_factory=dict)
    kind: str = ""  # NetworkAttachmentDefinition, list, plugin
    name: str = ""
    plugin: str = ""  # its type
    annotations: dict[str, object] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    parsed: NetConf | None = None

    @property
    def ours(self) -> bool:
        """Whether the configuration is for this plugin."""
        return self.plugin == PLUGIN


def read_configurations(text: str, source: str) -> list[Configuration]:
    """Return every configuration in a text; what cannot be read becomes a Configuration with a fault."""
    found: list[Configuration] = []
    documents, fault = _parse_documents(text, source)
    if fault:
        return [Configuration(place=source, faults=[fault])]
    for number, document in enumerate(documents, 1):
        place = Place(source, source if len(documents) == 1 else f"{source}, document {number}")
        if isinstance(document, dict) and len(documents) == 1 and "kind" not in document and text.lstrip()[:1] == "{":
            # The text itself: the plugin refuses some of what YAML allows, such as a comma after the last member.
            found += _in_configuration(text, place, kind="")
        elif document is not None:
            found += _in_document(document, place)
    if not found:
        found.append(Configuration(place=source, faults=["no network configuration found"]))
    return found


class Place:
    """Where a configuration is: `str()` for people; `line_of()` for a line of its text."""

    def __init__(self, source: str, words: str, first_line: int = 1, *, exact: bool = True) -> None:
        """`first_line`: of the text in the file (0: unknown). `exact`: its lines are lines of the file."""
        self.source = source
        self.words = words
        self.first_line = first_line
        self.exact = exact

    def __str__(self) -> str:
        return self.words

    def inside(self, more: str) -> Place:
        """Return a place in this one, such as ", items[0]"."""
        return Place(self.source, self.words + more, self.first_line, exact=self.exact)

    def line_of(self, line: int) -> str:
        """Return "fabric.yaml, line 7" for a line of the text, from 1."""
        if not self.first_line:
            return f"{self.words}, line {line}"
        if self.exact:
            return f"{self.source}, line {self.first_line + line - 1}"
        return f"{self.source}, line {self.first_line}" + (f", line {line} of the text there" if line > 1 else "")


class _Scalar(str):
    """A string of a YAML document, with the line on which its text begins, and whether its lines are the file's."""

    __slots__ = ("exact", "line")
    line: int
    exact: bool


def _parse_documents(text: str, source: str) -> tuple[list[object], str]:
    """Return the documents, or a fault. JSON is tried first: it may contain tabs, which YAML refuses."""
    json_fault = ""
    if text.lstrip()[:1] in {"{", "["}:
        found = _find_json_fault(text)
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            json_fault = f"{source}, line {found[0]}: {found[1]}" if found else f"{source}: nested too deeply"
        else:
            return [document], f"{source}, line {found[0]}: {found[1]}" if found else ""
    import yaml

    try:
        return list(yaml.load_all(text, _make_loader())), ""  # a SafeLoader
    except yaml.MarkedYAMLError as refusal:
        mark = refusal.problem_mark or refusal.context_mark
        where = f"{source}, line {mark.line + 1}" if mark else source
        words = refusal.problem or refusal.context or "syntax error"
        return [], json_fault or f"{where}: {words if words.startswith('duplicate key') else f'not YAML: {words}'}"
    except yaml.reader.ReaderError as refusal:
        line = text.count("\n", 0, refusal.position) + 1
        return [], f"{source}, line {line}: not YAML: it contains the character U+{ord(text[refusal.position]):04X}"
    except RecursionError:
        return [], json_fault or f"{source}: not YAML: nested too deeply"
    except (yaml.YAMLError, ValueError) as refusal:  # for example, a date that does not exist
        return [], json_fault or f"{source}: not YAML: {' '.join(str(refusal).split())}"


def _make_loader() -> type[Any]:
    """Return a YAML loader that remembers where strings are, and refuses duplicate keys, which SafeLoader accepts."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    if (key.tag, key.value) in seen:
                        words = f"duplicate key {key.value[:80]!r}"
                        raise yaml.constructor.ConstructorError(None, None, words, key.start_mark)
                    seen.add((key.tag, key.value))
            return node

    def make_scalar(loader: Any, node: Any) -> _Scalar:
        scalar = _Scalar(loader.construct_scalar(node))
        # The text of a block begins on the line after its "|"; ">" and quotes join lines.
        scalar.exact = node.style == "|"
        scalar.line = node.start_mark.line + 1 + (node.style in ("|", ">"))
        return scalar

    Loader.add_constructor("tag:yaml.org,2002:str", make_scalar)
    return Loader


def _find_json_fault(text: str, of: str = "") -> tuple[int, str] | None:
    """Return (line, reason) of the first fault of a JSON text; None if there is none that has a line.

    `of` says what the column in the reason is of, if not of the file.
    """
    try:
        json.loads(text)
    except json.JSONDecodeError as refusal:
        return refusal.lineno, f"not JSON: {refusal.msg} (column {refusal.colno}{of})"
    except (ValueError, RecursionError):
        return None
    return _find_duplicate_key(text)


def _find_duplicate_key(text: str) -> tuple[int, str] | None:
    """Return (line, reason) of the first key that an object of a valid JSON text has twice."""
    seen: list[set[str]] = []
    for token in re.finditer(r'("(?:[^"\\]|\\.)*")(\s*:)?|[{}\[\]]', text):
        mark = token.group()
        if mark in {"{", "["}:
            seen.append(set())
        elif mark in {"}", "]"}:
            seen.pop()
        elif token.group(2) is not None:
            key = json.loads(token.group(1), strict=False)
            if key in seen[-1]:
                return text.count("\n", 0, token.start()) + 1, f"duplicate key {key[:80]!r}"
            seen[-1].add(key)
    return None


def _in_document(document: object, place: Place) -> list[Configuration]:
    if isinstance(document, list):
        return [found for i, item in enumerate(document) for found in _in_document(item, place.inside(f"[{i}]"))]
    if not isinstance(document, dict):
        return [Configuration(place=str(place), faults=["not a JSON object"])]
    kind = document.get("kind")
    if kind == "List":
        items = document.get("items")
        listed = items if isinstance(items, list) else []
        return [found for i, item in enumerate(listed) for found in _in_document(item, place.inside(f", items[{i}]"))]
    if kind == "NetworkAttachmentDefinition":
        return _in_definition(document, place)
    if kind is not None and "apiVersion" in document:
        return [Configuration(place=str(place), warnings=[f"skipped: kind {kind} is not a network configuration"])]
    try:
        text = json.dumps(document, default=str)
    except (ValueError, RecursionError):  # possible with YAML's anchors
        return [Configuration(place=str(place), faults=["it is nested too deeply, or contains itself"])]
    except TypeError as fault:  # a key that is not a string
        return [Configuration(place=str(place), faults=[f"it cannot be converted to JSON: {fault}"])]
    # This text is not the file's: its lines are not known.
    return _in_configuration(text, Place(place.source, str(place), 0), kind="")


def _object(found: object) -> dict[str, object]:
    return found if isinstance(found, dict) else {}


def _in_definition(document: dict[str, object], place: Place) -> list[Configuration]:
    metadata = _object(document.get("metadata"))
    name = str(metadata.get("name") or "")
    place = place.inside(f" ({name})") if name else place
    config = _object(document.get("spec")).get("config")
    if config in (None, ""):
        text = "spec.config is empty: Multus reads the configuration of this name from its folder on the node"
        return [Configuration(place=str(place), kind="NetworkAttachmentDefinition", name=name, warnings=[text])]
    if not isinstance(config, str):
        text = "spec.config is not a string: write the JSON as text (config: |)"
        return [Configuration(place=str(place), kind="NetworkAttachmentDefinition", name=name, faults=[text])]
    line, exact = (config.line, config.exact) if isinstance(config, _Scalar) else (0, False)
    inner = Place(place.source, f"{place}, spec.config", line, exact=exact)
    found = _in_configuration(config, inner, kind="NetworkAttachmentDefinition", name=name)
    for each in found:
        each.annotations = _object(metadata.get("annotations"))
    return found


def _in_configuration(text: str, place: Place, *, kind: str, name: str = "") -> list[Configuration]:
    """Read one plugin's configuration or a list of plugins. `name` is the definition's, for those without a name."""
    try:
        conf = parse_configuration(text.encode(errors="surrogatepass"))
    except CniError as fault:
        of = "" if place.first_line == 1 else " of the text there"
        found = _find_json_fault(text, of) if text.strip() else None
        words = f"{place.line_of(found[0])}: {found[1]}" if found else fault.msg.replace(INPUT, str(place))
        return [Configuration(place=str(place), kind=kind, name=name, faults=[words])]
    given = str(conf.get("name") or name)
    plugins = conf.get("plugins")
    if plugins is None:
        if conf.get("name") in (None, "") and name:
            conf["name"] = name
        return [_plugin(conf, place, kind=kind or "plugin", name=given)]
    if not isinstance(plugins, list) or not plugins:
        return [
            Configuration(
                place=str(place),
                kind=kind or "list",
                name=given,
                faults=["plugins must be a list of at least one plugin"],
            )
        ]
    configurations = []
    for i, item in enumerate(plugins):
        inner = place.inside(f", plugins[{i}]")
        if not isinstance(item, dict):
            configurations.append(
                Configuration(place=str(inner), kind=kind or "list", name=given, faults=["not a JSON object"])
            )
            continue
        # As libcni does: each plugin gets the list's name and version (conf.go, InjectConf).
        shared = {"name": given, "cniVersion": conf.get("cniVersion", "")}
        configurations.append(_plugin({**item, **shared}, inner, kind=kind or "list", name=given))
    return configurations


def _plugin(conf: dict[str, object], place: Place, *, kind: str, name: str) -> Configuration:
    plugin = conf.get("type")
    type_name = plugin if isinstance(plugin, str) else ""
    found = Configuration(place=str(place), conf=conf, kind=kind, name=name, plugin=type_name)
    if not type_name:
        found.faults.append(f"type is missing (for this plugin, {PLUGIN})")
    elif not found.ours and find_nearest(type_name, SPELLINGS, cutoff=0.85):
        found.warnings.append(f"skipped: type {type_name} is not this plugin's; did you mean {PLUGIN}?")
    return found


def make_add_request(conf: dict[str, object]) -> Request:
    """Return an ADD with a configuration. Raises CniError if it is not a network configuration at all."""
    environ = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "validate",
        "CNI_NETNS": "/nowhere",
        "CNI_IFNAME": "net1",
        "CNI_PATH": DEFAULT_CNI_PATH,
        "CNI_ARGS": "IgnoreUnknown=1",
    }
    return parse_request(environ, json.dumps(conf, default=str).encode(), known_args=frozenset(), names=KNOWN)


def validate(found: Configuration) -> None:
    """Parse a configuration as an ADD does, and add the faults and warnings to it."""
    try:
        request = make_add_request(found.conf)
    except CniError as fault:
        found.faults += _list_faults(fault)
        return
    try:
        # The device plugin gives each pod its own device.
        found.parsed = parse_netconf(request, needs_device=False)
    except CniError as fault:
        found.faults += _list_faults(fault)
    if parse_netconf(request, lenient=True).ipam_type == "host-local":
        try:
            parse_settings(request)
        except CniError as fault:
            found.faults += [text for text in _list_faults(fault) if text not in found.faults]
    found.warnings += describe_unknown_keys(found.conf) + _advice(found)


def _list_faults(fault: CniError) -> list[str]:
    """Return the single faults in an error's message."""
    text = fault.msg
    if text.startswith("network ") and ": " in text:
        text = text.partition(": ")[2]
    if isinstance(fault, IncompatibleVersion) and fault.details:
        text += f" ({fault.details})"
    return text.split("; ")


def _advice(found: Configuration) -> list[str]:
    """Return warnings about what is allowed but probably not intended."""
    conf, parsed = found.conf, found.parsed
    ipam = _object(conf.get("ipam"))
    advice = []
    if conf.get("cniVersion") in (None, ""):
        advice.append("cniVersion is missing, which means 0.1.0: no CHECK, and results in the oldest format")
    if parsed is not None and parsed.ib_kubernetes and "infinibandGUID" not in _object(conf.get("capabilities")):
        advice.append("ibKubernetesEnabled without capabilities.infinibandGUID: only cni-args can pass the GUID")
    if parsed is not None and parsed.ib_kubernetes and "guid" not in parsed.pod_may_choose:
        advice.append("ibKubernetesEnabled, but podMayChoose does not list guid: a GUID from ib-kubernetes is refused")
    if found.kind != "NetworkAttachmentDefinition":
        return advice
    if parsed is not None and parsed.device is None and RESOURCE_ANNOTATION not in found.annotations:
        advice.append(f"neither deviceID nor the annotation {RESOURCE_ANNOTATION} is set: its pods get no VF")
    if conf.get("guid") not in (None, ""):
        advice.append("guid: every pod of this network asks for the same GUID, so the second pod is refused")
    if ipam.get("type") == "host-local" and ipam.get("slices") is None:
        text = "host-local without slices: every node assigns the same addresses; with more than one node, add "
        advice.append(text + '"slices": {"flannel": true} (docs/ipam.md), or use whereabouts')
    return advice


def list_effective(parsed: NetConf, conf: dict[str, object]) -> list[tuple[str, str, str]]:
    """Return (key, value, source) for each key, defaults included, as an ADD would use it."""
    from ib_sriov_cni.cli.keys import BY_NAME
    from ib_sriov_cni.state.directory import DEFAULT_STATE_DIR
    from ipam.protocol.versions import VERSIONS

    ipam_timeout = conf.get("ipamTimeout")
    values = {
        "deviceID": str(parsed.device or ""),
        "guid": str(parsed.guid) if parsed.guid is not None else "",
        "link_state": parsed.link_state,
        "vfioPciMode": _render_bool(parsed.vfio_pci_mode),
        "rdmaIsolation": _render_bool(parsed.rdma_isolation),
        "pkey": f"{parsed.pkey:#06x}" if parsed.pkey else "",
        "mtu": str(parsed.mtu or ""),
        "acceptRA": _render_bool(parsed.accept_ra),
        "podMayChoose": ", ".join(parsed.pod_may_choose),
        "ibKubernetesEnabled": _render_bool(parsed.ib_kubernetes),
        "ipam": parsed.ipam_type,
        "portTimeout": f"{parsed.port_timeout:g}",
        "lockTimeout": f"{parsed.lock_timeout:g}",
        "ipamTimeout": f"{ipam_timeout:g}" if isinstance(ipam_timeout, int | float) and ipam_timeout else "90",
        "logLevel": parsed.log_level,
        "logFile": parsed.log_file,
        "stateDir": parsed.state_dir or DEFAULT_STATE_DIR,
    }
    rows = [("cniVersion", str(conf.get("cniVersion") or VERSIONS[0]), _configured_or_default("cniVersion", conf))]
    rows += [(name, values[name], _source(name, parsed, conf)) for name in BY_NAME]
    return [(name, value or "none", source) for name, value, source in rows]


def _render_bool(found: bool) -> str:  # noqa: FBT001  # a value, not a switch
    return "true" if found else "false"


def _configured_or_default(name: str, conf: dict[str, object]) -> str:
    return "configuration" if conf.get(name) not in (None, "") else "default"


def _source(name: str, parsed: NetConf, conf: dict[str, object]) -> str:
    runtime, args = _object(conf.get("runtimeConfig")), _object(_object(conf.get("args")).get("cni"))
    if name == "guid" and parsed.guid_source:
        return parsed.guid_source if parsed.guid_source != "guid" else "configuration"
    if name == "deviceID" and parsed.device is not None:
        return "runtimeConfig" if runtime.get("deviceID") else "configuration" if conf.get("deviceID") else "pciBusID"
    if name == "pkey" and args.get("pkey") not in (None, ""):
        return "args.cni"
    return _configured_or_default(name, conf)
