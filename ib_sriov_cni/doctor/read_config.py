"""Reads the configurations of type ib-sriov: on the node, in records, and in files passed with --config.

Where configurations are found::

    /etc/cni/net.d/*.conf, *.conflist, *.json       what the runtime reads: only the first by name
    /etc/cni/multus/net.d/                          what Multus reads for a NetworkAttachmentDefinition without config
    files and folders passed with --config          CNI configurations or NetworkAttachmentDefinitions, JSON or YAML

The plugin's own parsers read every configuration, as for an ADD except for the VF.
"""

from __future__ import annotations

import os

from ib_sriov_cni.core.configuration import parse_netconf
from ib_sriov_cni.core.errors import CniError
from ib_sriov_cni.core.known_keys import KNOWN
from ib_sriov_cni.delegation.ipam_plugin import BUNDLED
from ib_sriov_cni.doctor.facts import (
    DEFAULT_CNI_PATH,
    MULTUS_FOLDER,
    MULTUS_PROGRAMS,
    PLUGIN,
    RUNTIME_FOLDER,
    BrokenFile,
    ConfigFacts,
    Network,
    Pool,
)
from ib_sriov_cni.doctor.reader_processes import describe_exception
from ib_sriov_cni.state.directory import DEFAULT_STATE_DIR, list_names
from ib_sriov_cni.state.node_defaults import DEFAULTS_FILE, apply_defaults, read_node_defaults
from ipam.host_local.config import parse_place, parse_settings
from ipam.host_local.ranges import range_of, render_set
from ipam.host_local.slices import cut_sets, find_slice
from ipam.host_local.store import is_exhausted, lease_address
from ipam.protocol.bounds import CONFIG_FILE_BYTES, COUNTED_ADDRESSES
from ipam.protocol.fastjson import dumps, loads
from ipam.protocol.request import parse_request
from ipam.protocol.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ib_sriov_cni.doctor.facts import Options, Roots
    from ipam.host_local.config import Settings
    from ipam.protocol.request import Request

RUNTIME_SUFFIXES = (".conf", ".conflist", ".json")
OPTION_SUFFIXES = (*RUNTIME_SUFFIXES, ".yaml", ".yml")
# Enough for the parser of requests; the values do not matter.
ENVIRON = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "doctor", "CNI_IFNAME": "net1", "CNI_PATH": DEFAULT_CNI_PATH}
# What Multus and the runtime add to the configuration for one pod.
POD_KEYS = frozenset(("deviceID", "pciBusID", "runtimeConfig", "args", "prevResult"))


class _Found:
    """What has been found so far."""

    def __init__(self) -> None:
        self.confs: list[tuple[str, dict[str, object]]] = []  # origin, configuration of one plugin
        self.broken: list[BrokenFile] = []
        self.unread: list[str] = []
        self.multus: list[tuple[str, dict[str, object]]] = []


def read_configs(roots: Roots, options: Options) -> ConfigFacts:
    """Return every configuration, and what each of them amounts to on this node."""
    found = _Found()
    files = _list_files(roots.path(RUNTIME_FOLDER), RUNTIME_SUFFIXES)
    for folder in (RUNTIME_FOLDER, MULTUS_FOLDER):
        if os.path.isdir(roots.path(folder)) and not os.access(roots.path(folder), os.R_OK | os.X_OK):
            found.unread.append(folder)
        for name in _list_files(roots.path(folder), RUNTIME_SUFFIXES):
            _read_file(found, roots.path(f"{folder}/{name}"), f"{folder}/{name}", from_option=False)
    for path in options.config_files:
        for each in _expand(path):
            _read_file(found, each, each, from_option=True)
    applied = [_read_defaults(found, roots)] * len(found.confs)  # a record has those of its ADD
    _read_records(found, roots)
    applied += [{}] * (len(found.confs) - len(applied))
    pools: dict[str, list[Pool]] = {}
    slice_faults: dict[tuple[str, str], None] = {}
    slices: dict[str, None] = {}
    networks = []
    for (origin, conf), missing in zip(found.confs, applied, strict=True):
        network, request = _parse_network(origin, conf, missing)
        if options.describe_unknown_keys:
            network = replace(network, unknown=(*network.unknown, *options.describe_unknown_keys(conf)))
        networks.append(network)
        if request is not None and network.ipam_type == BUNDLED and not network.faults:
            settings = parse_settings(request)
            try:
                pools.setdefault(network.name, _read_pools(roots, settings))
            except CniError as fault:
                slice_faults[fault.msg, fault.details] = None
            else:
                if settings.slices:
                    part = find_slice(settings.slices, lambda path: _read_text(roots.path(path)))
                    slices[f"slice {part.index} of {part.count} ({part.origin})"] = None
    return ConfigFacts(
        networks=tuple(networks),
        broken=tuple(found.broken),
        unread=tuple(found.unread),
        files=tuple(files),
        multus=tuple(found.multus),
        multus_missing=tuple(_missing_kubeconfigs(roots, found)),
        pools=tuple([pool for each in pools.values() for pool in each]),
        slice_faults=tuple(slice_faults),
        slices=tuple(slices),
    )


