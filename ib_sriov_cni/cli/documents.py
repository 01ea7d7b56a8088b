"""Finds the network configurations in a JSON or YAML text.

A text may contain a plugin's configuration, a list of plugins ("plugins"), a NetworkAttachmentDefinition with either in
spec.config, what sriov-network-operator makes such definitions from, a Kubernetes List of these, and several YAML
documents.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from ib_sriov_cni.cli.keys import find_nearest
from ib_sriov_cni.cli.operator_documents import (
    NETWORK_KIND,
    POLICY_KIND,
    is_for_infiniband,
    judge_policy,
    render_network,
)
from ib_sriov_cni.core.configuration import NetConf
from ib_sriov_cni.core.errors import CniError
from ib_sriov_cni.doctor.facts import PLUGIN
from ipam.protocol.request import parse_configuration
from ipam.protocol.spelling import name_all, respell

INPUT = "network configuration on standard input"  # what the parser calls the text
OLD_TYPE = "ib-sriov-cni"  # in older texts about the Go plugin, whose program is ib-sriov too
RESOURCE_ANNOTATION = "k8s.v1.cni.cncf.io/resourceName"


@dataclass(kw_only=True)
class Configuration:
    """One configuration that was found in a text, or why it could not be read."""

    place: str  # "fabric.yaml, document 2, plugins[0]"
    conf: dict[str, object] = field(default_factory=dict)
    kind: str = ""  # NetworkAttachmentDefinition, SriovIBNetwork, SriovNetworkNodePolicy, list, plugin
    name: str = ""
    plugin: str = ""  # its type
    later: tuple[str, ...] = ()  # the types of the plugins after it in the list
    resource: str = ""  # of a SriovNetworkNodePolicy or SriovIBNetwork: its resourceName
    annotations: dict[str, object] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    parsed: NetConf | None = None
    effective: dict[str, object] = field(default_factory=dict)  # `conf` with the node-wide defaults
    defaulted: tuple[str, ...] = ()  # the keys that these defaults set

    @property
    def ours(self) -> bool:
        """Whether the configuration is for this plugin."""
        return self.plugin in {PLUGIN, OLD_TYPE}


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
    read = READERS.get(str(kind))
    if read is not None:
        return read(document, place)
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


def _in_operator_network(document: dict[str, object], place: Place) -> list[Configuration]:
    """Read the definition that sriov-network-operator makes of a SriovIBNetwork."""
    name = str(_object(document.get("metadata")).get("name") or "")
    spec = _object(document.get("spec"))
    place = place.inside(f" ({name})") if name else place
    conf, faults, warnings = render_network(spec, name)
    found = _in_parsed(conf, place, kind=NETWORK_KIND, name=name)
    resource = str(spec.get("resourceName") or "")
    for each in found:
        each.annotations = {RESOURCE_ANNOTATION: resource} if resource else {}
        each.resource = resource
    found[0].faults[:0] = faults
    found[0].warnings[:0] = warnings
    return found


def _in_policy(document: dict[str, object], place: Place) -> list[Configuration]:
    name = str(_object(document.get("metadata")).get("name") or "")
    spec = _object(document.get("spec"))
    place = place.inside(f" ({name})") if name else place
    if not is_for_infiniband(spec):
        return [Configuration(place=str(place), warnings=["skipped: the policy is not for InfiniBand"])]
    faults, warnings = judge_policy(spec)
    resource = str(spec.get("resourceName") or "")
    return [Configuration(place=str(place), kind=POLICY_KIND, resource=resource, faults=faults, warnings=warnings)]


READERS = {
    "NetworkAttachmentDefinition": _in_definition,
    NETWORK_KIND: _in_operator_network,
    POLICY_KIND: _in_policy,
}


def _in_configuration(text: str, place: Place, *, kind: str, name: str = "") -> list[Configuration]:
    """Read one plugin's configuration or a list of plugins. `name` is the definition's, for those without a name."""
    try:
        conf = parse_configuration(text.encode(errors="surrogatepass"))
    except CniError as fault:
        of = "" if place.first_line == 1 else " of the text there"
        found = _find_json_fault(text, of) if text.strip() else None
        words = f"{place.line_of(found[0])}: {found[1]}" if found else fault.msg.replace(INPUT, str(place))
        return [Configuration(place=str(place), kind=kind, name=name, faults=[words])]
    return _in_parsed(conf, place, kind=kind, name=name)


def _in_parsed(conf: dict[str, object], place: Place, *, kind: str, name: str) -> list[Configuration]:
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
    types = [str(_object(item).get("type") or "") for item in plugins]
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
        configurations[-1].later = tuple(types[i + 1 :])
    return configurations


def _plugin(conf: dict[str, object], place: Place, *, kind: str, name: str) -> Configuration:
    plugin = respell(conf, name_all(("type",)), []).get("type")
    type_name = plugin if isinstance(plugin, str) else ""
    found = Configuration(place=str(place), conf=conf, kind=kind, name=name, plugin=type_name)
    if not type_name:
        found.faults.append(f"type is missing (for this plugin, {PLUGIN})")
    elif type_name == OLD_TYPE:
        text = f"type {OLD_TYPE} is an older name: this plugin, and the Go plugin, are installed as {PLUGIN}"
        found.warnings.append(f"{text}; the rest is checked as if it were that")
    elif not found.ours and find_nearest(type_name, (PLUGIN, OLD_TYPE), cutoff=0.85):  # "sriov" is another plugin
        found.warnings.append(f"skipped: type {type_name} is not this plugin's; did you mean {PLUGIN}?")
    return found
