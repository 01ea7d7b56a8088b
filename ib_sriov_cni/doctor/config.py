"""Checks of the CNI configurations of type ib-sriov, and of Multus's. No I/O."""

from __future__ import annotations

from ib_sriov_cni.delegation.ipam_plugin import BUNDLED
from ib_sriov_cni.doctor.check import Checks, fail, note, ok, skip, warn
from ib_sriov_cni.doctor.facts import RUNTIME_FOLDER
from ib_sriov_cni.doctor.report import render_count, render_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ib_sriov_cni.doctor.check import Facts, Outcome
    from ib_sriov_cni.doctor.facts import ConfigFacts

checks = Checks()
USE_CONFIG_OPTION = "kubectl get net-attach-def -A -o yaml > nad.yaml; ib-sriov doctor --config nad.yaml"


@checks.add(
    "config",
    "Every configuration of type ib-sriov is valid",
    "Checks those in /etc/cni/net.d, /etc/cni/multus/net.d and the records, and those passed with `--config`, with the "
    "node-wide defaults of /etc/ib-sriov/defaults.json, whose faults it reports too. "
    "NetworkAttachmentDefinitions are in the cluster, not on the node: `kubectl get net-attach-def -A -o yaml` prints "
    "them. docs/configuration.md explains the keys, docs/ipam.md those of `ipam`.",
)
def check_configs(facts: Facts) -> Iterator[Outcome]:
    config = facts.config
    for network in config.networks:
        for fault in network.faults:
            yield fail(f"{network.origin}: {fault}", "see ib-sriov config explain, docs/configuration.md, docs/ipam.md")
        for warning in network.unknown:
            yield warn(f"{network.origin}: {warning}", "a typo? ib-sriov config explain lists the keys")
    for file in config.broken:
        hint = "correct it: the runtime and Multus cannot read it either"
        yield fail(f"{file.path}: {file.reason}", hint) if file.ours else warn(f"{file.path}: {file.reason}", hint)
    if config.unread:
        yield skip(f"only root can read {render_names(list(config.unread))}", "run as root")
    if any(network.faults or network.unknown for network in config.networks) or config.broken or config.unread:
        return
    if config.networks:
        yield ok(f"{render_count(len(config.networks), 'valid configuration')}: {render_names(_network_names(config))}")
    else:
        yield note(
            "no configuration of type ib-sriov on this node; those in the cluster were not checked", USE_CONFIG_OPTION
        )


def _network_names(config: ConfigFacts) -> list[str]:
    return list(dict.fromkeys([network.name for network in config.networks]))


@checks.add(
    "config-guid",
    "No configuration gives the same GUID to every pod",
    "`guid` in a network configuration applies to each of its pods, so the second pod is refused. Leave it out, or "
    "give each pod its own GUID with an annotation (`infiniband-guid`, `cni-args`) or ib-kubernetes.",
)
def check_fixed_guids(facts: Facts) -> Iterator[Outcome]:
    fixed = [network for network in facts.readable_config.networks if network.guid]
    for network in fixed:
        yield note(
            f"network {network.name} sets a GUID, so it serves only one pod at a time",
            "leave it out, or give each pod its own (docs/guids.md)",
        )
    if not fixed:
        yield ok("no configuration here gives the same GUID to every pod")


@checks.add(
    "config-names",
    "No two different configurations have the same name",
    "Records and leases are kept under the network's name. Two networks that share a name but differ in addresses or "
    "isolation interfere with each other. Give each its own `name`.",
)
def check_names(facts: Facts) -> Iterator[Outcome]:
    found: dict[str, set[tuple[object, ...]]] = {}
    for network in facts.readable_config.networks:
        shape = (network.isolation, network.ipam_type, network.pkey, network.state_dir, network.data_dir)
        found.setdefault(network.name, set()).add(shape)
    ambiguous = [name for name, shapes in found.items() if len(shapes) > 1]
    if ambiguous:
        yield warn(
            f"different configurations with the same name: {render_names(ambiguous)}",
            "give each network its own name; or pods are still running with an older configuration",
        )
    elif found:
        yield ok("each network here has one configuration")