def _read_defaults(found: _Found, roots: Roots) -> dict[str, object]:
    try:
        return read_node_defaults(roots.path(DEFAULTS_FILE))
    except CniError as fault:
        found.broken.append(BrokenFile(path=DEFAULTS_FILE, reason=fault.msg.partition(": ")[2], ours=True))
        return {}


def _missing_kubeconfigs(roots: Roots, found: _Found) -> list[str]:
    named = [conf.get("kubeconfig") for _, conf in found.multus]
    return [path for path in named if isinstance(path, str) and path and not os.path.lexists(roots.path(path))]


def _list_files(folder: str, suffixes: tuple[str, ...]) -> list[str]:
    return [name for name in list_names(folder) if name.endswith(suffixes)]


def _expand(path: str) -> list[str]:
    """Return the path, or the configurations in it if it is a folder."""
    if os.path.isdir(path):
        return [f"{path}/{name}" for name in _list_files(path, OPTION_SUFFIXES)]
    return [path]


def _read_text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read(CONFIG_FILE_BYTES)


def _read_file(found: _Found, path: str, shown: str, *, from_option: bool) -> None:
    try:
        text = _read_text(path)
    except PermissionError:
        found.unread.append(shown)
        return
    except (OSError, UnicodeDecodeError) as fault:
        reason = "not UTF-8" if isinstance(fault, UnicodeDecodeError) else describe_exception(fault)
        found.broken.append(BrokenFile(path=shown, reason=reason, ours=from_option))
        return
    try:
        documents = parse_documents(text, yaml=path.endswith((".yaml", ".yml")))
        confs = [pair for document in documents for pair in _unwrap(shown, document)]
    except ValueError as fault:
        found.broken.append(BrokenFile(path=shown, reason=str(fault), ours=from_option or PLUGIN in text))
        return
    for origin, conf in confs:
        if conf.get("type") == PLUGIN:
            found.confs.append((origin, conf))
        elif conf.get("type") in MULTUS_PROGRAMS:
            found.multus.append((shown, conf))
            delegates = conf.get("delegates")
            nested = [item for item in delegates if isinstance(item, dict)] if isinstance(delegates, list) else []
            found.confs += [
                (origin, item)
                for each in nested
                for origin, item in _plugins(shown, each)
                if item.get("type") == PLUGIN
            ]


def parse_documents(text: str, *, yaml: bool) -> list[object]:
    """Return the JSON document or the YAML documents in a text. Raises ValueError with the reason."""
    if not yaml:
        try:
            return [loads(text)]
        except ValueError as fault:
            raise ValueError(f"not JSON: {fault}") from None
    from yaml import YAMLError, safe_load_all

    try:
        return [document for document in safe_load_all(text) if document is not None]
    except YAMLError as fault:
        raise ValueError(f"not YAML: {' '.join(str(fault).split())}") from None


