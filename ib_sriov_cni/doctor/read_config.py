"""Facts of the configurations that name us: on the node, in records of live attachments, and given by hand.

Where configurations are found::

    /etc/cni/net.d/*.conf, *.conflist, *.json       what the runtime reads, the first by name alone
    /etc/cni/multus/net.d/                          what Multus reads for a NetworkAttachmentDefinition without config
    files and folders given by hand                 CNI configurations or NetworkAttachmentDefinitions, JSON or YAML

Every configuration is read by the plugin's own parsers, as an ADD would read it but for the VF.
"""

from __future__ import annotations

import os

from ib_sriov_cni.core.configuration import parse_netconf
from ib_sriov_cni.core.errors import CniError
from ib_sriov_cni.delegation.ipam_plugin import BUNDLED
from ib_sriov_cni.doctor.bounded import describe
from ib_sriov_cni.doctor.facts import BrokenFile, ConfigFacts, Network, Pool
from ipam.host_local.config import parse_place, parse_settings
from ipam.host_local.ranges import range_of, render_set
from ipam.host_local.slices import cut_sets, find_slice
from ipam.host_local.store import is_exhausted, lease_address
from ipam.protocol.fastjson import dumps, loads
from ipam.protocol.request import parse_request
from ipam.protocol.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ib_sriov_cni.doctor.facts import Options, Roots
    from ipam.host_local.config import Settings
    from ipam.protocol.request import Request

RUNTIME_FOLDER, MULTUS_FOLDER = "/etc/cni/net.d", "/etc/cni/multus/net.d"
STATE_FOLDER = "/var/lib/cni/ib-sriov"
ENDINGS = (".conf", ".conflist", ".json")
GIVEN_ENDINGS = (*ENDINGS, ".yaml", ".yml")
TYPE = "ib-sriov"
MULTUS = ("multus", "multus-shim")
LIMIT = 1 << 20  # bytes of a configuration
MOST_COUNTED = 1 << 20  # addresses of a pool that are counted one by one
# What an ADD without Multus would be called with; the names say nothing here.
ENVIRON = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "doctor", "CNI_IFNAME": "net1", "CNI_PATH": "/opt/cni/bin"}


class _Found:
    """What is collected on the way."""

    def __init__(self) -> None:
        self.confs: list[tuple[str, dict[str, object]]] = []  # origin, configuration of one plugin of our type
        self.broken: list[BrokenFile] = []
        self.unread: list[str] = []
        self.multus: list[tuple[str, dict[str, object]]] = []


def read_configs(roots: Roots, options: Options) -> ConfigFacts:
    """Read every configuration there is."""
    found = _Found()
    files = _names(roots.path(RUNTIME_FOLDER), ENDINGS)
    for folder in (RUNTIME_FOLDER, MULTUS_FOLDER):
        if os.path.isdir(roots.path(folder)) and not os.access(roots.path(folder), os.R_OK | os.X_OK):
            found.unread.append(folder)
        for name in _names(roots.path(folder), ENDINGS):
            _read_file(found, roots.path(f"{folder}/{name}"), f"{folder}/{name}", given=False)
    for path in options.config_files:
        for each in _expand(path):
            _read_file(found, each, each, given=True)
    _read_records(found, roots)
    pools: dict[str, list[Pool]] = {}
    slice_faults: dict[tuple[str, str], None] = {}
    slices: dict[str, None] = {}
    networks = []
    for origin, conf in found.confs:
        network, request = _parse(origin, conf)
        if options.unknown_keys:
            network = replace(network, unknown=tuple(options.unknown_keys(conf)))
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
        given=bool(options.config_files),
        files=tuple(files),
        multus=tuple(found.multus),
        multus_missing=tuple(_missing(roots, found)),
        pools=tuple([pool for each in pools.values() for pool in each]),
        slice_faults=tuple(slice_faults),
        slices=tuple(slices),
    )


def _missing(roots: Roots, found: _Found) -> list[str]:
    named = [conf.get("kubeconfig") for _, conf in found.multus]
    return [path for path in named if isinstance(path, str) and path and not os.path.lexists(roots.path(path))]


def _names(folder: str, endings: tuple[str, ...]) -> list[str]:
    try:
        return sorted([name for name in os.listdir(folder) if name.endswith(endings)])
    except OSError:
        return []


def _expand(path: str) -> list[str]:
    """A folder stands for the configurations in it."""
    if os.path.isdir(path):
        return [f"{path}/{name}" for name in _names(path, GIVEN_ENDINGS)]
    return [path]


def _read_text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read(LIMIT)