@checks.add(
    "ipam-plugin",
    "The IPAM plugins that configurations name are in CNI_PATH",
    "host-local is bundled. Any other plugin, such as `whereabouts`, is a separate program: install it in the folder "
    "of the CNI plugins, or set ipam.type to host-local.",
)
def check_ipam(facts: Facts) -> Iterator[Outcome]:
    networks = [network for network in facts.readable_config.networks if not network.faults]
    wanted = list(dict.fromkeys([net.ipam_type for net in networks if net.ipam_type not in {"", BUNDLED}]))
    missing = [kind for kind in wanted if kind not in facts.node.programs]
    for kind in missing:
        yield fail(f"IPAM plugin {kind} is not in CNI_PATH", "install it there, or use the bundled host-local")
    if not missing:
        yield ok(
            f"IPAM plugins in CNI_PATH: {', '.join(wanted)}" if wanted else "only the bundled IPAM plugin is needed"
        )


@checks.add(
    "log-file",
    "The log files that configurations name can be written",
    "Pods do not fail if the log cannot be written, but the next error leaves no trace. Create its folder; the file "
    "must not be a symbolic link.",
)
def check_logs(facts: Facts) -> Iterator[Outcome]:
    for path, reason in facts.node.log_folders:
        yield warn(f"logFile {path}: {reason}", "create its folder, or change logFile; until then log lines are lost")
    if not facts.node.log_folders:
        named = list(
            dict.fromkeys([network.log_file for network in facts.readable_config.networks if network.log_file])
        )
        yield ok(f"logFile: {render_names(named)}" if named else "no configuration here names a logFile")


@checks.add(
    "multus",
    "Multus is installed, and the runtime uses its configuration",
    "The runtime uses the first file by name in /etc/cni/net.d. That must be Multus's (00-multus.conf), or no pod gets "
    "net1. `multus` (thin) or `multus-shim` (thick) must be in the folder of the CNI plugins; the shim needs the "
    "daemon's socket below /run/multus (`kubectl -n kube-system get pods | grep multus`). The kubeconfig that Multus's "
    "configuration names must exist.",
)
def check_multus(facts: Facts) -> Iterator[Outcome]:
    programs, configured = facts.node.multus, facts.config.multus
    if not programs and not configured:
        yield note(
            "Multus is not on this node, so pods get no second interface from it",
            f"install it to give pods net1 besides eth0; not needed if the runtime uses ib-sriov in {RUNTIME_FOLDER}",
        )
        return
    bad = False
    names = [path.rpartition("/")[2] for path in programs]
    for path, conf in configured:
        kind = str(conf.get("type"))
        if kind not in names:
            bad = True
            yield fail(
                f"{path} needs {kind}, which is not in CNI_PATH", "is the Multus DaemonSet running on this node?"
            )
        elif kind == "multus-shim" and not facts.node.multus_socket:
            bad = True
            yield fail(
                "multus-shim cannot reach its daemon: no socket in /run/multus", "kubectl -n kube-system get pods"
            )
        if facts.config.files and path.rpartition("/")[2] != facts.config.files[0] and path.startswith(RUNTIME_FOLDER):
            bad = True
            yield warn(
                f"{path} is not the first file in {RUNTIME_FOLDER}: {facts.config.files[0]} is",
                "the runtime uses the first file by name: rename one of them",
            )
    if facts.config.multus_missing:
        bad = True
        yield fail(
            f"the kubeconfig of Multus does not exist: {render_names(facts.config.multus_missing)}",
            "the Multus DaemonSet writes it next to its configuration: is it running on this node?",
        )
    if not configured:
        yield warn(
            f"{render_names(names)} is installed, but no configuration in {RUNTIME_FOLDER} names it",
            "is the Multus DaemonSet running on this node? It writes 00-multus.conf",
        )
    elif not bad:
        yield ok(f"{render_names(names)}, configured in {render_names([path for path, _ in configured])}")
