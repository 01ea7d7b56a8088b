"""What sriov-network-operator's documents come to: the configuration of a SriovIBNetwork, and node policies.

Source: sriov-network-operator, api/v1/helper.go (RenderNetAttDef of SriovIBNetwork), the types of its API, and
bindata/manifests/cni-config/sriov/sriov-cni-config.yaml. No I/O.
"""

from __future__ import annotations

from collections.abc import Mapping

from ib_sriov_cni.cli.keys import find_nearest
from ib_sriov_cni.core.known_keys import NODE_WIDE
from ib_sriov_cni.core.values import LINK_STATES
from ib_sriov_cni.state.node_defaults import DEFAULTS_FILE
from ipam.protocol.fastjson import loads

NETWORK_KIND = "SriovIBNetwork"
POLICY_KIND = "SriovNetworkNodePolicy"
NETWORK_FIELDS = ("resourceName", "networkNamespace", "capabilities", "ipam", "linkState", "metaPlugins")
RENDERED_VERSION = "1.0.0"
MELLANOX = "15b3"


def render_network(spec: Mapping[str, object], name: str) -> tuple[dict[str, object], list[str], list[str]]:
    """Return the configuration that the operator makes of a SriovIBNetwork, with faults and warnings."""
    faults: list[str] = []
    warnings = [_describe_unknown_field(field) for field in spec if field not in NETWORK_FIELDS]
    if not spec.get("resourceName"):
        faults.append("spec.resourceName is missing: its pods get no VF")
    plugin: dict[str, object] = {"type": "ib-sriov"}
    capabilities = _parse(spec, "capabilities", "{}", faults)
    if isinstance(capabilities, dict):
        plugin["capabilities"] = capabilities
    state = spec.get("linkState")
    if state in LINK_STATES:
        plugin["link_state"] = state
    elif state not in (None, ""):
        faults.append(f"spec.linkState must be {', '.join(LINK_STATES)} (got {str(state)[:40]!r})")
    ipam = _parse(spec, "ipam", "{}", faults)
    plugin["ipam"] = ipam if isinstance(ipam, dict) else {}
    shared: dict[str, object] = {"cniVersion": RENDERED_VERSION, "name": name}
    chained = _parse(spec, "metaPlugins", "[]", faults)
    if isinstance(chained, list):
        return {**shared, "plugins": [plugin, *chained]}, faults, warnings
    return {**shared, **plugin}, faults, warnings


def _parse(spec: Mapping[str, object], field: str, brackets: str, faults: list[str]) -> object:
    """Return the value of a field with JSON as text; None if it is empty, or after adding a fault."""
    text = spec.get(field)
    if text is None or text == "":
        return None
    kind = "objects of plugins, with commas between them" if brackets == "[]" else "one object"
    if not isinstance(text, str):
        faults.append(f"spec.{field} must be a string with JSON in it: {kind}")
        return None
    if "'" in text:
        faults.append(f"spec.{field} must not contain ', in which the operator puts the whole configuration")
    try:
        found = loads(f"[{text}]" if brackets == "[]" else text)
    except ValueError as fault:
        faults.append(f"spec.{field} must be JSON, {kind}: {fault}")
        return None
    if brackets == "{}" and not isinstance(found, dict):
        faults.append(f"spec.{field} must be JSON, {kind}")
        return None
    return found


def _describe_unknown_field(field: str) -> str:
    key = find_nearest(field, NODE_WIDE)
    if key:
        return f"spec.{field} is not a field of {NETWORK_KIND} and has no effect: {key} can be set in {DEFAULTS_FILE}"
    near = find_nearest(field, NETWORK_FIELDS)
    hint = f"; did you mean {near}?" if near else ""
    return f"spec.{field} is not a field of {NETWORK_KIND} that goes into the configuration{hint}"


def is_for_infiniband(spec: Mapping[str, object]) -> bool:
    """Return whether a policy is, or may be, for InfiniBand: linkType ib, or none and no other vendor's NIC."""
    link_type = str(spec.get("linkType") or "").lower()
    if link_type:
        return link_type == "ib"
    selector = spec.get("nicSelector")
    vendor = selector.get("vendor") if isinstance(selector, dict) else None
    return vendor in (None, "", MELLANOX)


def judge_policy(spec: Mapping[str, object]) -> tuple[list[str], list[str]]:
    """Return (faults, warnings) of a SriovNetworkNodePolicy for InfiniBand: what matters to the VFs of its pods."""
    faults, warnings = [], []
    if not spec.get("resourceName"):
        faults.append("spec.resourceName is missing: the device plugin offers nothing")
    if not spec.get("linkType"):
        warnings.append("spec.linkType is not set: a port whose firmware says Ethernet stays Ethernet; set it to ib")
    if spec.get("deviceType") == "vfio-pci":
        if spec.get("isRdma") is True:
            faults.append("spec.deviceType vfio-pci and spec.isRdma true exclude each other: the operator refuses them")
        else:
            text = "the VFs are passed through to virtual machines; a pod gets no interface and no RDMA device"
            warnings.append(f"spec.deviceType is vfio-pci: {text}")
    elif spec.get("isRdma") is not True:
        warnings.append("spec.isRdma is not true: the pods get no /dev/infiniband, and cannot open the RDMA device")
    if str(spec.get("eSwitchMode") or "") == "switchdev":
        warnings.append("spec.eSwitchMode is switchdev, which is for Ethernet: leave it out")
    number = spec.get("numVfs")
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        warnings.append("spec.numVfs is not a positive number: there are no VFs")
        number = 0
    faults += _judge_selector(spec.get("nicSelector"), number)
    return faults, warnings


def _judge_selector(selector: object, number: int) -> list[str]:
    fields = ("vendor", "deviceID", "rootDevices", "pfNames", "netFilter")
    if not isinstance(selector, dict) or not any(selector.get(field) for field in fields):
        return [f"spec.nicSelector must have one of {', '.join(fields)}"]
    names = selector.get("pfNames")
    faults = []
    for name in names if isinstance(names, list) else []:
        pf, mark, part = str(name).partition("#")
        if not mark:
            continue
        first, _, last = part.partition("-")
        if not pf or not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
            faults.append(f"spec.nicSelector.pfNames must be names of PFs, or as ib0#0-3 (got {str(name)[:80]!r})")
        elif number and int(last) >= number:
            faults.append(f"spec.nicSelector.pfNames: {str(name)[:80]} goes beyond VF {number - 1}, the last of numVfs")
    return faults
