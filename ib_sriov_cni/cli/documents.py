"""Network configurations in files as people have them: JSON or YAML, one or many, alone or inside something else.

Understood are a plugin's configuration, a list of plugins ("plugins"), a NetworkAttachmentDefinition with either in
spec.config, a Kubernetes List of these, and several YAML documents in one file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from ib_sriov_cni.cli.keys import unknown_keys
from ib_sriov_cni.core.configuration import NetConf, parse_netconf
from ib_sriov_cni.core.errors import CniError
from ipam.host_local.config import parse_settings
from ipam.protocol.request import Request, parse_configuration, parse_request

RESOURCE = "k8s.v1.cni.cncf.io/resourceName"
OURS = "ib-sriov"


@dataclass(kw_only=True)
class Found:
    """One configuration, or why there is none."""

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
        """Whether the plugin is this one."""
        return self.plugin == OURS


def read_configurations(text: str, source: str) -> list[Found]:
    """Give every configuration in a text; what cannot be read is one Found with a fault."""
    found: list[Found] = []
    documents, fault = _documents(text)
    if fault:
        return [Found(place=source, faults=[fault])]
    for number, document in enumerate(documents, 1):
        place = source if len(documents) == 1 else f"{source}, document {number}"
        if isinstance(document, dict) and len(documents) == 1 and "kind" not in document and text.lstrip()[:1] == "{":
            # As it was written: the plugin refuses a key that is there twice, and a document has lost it.
            found += _in_configuration(text.encode(), place, kind="")
        elif document is not None:
            found += _in_document(document, place)
    if not found:
        found.append(Found(place=source, faults=["there is no network configuration in it"]))
    return found


def _documents(text: str) -> tuple[list[object], str]:
    """Give the documents, or a fault. JSON is tried first: it may have tabs, which YAML refuses."""
    fault = ""
    if text.lstrip()[:1] in {"{", "["}:
        try:
            return [json.loads(text)], ""
        except (ValueError, RecursionError) as refusal:
            fault = str(refusal)
    import yaml

    try:
        return list(yaml.safe_load_all(text)), ""
    except (yaml.YAMLError, ValueError, RecursionError) as refusal:
        words = " ".join(str(refusal).split())
        return [], f"neither JSON ({fault}) nor YAML ({words})" if fault else f"not YAML: {words}"


def _in_document(document: object, place: str) -> list[Found]:
    if isinstance(document, list):
        return [found for i, item in enumerate(document) for found in _in_document(item, f"{place}[{i}]")]
    if not isinstance(document, dict):
        return [Found(place=place, faults=["it is no object"])]
    kind = document.get("kind")
    if kind == "List":
        items = document.get("items")
        listed = items if isinstance(items, list) else []
        return [found for i, item in enumerate(listed) for found in _in_document(item, f"{place}, items[{i}]")]
    if kind == "NetworkAttachmentDefinition":
        return _in_definition(document, place)
    if kind is not None and "apiVersion" in document:
        return [Found(place=place, warnings=[f"a {kind} is not looked at"])]
    try:
        text = json.dumps(document, default=str).encode()
    except (ValueError, RecursionError):  # YAML's anchors allow it
        return [Found(place=place, faults=["it is nested without end, or goes round in a circle"])]
    except TypeError as fault:  # and keys that are no words
        return [Found(place=place, faults=[f"it cannot be JSON: {fault}"])]
    return _in_configuration(text, place, kind="")


def _object(found: object) -> dict[str, object]:
    return found if isinstance(found, dict) else {}


def _in_definition(document: dict[str, object], place: str) -> list[Found]:
    metadata = _object(document.get("metadata"))
    name = str(metadata.get("name") or "")
    place = f"{place} ({name})" if name else place
    config = _object(document.get("spec")).get("config")
    if config in (None, ""):
        words = "spec.config is empty: Multus reads the configuration of that name from its folder on the node"
        return [Found(place=place, kind="NetworkAttachmentDefinition", name=name, warnings=[words])]
    if not isinstance(config, str):
        words = "spec.config is no text: write the JSON as a string (config: |)"
        return [Found(place=place, kind="NetworkAttachmentDefinition", name=name, faults=[words])]
    found = _in_configuration(config.encode(), f"{place}, spec.config", kind="NetworkAttachmentDefinition", name=name)
    for each in found:
        each.annotations = _object(metadata.get("annotations"))
    return found


def _in_configuration(text: bytes, place: str, *, kind: str, name: str = "") -> list[Found]:
    """Read a plugin's configuration or a list of plugins; Multus gives the definition's name to one without."""
    try:
        conf = parse_configuration(text)
    except CniError as fault:
        return [Found(place=place, kind=kind, name=name, faults=[fault.msg])]
    given = str(conf.get("name") or name)
    plugins = conf.get("plugins")
    if plugins is None:
        if conf.get("name") in (None, "") and name:
            conf["name"] = name
        return [_plugin(conf, place, kind=kind or "plugin", name=given)]
    if not isinstance(plugins, list) or not plugins:
        return [Found(place=place, kind=kind or "list", name=given, faults=["plugins is no list of plugins"])]
    found = []
    for i, item in enumerate(plugins):
        inner = f"{place}, plugins[{i}]"
        if not isinstance(item, dict):
            found.append(Found(place=inner, kind=kind or "list", name=given, faults=["it is no object"]))
            continue
        # As libcni makes each plugin's: name and version of the list (conf.go, InjectConf).
        shared = {"name": given, "cniVersion": conf.get("cniVersion", "")}
        found.append(_plugin({**item, **shared}, inner, kind=kind or "list", name=given))
    return found


def _plugin(conf: dict[str, object], place: str, *, kind: str, name: str) -> Found:
    plugin = conf.get("type")
    words = plugin if isinstance(plugin, str) else ""
    found = Found(place=place, conf=conf, kind=kind, name=name, plugin=words)
    if not words:
        found.faults.append(f"type is missing; this plugin's is {OURS}")
    return found


def request_of(conf: dict[str, object]) -> Request:
    """Make the ADD of a configuration. Raises CniError for what is no network configuration at all."""
    environ = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "validate",
        "CNI_NETNS": "/nowhere",
        "CNI_IFNAME": "net1",
        "CNI_PATH": "/opt/cni/bin",
        "CNI_ARGS": "IgnoreUnknown=1",
    }
    return parse_request(environ, json.dumps(conf, default=str).encode(), known_args=frozenset())


def validate(found: Found) -> None:
    """Have the parsers that every ADD uses read it, and note faults and warnings."""
    try:
        request = request_of(found.conf)
    except CniError as fault:
        found.faults += _split(fault)
        return
    try:
        # The device is the device plugin's to give, for each pod its own.
        found.parsed = parse_netconf(request, needs_device=False)
    except CniError as fault:
        found.faults += _split(fault)
    if parse_netconf(request, lenient=True).ipam_type == "host-local":
        try:
            parse_settings(request)
        except CniError as fault:
            found.faults += [words for words in _split(fault) if words not in found.faults]
    found.warnings += unknown_keys(found.conf) + _advice(found)


def _split(fault: CniError) -> list[str]:
    """Give the faults of one message one by one."""
    words = fault.msg
    if words.startswith("network ") and ": " in words:
        words = words.partition(": ")[2]
    return words.split("; ")


def _advice(found: Found) -> list[str]:
    """What is allowed, and hardly meant."""
    conf, parsed = found.conf, found.parsed
    ipam = _object(conf.get("ipam"))
    advice = []
    if conf.get("cniVersion") in (None, ""):
        advice.append("cniVersion is missing, which means 0.1.0: no CHECK, and results of the oldest shape")
    if parsed is not None and parsed.ib_kubernetes and "infinibandGUID" not in _object(conf.get("capabilities")):
        words = "ibKubernetesEnabled without capabilities.infinibandGUID: the GUID comes by cni-args alone"
        advice.append(words)
    if found.kind != "NetworkAttachmentDefinition":
        return advice
    if parsed is not None and parsed.device is None and RESOURCE not in found.annotations:
        words = f"neither deviceID nor the annotation {RESOURCE}: nothing gives its pods a VF"
        advice.append(words)
    if conf.get("guid") not in (None, ""):
        advice.append("guid: every pod of this network asks for the same GUID, and the second one is refused")
    if ipam.get("type") == "host-local" and ipam.get("slices") is None:
        words = "host-local without slices: each node gives the same addresses; on more than one node add "
        advice.append(words + '"slices": {"flannel": true} (docs/ipam.md), or use whereabouts')
    return advice


def effective(parsed: NetConf, conf: dict[str, object]) -> list[tuple[str, str, str]]:
    """Give (key, value, where it is from) with defaults, as an ADD would take it."""
    from ib_sriov_cni.cli.keys import BY_NAME
    from ib_sriov_cni.state.directory import DEFAULT_STATE_DIR
    from ipam.protocol.versions import VERSIONS

    ipam_timeout = conf.get("ipamTimeout")
    values = {
        "deviceID": str(parsed.device or ""),
        "guid": str(parsed.guid) if parsed.guid is not None else "",
        "link_state": parsed.link_state,
        "rdmaIsolation": _bool(parsed.rdma_isolation),
        "pkey": f"{parsed.pkey:#06x}" if parsed.pkey else "",
        "mtu": str(parsed.mtu or ""),
        "ibKubernetesEnabled": _bool(parsed.ib_kubernetes),
        "ipam": parsed.ipam_type,
        "portTimeout": f"{parsed.port_timeout:g}",
        "lockTimeout": f"{parsed.lock_timeout:g}",
        "ipamTimeout": f"{ipam_timeout:g}" if isinstance(ipam_timeout, int | float) and ipam_timeout else "90",
        "logLevel": parsed.log_level,
        "logFile": parsed.log_file,
        "stateDir": parsed.state_dir or DEFAULT_STATE_DIR,
    }
    rows = [("cniVersion", str(conf.get("cniVersion") or VERSIONS[0]), _from("cniVersion", conf))]
    rows += [(name, values[name], _source(name, parsed, conf)) for name in BY_NAME]
    return [(name, words or "none", source) for name, words, source in rows]


def _bool(found: bool) -> str:  # noqa: FBT001  # one value, said in JSON's words
    return "true" if found else "false"


def _from(name: str, conf: dict[str, object]) -> str:
    return "configuration" if conf.get(name) not in (None, "") else "default"


def _source(name: str, parsed: NetConf, conf: dict[str, object]) -> str:
    runtime, args = _object(conf.get("runtimeConfig")), _object(_object(conf.get("args")).get("cni"))
    if name == "guid" and parsed.guid_source:
        return parsed.guid_source if parsed.guid_source != "guid" else "configuration"
    if name == "deviceID" and parsed.device is not None:
        return "runtimeConfig" if runtime.get("deviceID") else "configuration" if conf.get("deviceID") else "pciBusID"
    if name == "pkey" and args.get("pkey") not in (None, ""):
        return "args.cni"
    return _from(name, conf)