def _unwrap(shown: str, document: object) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the plugins of a configuration, a list of plugins, a NetworkAttachmentDefinition, or a Kubernetes List."""
    if not isinstance(document, dict):
        raise ValueError("not an object")  # noqa: TRY004  # a fault of the document, not of the program
    if document.get("kind") == "List":
        items = document.get("items")
        for item in items if isinstance(items, list) else []:
            yield from _unwrap(shown, item)
    elif document.get("kind") == "NetworkAttachmentDefinition":
        yield from _unwrap_definition(shown, document)
    elif "kind" not in document:
        yield from _plugins(shown, document)


def _unwrap_definition(shown: str, document: dict[str, object]) -> Iterator[tuple[str, dict[str, object]]]:
    metadata, spec = document.get("metadata"), document.get("spec")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    text = spec.get("config") if isinstance(spec, dict) else None
    if not isinstance(text, str) or not text:
        return  # Multus reads the configuration of that name from its folder
    origin = f"{shown} ({name})"
    try:
        inner = loads(text)
    except ValueError as fault:
        raise ValueError(f"spec.config of {name} is not JSON: {fault}") from None
    if not isinstance(inner, dict):
        raise ValueError(f"spec.config of {name} is not an object")  # noqa: TRY004  # likewise
    if isinstance(name, str):
        inner.setdefault("name", name)  # Multus does the same
    yield from _plugins(origin, inner)


def _plugins(origin: str, conf: dict[str, object]) -> Iterator[tuple[str, dict[str, object]]]:
    plugins = conf.get("plugins")
    if not isinstance(plugins, list):
        yield origin, conf
        return
    inherited: dict[str, object] = {key: conf[key] for key in ("name", "cniVersion") if key in conf}
    for plugin in plugins:
        if isinstance(plugin, dict):
            yield origin, {**plugin, **inherited}


def _read_records(found: _Found, roots: Roots) -> None:
    """Add the configurations that the records contain, each only once."""
    seen: set[str] = set()
    base = roots.path(f"{DEFAULT_STATE_DIR}/attachments")
    for network in list_names(base):
        for name in list_names(f"{base}/{network}"):
            try:
                doc = loads(_read_text(f"{base}/{network}/{name}"))
            except (OSError, ValueError):
                continue  # the check `records` reports it
            conf = doc.get("conf") if isinstance(doc, dict) else None
            if not isinstance(doc, dict) or not isinstance(conf, dict):
                continue
            bare = {key: item for key, item in conf.items() if key not in POD_KEYS}
            text = dumps(bare)
            if text not in seen:
                seen.add(text)
                found.confs.append((f"the record of {doc.get('pod') or name[:12]}", bare))


def _parse_network(origin: str, conf: dict[str, object], defaults: dict[str, object]) -> tuple[Network, Request | None]:
    """Parse a configuration as an ADD would, noting every fault; the request is None if there can be none."""
    name = conf.get("name") if isinstance(conf.get("name"), str) else ""
    try:
        request = parse_request(ENVIRON, dumps(conf).encode(), known_args=frozenset(), names=KNOWN)
    except (CniError, ValueError) as fault:
        text = fault.msg if isinstance(fault, CniError) else str(fault)
        return Network(origin=origin, name=str(name), faults=(text,)), None
    request = apply_defaults(request, defaults)
    faults = []
    try:
        parsed = parse_netconf(request, needs_device=False)
    except CniError as fault:
        faults.append(fault.msg.removeprefix(f"network {name}: "))
        parsed = parse_netconf(request, needs_device=False, lenient=True)
    data_dir = ""
    if parsed.ipam_type == BUNDLED:
        try:
            parse_settings(request)
            data_dir = parse_place(request.conf).data_dir
        except CniError as fault:
            faults.append(fault.msg)
    guid = request.conf.get("guid")
    network = Network(
        origin=origin,
        name=parsed.name,
        faults=tuple(faults),
        unknown=parsed.warnings,
        isolation=parsed.rdma_isolation,
        link_state=parsed.link_state,
        pkey=parsed.pkey,
        ipam_type=parsed.ipam_type,
        ib_kubernetes=parsed.ib_kubernetes,
        log_file=parsed.log_file,
        state_dir=parsed.state_dir,
        data_dir=data_dir,
        guid=guid if isinstance(guid, str) else "",
    )
    return network, request


def _read_pools(roots: Roots, settings: Settings) -> list[Pool]:
    """Count the addresses of each range set that this node allocates from. CniError if its slice is unknown."""
    sets = settings.sets
    if settings.slices:
        sets = cut_sets(sets, find_slice(settings.slices, lambda path: _read_text(roots.path(path))))
    place = replace(settings.place, data_dir=roots.path(settings.place.data_dir))
    leased = [lease_address(name) for name in list_names(f"{place.data_dir}/{place.network}")]
    pools = []
    for index, range_set in enumerate(sets):
        gateways = {part.gateway for part in range_set}
        inside = [gateway for gateway in gateways if range_of(range_set, gateway)]
        size = sum(part.end - part.start + 1 for part in range_set) - len(inside)
        used = sum(address is not None and range_of(range_set, address) is not None for address in leased)
        # A set with free addresses cannot be exhausted, and going through a large one takes long.
        exhausted = used >= size and (size > COUNTED_ADDRESSES or is_exhausted(place, index, range_set))
        pools.append(
            Pool(network=place.network, ranges=render_set(range_set), size=size, used=used, exhausted=exhausted)
        )
    return pools
