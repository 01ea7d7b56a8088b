"""Judges a network configuration as an ADD would, advises about what an ADD cannot see, and shows what it comes to."""

from __future__ import annotations

import json

from ib_sriov_cni.cli.documents import RESOURCE_ANNOTATION, Configuration
from ib_sriov_cni.cli.keys import BY_NAME, describe_unknown_keys, find_nearest
from ib_sriov_cni.cli.operator_documents import NETWORK_KIND, POLICY_KIND
from ib_sriov_cni.core.configuration import NetConf, parse_netconf
from ib_sriov_cni.core.errors import CniError, IncompatibleVersion
from ib_sriov_cni.core.known_keys import DEVICE_SOURCES, KNOWN, PKEY_SOURCES, find_first
from ib_sriov_cni.doctor.facts import DEFAULT_CNI_PATH
from ib_sriov_cni.state.directory import DEFAULT_STATE_DIR
from ib_sriov_cni.state.node_defaults import apply_defaults, find_missing
from ipam.host_local.config import parse_settings
from ipam.protocol.request import Request, parse_request
from ipam.protocol.versions import VERSIONS

DEFINITION_KINDS = ("NetworkAttachmentDefinition", NETWORK_KIND)
# What libcni and Multus know (CONVENTIONS.md, "Well-known Capabilities"; Multus, docs/how-to-use.md).
CAPABILITIES = (
    *("infinibandGUID", "deviceID", "CNIDeviceInfoFile", "ips", "ipRanges", "mac"),
    *("portMappings", "bandwidth", "dns", "aliases", "cgroupPath", "tc"),
)
DEFAULT_ROUTES = ("0.0.0.0/0", "::/0")


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


def validate(found: Configuration, defaults: dict[str, object] | None = None) -> None:
    """Parse a configuration as an ADD on a node with these defaults does; add faults and warnings to it."""
    try:
        own = make_add_request(found.conf)
    except CniError as fault:
        found.faults += _list_faults(fault)
        return
    request = apply_defaults(own, defaults or {})
    found.effective = request.conf
    found.defaulted = tuple(find_missing(own.conf, defaults or {}))
    try:
        # The device plugin gives each pod its own device.
        found.parsed = parse_netconf(request, needs_device=False)
    except CniError as fault:
        found.faults += _list_faults(fault)
    lenient = parse_netconf(request, lenient=True)
    if lenient.ipam_type == "host-local":
        try:
            parse_settings(request)
        except CniError as fault:
            found.faults += [text for text in _list_faults(fault) if text not in found.faults]
    found.faults += _judge_capabilities(request.conf)
    found.warnings += describe_unknown_keys(found.conf) + list(lenient.warnings) + _advise(found)


def compare_resources(found: list[Configuration]) -> None:
    """Add a warning to each network whose resource no policy has, if there are policies at all."""
    offered = {each.resource for each in found if each.kind == POLICY_KIND and each.resource}
    for each in found:
        named = each.resource or str(each.annotations.get(RESOURCE_ANNOTATION) or "").rpartition("/")[2]
        if offered and each.ours and named and named not in offered:
            each.warnings.append(f"no {POLICY_KIND} here has the resourceName {named}: its pods get no VF")


def _list_faults(fault: CniError) -> list[str]:
    """Return the single faults in an error's message."""
    text = fault.msg
    if text.startswith("network ") and ": " in text:
        text = text.partition(": ")[2]
    if isinstance(fault, IncompatibleVersion) and fault.details:
        text += f" ({fault.details})"
    return text.split("; ")


def _object(found: object) -> dict[str, object]:
    return found if isinstance(found, dict) else {}


def _judge_capabilities(conf: dict[str, object]) -> list[str]:
    return [
        f"capabilities.{name} must be true or false (got {str(found)[:40]!r}): libcni refuses anything else"
        for name, found in _object(conf.get("capabilities")).items()
        if not isinstance(found, bool)
    ]


