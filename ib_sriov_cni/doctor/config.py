"""Checks of the CNI configurations that name us, and of Multus's. No I/O."""

from __future__ import annotations

from ib_sriov_cni.delegation.ipam_plugin import BUNDLED
from ib_sriov_cni.doctor.check import Checks, fail, note, ok, skip, warn
from ib_sriov_cni.doctor.report import count, shorten

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ib_sriov_cni.doctor.check import Outcome, Seen
    from ib_sriov_cni.doctor.facts import ConfigFacts

checks = Checks()
RUNTIME_FOLDER = "/etc/cni/net.d"
GIVE_THEM = "kubectl get net-attach-def -A -o yaml > nad.yaml; ib-sriov doctor --config nad.yaml"


@checks.add(
    "config",
    "Every configuration that names us is without fault",
    "Looked at: /etc/cni/net.d, /etc/cni/multus/net.d, the configurations in records, and what `--config` names. "
    "NetworkAttachmentDefinitions are in the cluster, not on the node: `kubectl get net-attach-def -A -o yaml` gives "
    "them. docs/configuration.md has the keys, docs/ipam.md those of `ipam`.",
)
def look_at_configs(seen: Seen) -> Iterator[Outcome]:
    config = seen.config
    for network in config.networks:
        for fault in network.faults:
            yield fail(f"{network.origin}: {fault}", "ib-sriov config explains it; docs/configuration.md, docs/ipam.md")
        for words in network.unknown:
            yield warn(f"{network.origin}: {words}", "a typing error? ib-sriov config explains the keys")
    for file in config.broken:
        hint = "correct it; until then runtime and Multus cannot read it either"
        yield fail(f"{file.path}: {file.reason}", hint) if file.ours else warn(f"{file.path}: {file.reason}", hint)
    if config.unread:
        yield skip(f"not read, run as root: {shorten(list(config.unread))}")
    if any(network.faults or network.unknown for network in config.networks) or config.broken or config.unread:
        return
    if config.networks:
        yield ok(f"{count(len(config.networks), 'configuration')} without fault: {shorten(_names(config))}")
    else:
        yield note("no configuration on this node names ib-sriov; those of the cluster are not seen", GIVE_THEM)


def _names(config: ConfigFacts) -> list[str]:
    return list(dict.fromkeys([network.name for network in config.networks]))


@checks.add(
    "config-guid",
    "No configuration gives one GUID to every pod",
    "`guid` in a network configuration is the same for each of its pods: the second one is refused. Leave it out, or "
    "give each pod its own by the annotation (`infiniband-guid`, `cni-args`) or ib-kubernetes.",
)
def look_at_fixed_guids(seen: Seen) -> Iterator[Outcome]:
    fixed = [network for network in seen.known_config.networks if network.guid]
    for network in fixed:
        yield note(
            f"network {network.name} names a GUID: one pod at a time can have it",
            "leave it out, or give each pod its own (docs/guids.md)",
        )
    if not fixed:
        yield ok("no configuration here gives one GUID to all its pods")


@checks.add(
    "config-names",
    "No two configurations have one name and differ",
    "A network's name is what its records and leases go by. Two that share it and differ in addresses or isolation "
    "disturb each other. Give each its own `name`.",
)
def look_at_names(seen: Seen) -> Iterator[Outcome]:
    found: dict[str, set[tuple[object, ...]]] = {}
    for network in seen.known_config.networks:
        shape = (network.isolation, network.ipam_type, network.pkey, network.state_dir, network.data_dir)
        found.setdefault(network.name, set()).add(shape)
    double = [name for name, shapes in found.items() if len(shapes) > 1]
    if double:
        yield warn(
            f"configurations of one name that differ: {shorten(double)}",
            "give each network its own name; or pods still run with an older one",
        )
    elif found:
        yield ok("each network here has one configuration")


@checks.add(
    "ipam-plugin",
    "The IPAM plugins that configurations name are in CNI_PATH",
    "host-local is bundled. Any other (`whereabouts`) is a program of its own: install it in the folder of the CNI "
    "plugins, or set ipam.type to host-local.",
)
def look_at_ipam(seen: Seen) -> Iterator[Outcome]:
    networks = [network for network in seen.known_config.networks if not network.faults]
    wanted = list(dict.fromkeys([net.ipam_type for net in networks if net.ipam_type not in {"", BUNDLED}]))
    missing = [kind for kind in wanted if kind not in seen.node.programs]
    for kind in missing:
        yield fail(f"IPAM plugin {kind} is not in CNI_PATH", "install it there, or use the bundled host-local")
    if not missing:
        yield ok(f"IPAM plugins are there: {', '.join(wanted)}" if wanted else "no IPAM plugin but the bundled one")


@checks.add(
    "log-file",
    "Log files that configurations name can be written",
    "A log that cannot be written costs no pod, but the next fault leaves no trace. Make its folder; it must be no "
    "symbolic link.",
)
def look_at_logs(seen: Seen) -> Iterator[Outcome]:
    for path, reason in seen.node.log_folders:
        yield warn(f"logFile {path}: {reason}", "make its folder, or change logFile; lines are lost meanwhile")
    if not seen.node.log_folders:
        named = list(dict.fromkeys([network.log_file for network in seen.known_config.networks if network.log_file]))
        yield ok(f"logFile: {shorten(named)}" if named else "no configuration here names a logFile")


@checks.add(
    "multus",
    "Multus is there, and the runtime's first configuration is its",
    "The runtime takes the first file by name in /etc/cni/net.d: Multus's must be it (00-multus.conf), else no pod "
    "gets net1. `multus` (thin) or `multus-shim` (thick) must be in the folder of the CNI plugins; the shim needs the "
    "daemon's socket below /run/multus (`kubectl -n kube-system get pods | grep multus`). A kubeconfig that its "
    "configuration names must be there.",
)
def look_at_multus(seen: Seen) -> Iterator[Outcome]:
    programs, configured = seen.node.multus, seen.config.multus
    if not programs and not configured:
        yield note(
            "Multus is not on this node: pods get no second interface by it",
            f"install it for net1 beside eth0; a runtime that calls ib-sriov from {RUNTIME_FOLDER} needs none",
        )
        return
    bad = False
    names = [path.rpartition("/")[2] for path in programs]
    for path, conf in configured:
        kind = str(conf.get("type"))
        if kind not in names:
            bad = True
            yield fail(f"{path} wants {kind}, which is not in CNI_PATH", "is the Multus DaemonSet up on this node?")
        elif kind == "multus-shim" and not seen.node.multus_socket:
            bad = True
            yield fail("multus-shim finds no daemon: no socket in /run/multus", "kubectl -n kube-system get pods")
        if seen.config.files and path.rpartition("/")[2] != seen.config.files[0] and path.startswith(RUNTIME_FOLDER):
            bad = True
            yield warn(
                f"{path} is not the first in {RUNTIME_FOLDER}: {seen.config.files[0]} is",
                "the runtime takes the first by name: rename one of them",
            )
    if seen.config.multus_missing:
        bad = True
        yield fail(
            f"the kubeconfig of Multus is not there: {shorten(seen.config.multus_missing)}",
            "its DaemonSet writes it beside its configuration: is it up on this node?",
        )
    if not configured:
        yield warn(
            f"{shorten(names)} is there, and no configuration in {RUNTIME_FOLDER} names it",
            "is the Multus DaemonSet up on this node? it writes 00-multus.conf",
        )
    elif not bad:
        yield ok(f"{shorten(names)}, configured by {shorten([path for path, _ in configured])}")