def _read_file(found: _Found, path: str, shown: str, *, given: bool) -> None:
    try:
        text = _read_text(path)
    except PermissionError:
        found.unread.append(shown)
        return
    except (OSError, UnicodeDecodeError) as fault:
        reason = "not UTF-8" if isinstance(fault, UnicodeDecodeError) else describe(fault)
        found.broken.append(BrokenFile(path=shown, reason=reason, ours=given))
        return
    try:
        documents = parse_documents(text, yaml=path.endswith((".yaml", ".yml")))
        confs = [pair for document in documents for pair in _unwrap(shown, document)]
    except ValueError as fault:
        found.broken.append(BrokenFile(path=shown, reason=str(fault), ours=given or TYPE in text))
        return
    for origin, conf in confs:
        if conf.get("type") == TYPE:
            found.confs.append((origin, conf))
        elif conf.get("type") in MULTUS:
            found.multus.append((shown, conf))
            delegates = conf.get("delegates")
            nested = [item for item in delegates if isinstance(item, dict)] if isinstance(delegates, list) else []
            found.confs += [
                (origin, item) for each in nested for origin, item in _plugins(shown, each) if item.get("type") == TYPE
            ]


def parse_documents(text: str, *, yaml: bool) -> list[object]:
    """Give the JSON document, or the YAML documents, of a text. ValueError says what is wrong."""
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
    """Give the plugins of a configuration, a list of plugins, a definition, or a List of definitions."""
    if not isinstance(document, dict):
        raise ValueError("not an object")  # noqa: TRY004  # of the document, not of the program
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
        return  # Multus takes the one of that name from its folder
    origin = f"{shown} ({name})"
    try:
        inner = loads(text)
    except ValueError as fault:
        raise ValueError(f"spec.config of {name} is not JSON: {fault}") from None
    if not isinstance(inner, dict):
        raise ValueError(f"spec.config of {name} is not an object")  # noqa: TRY004  # likewise
    if isinstance(name, str):
        inner.setdefault("name", name)  # as Multus does
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
    """Records hold the configuration that their attachment was made by; each once."""
    seen: set[str] = set()
    base = roots.path(f"{STATE_FOLDER}/attachments")
    for network in sorted(_list(base)):
        for name in sorted(_list(f"{base}/{network}")):
            try:
                doc = loads(_read_text(f"{base}/{network}/{name}"))
            except (OSError, ValueError):
                continue  # the checks of records tell
            conf = doc.get("conf") if isinstance(doc, dict) else None
            if not isinstance(doc, dict) or not isinstance(conf, dict):
                continue
            bare = {key: item for key, item in conf.items() if key not in _OF_ONE_POD}
            text = dumps(bare)
            if text not in seen:
                seen.add(text)
                found.confs.append((f"the record of {doc.get('pod') or name[:12]}", bare))


# What Multus and the runtime put into the configuration for one pod.
_OF_ONE_POD = frozenset(("deviceID", "pciBusID", "runtimeConfig", "args", "prevResult"))


def _list(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _parse(origin: str, conf: dict[str, object]) -> tuple[Network, Request | None]:
    """Read a configuration as an ADD would, with every fault; the request only if there is none."""
    name = conf.get("name") if isinstance(conf.get("name"), str) else ""
    try:
        request = parse_request(ENVIRON, dumps(conf).encode(), known_args=frozenset())
    except (CniError, ValueError) as fault:
        words = fault.msg if isinstance(fault, CniError) else str(fault)
        return Network(origin=origin, name=str(name), faults=(words,)), None
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
    guid = conf.get("guid")
    network = Network(
        origin=origin,
        name=parsed.name,
        faults=tuple(faults),
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
    """Count the addresses of this node. CniError if its slice is not known."""
    sets = settings.sets
    if settings.slices:
        sets = cut_sets(sets, find_slice(settings.slices, lambda path: _read_text(roots.path(path))))
    place = replace(settings.place, data_dir=roots.path(settings.place.data_dir))
    leased = [lease_address(name) for name in _list(f"{place.data_dir}/{place.network}")]
    pools = []
    for index, range_set in enumerate(sets):
        gateways = {part.gateway for part in range_set}
        inside = [gateway for gateway in gateways if range_of(range_set, gateway)]
        size = sum(part.end - part.start + 1 for part in range_set) - len(inside)
        used = sum(address is not None and range_of(range_set, address) is not None for address in leased)
        # A set with room cannot be exhausted, and a large one takes long to be gone through.
        exhausted = used >= size and (size > MOST_COUNTED or is_exhausted(place, index, range_set))
        pools.append(
            Pool(network=place.network, ranges=render_set(range_set), size=size, used=used, exhausted=exhausted)
        )
    return pools