def _advise(found: Configuration) -> list[str]:
    """Return warnings about what is allowed but probably not intended."""
    conf, parsed = found.effective, found.parsed
    advice = _advise_capabilities(conf) + _advise_routes(conf)
    if conf.get("cniVersion") in (None, ""):
        advice.append("cniVersion is missing, which means 0.1.0: no CHECK, and results in the oldest format")
    if parsed is None:
        return advice
    advice += _advise_partition(conf, parsed) + _advise_chain(found, parsed)
    if parsed.vfio_pci_mode and parsed.ipam_type:
        advice.append("ipam with vfioPciMode: addresses are reserved, but the virtual machine must set them itself")
    if found.kind not in DEFINITION_KINDS:
        return advice
    if parsed.device is None and RESOURCE_ANNOTATION not in found.annotations and found.kind != NETWORK_KIND:
        advice.append(f"neither deviceID nor the annotation {RESOURCE_ANNOTATION} is set: its pods get no VF")
    if conf.get("guid") not in (None, ""):
        advice.append("guid: every pod of this network asks for the same GUID, so the second pod is refused")
    ipam = _object(conf.get("ipam"))
    if ipam.get("type") == "host-local" and ipam.get("slices") is None:
        text = "host-local without slices: every node assigns the same addresses; with more than one node, add "
        advice.append(text + '"slices" by flannel or by podCIDR (docs/ipam.md), or use whereabouts')
    return advice


def _advise_capabilities(conf: dict[str, object]) -> list[str]:
    """Capabilities are a map in libcni: their names are compared exactly, and one that nobody has is not missed."""
    advice = []
    for name in _object(conf.get("capabilities")):
        near = "" if name in CAPABILITIES else find_nearest(name, CAPABILITIES)
        if near:
            advice.append(f"capabilities.{name}: nothing passes a value of that name; did you mean {near}?")
    return advice


def _advise_routes(conf: dict[str, object]) -> list[str]:
    routes = _object(conf.get("ipam")).get("routes")
    named = [_object(route).get("dst") for route in routes] if isinstance(routes, list) else []
    return [
        f"ipam.routes has {route}, which eth0 has too: it is used only while eth0's is gone (docs/ipam.md, Routes)"
        for route in DEFAULT_ROUTES
        if route in named
    ]


def _advise_partition(conf: dict[str, object], parsed: NetConf) -> list[str]:
    advice = []
    if parsed.ib_kubernetes and "infinibandGUID" not in _object(conf.get("capabilities")):
        advice.append("ibKubernetesEnabled without capabilities.infinibandGUID: only cni-args can pass the GUID")
    if parsed.ib_kubernetes and "guid" not in parsed.pod_may_choose:
        advice.append("ibKubernetesEnabled, but podMayChoose does not list guid: a GUID from ib-kubernetes is refused")
    if parsed.pkey is not None and not parsed.ib_kubernetes:
        text = "the pods' GUIDs must be added to this partition at the subnet manager by hand, or ADD fails (103)"
        advice.append(f"pkey without ibKubernetesEnabled: {text}")
    return advice


def _advise_chain(found: Configuration, parsed: NetConf) -> list[str]:
    if "rdma" not in found.later:
        return []
    if parsed.rdma_isolation:
        return ["rdma, later in the list, fails: rdmaIsolation has moved the RDMA device already; leave rdma out"]
    text = "rdma, later in the list, moves the RDMA device, and the kernel then makes net1 anew, without its addresses"
    return [f"{text}: leave rdma out, and set rdmaIsolation"]


def list_effective(found: Configuration) -> list[tuple[str, str, str]]:
    """Return (key, value, source) for each key, defaults included, as an ADD would use it; nothing if it is invalid."""
    parsed, conf = found.parsed, found.effective
    if parsed is None or found.faults:
        return []
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
    rows = [("cniVersion", str(conf.get("cniVersion") or VERSIONS[0]), _source("cniVersion", found))]
    rows += [(name, values[name], _source(name, found)) for name in BY_NAME]
    return [(name, value or "none", source) for name, value, source in rows]


def _render_bool(found: bool) -> str:  # noqa: FBT001  # a value, not a switch
    return "true" if found else "false"


def _source(name: str, found: Configuration) -> str:
    """Return where a key's value is from: "configuration", "node" (the defaults file), "default", or another place."""
    place = ""
    if name == "guid" and found.parsed is not None:
        place = found.parsed.guid_source
    elif name in ("deviceID", "pkey"):
        place = find_first(make_add_request(found.conf), DEVICE_SOURCES if name == "deviceID" else PKEY_SOURCES)[0]
    if place and place != name:
        return place
    if name in found.defaulted:
        return "node"
    return "configuration" if found.effective.get(name) not in (None, "") else "default"
