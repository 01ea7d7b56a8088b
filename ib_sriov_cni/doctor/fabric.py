"""Checks of the fabric as firmware and kernel report it: ports, subnet manager, P_Keys, RDMA namespace mode. No I/O."""

from __future__ import annotations

from ib_sriov_cni.core.values import normalize_pkey
from ib_sriov_cni.doctor.check import Checks, fail, note, ok, skip, warn
from ib_sriov_cni.doctor.hca import serving_pfs
from ib_sriov_cni.doctor.report import render_count, render_names
from ib_sriov_cni.doctor.topics import TOPICS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ib_sriov_cni.doctor.check import Facts, Outcome
    from ib_sriov_cni.doctor.facts import Hca, HcaVf, Network, PortFacts

checks = Checks()
PORT_HINTS = {
    "DOWN": "check cable, transceiver, switch port (ibstat, mlxlink); after a reset the link takes some seconds",
    "INIT": "the link is up, but no subnet manager has configured it: is opensm (or UFM, or the switch's) running?",
    "ARMED": "the subnet manager has started to configure the port but not finished: see its log",
}
LONE_HINTS = {
    **PORT_HINTS,
    "DOWN": "the machine that has its PF decides: the VF's link state and GUID there, and the subnet manager",
}
VIRTUALIZATION = (
    "opensm.conf: virt_enabled 2; a distribution's opensm cannot do it for ConnectX-4 and later: use MLNX_OFED's, UFM, "
    "or an NVIDIA switch's"
)
SM_HINT = (
    "is opensm (or UFM, or the switch's) running, and its port up? try sminfo, saquery -c; new pods get no carrier"
)
SET_MODE = "options ib_core netns_mode=0 in /etc/modprobe.d, then reboot (docs/configuration.md)"
NO_ISOLATION = "its pods get no RDMA device: set rdmaIsolation in the network, or set the mode back to shared"
RDMA_MODE = "RDMA namespace mode"


@checks.add(
    "answers",
    "Kernel, driver and firmware answer in time",
    "Everything is read in separate processes with a deadline (`--timeout`). A process that does not return is waiting "
    "in the driver: see `dmesg` (mlx5_core: timeouts, health) and `devlink health`; reset the HCA or reboot. On a "
    "machine that is slow at the moment, which is measured, the deadline is up to 20 times longer.",
)
def check_answers(facts: Facts) -> Iterator[Outcome]:
    for topic in facts.all.hung:
        yield fail(
            f"no answer within {facts.all.seconds:g} s: {TOPICS[topic]}",
            "the driver or firmware hangs: see dmesg, devlink health; if the machine is just slow: --timeout",
        )
    broken = [topic for topic in facts.all.unread if topic not in facts.all.hung]
    for topic in broken:
        yield skip(f"not read: {TOPICS[topic]}: {facts.all.unread[topic]}")
    if not facts.all.unread:
        yield ok("everything answered in time")


@checks.add(
    "pf-port",
    "Each PF's port is ACTIVE",
    "DOWN: cable, transceiver, switch port (`ibstat`, `mlxlink -d <PCI address>`). INIT: there is a link, but no "
    "subnet manager has configured the port. As long as it is not active, no VF's port can be. VFs without a PF on "
    "this machine are looked at themselves.",
)
def check_port(facts: Facts) -> Iterator[Outcome]:
    ports = [(hca.label, hca.rdma, PORT_HINTS) for hca in serving_pfs(facts)]
    ports += [(f"VF {vf.pci} without a PF", vf.rdma, LONE_HINTS) for vf in facts.hca.lone if vf.rdma_here]
    for label, rdma, hints in ports:
        port = facts.ports.get(rdma)
        if port is None or not port.state:
            yield skip(f"{label}: its port reports no state")
        elif port.is_active:
            yield ok(f"{label}: port ACTIVE, LID {port.lid}")
        else:
            physical = f" ({port.physical})" if port.physical else ""
            yield fail(f"{label}: port {port.state}{physical}", hints.get(port.state, "see ibstat and the kernel log"))


@checks.add(
    "sm",
    "The subnet manager answers",
    "The doctor queries the subnet administrator (ClassPortInfo) at the LID that the PF's port names; this needs root "
    "and ib_umad. If it does not answer, no netdev can join its multicast groups, and net1 gets no carrier. `sminfo` "
    "and `saquery -c` test the same. Start opensm, or check UFM or the switch that runs the subnet manager.",
)
def check_sm(facts: Facts) -> Iterator[Outcome]:
    for hca in serving_pfs(facts):
        port = facts.ports.get(hca.rdma)
        if port is None or not port.is_active:
            continue
        if not port.sm_lid:
            yield fail(f"{hca.label}: the port knows no subnet manager (SM LID 0)", SM_HINT)
            continue
        answer = facts.sm.get(hca.rdma)
        where = f"{hca.label}: the subnet manager at LID {port.sm_lid}"
        if answer is None or not answer.asked:
            yield skip(f"{where} was not asked: {answer.fault if answer else 'no umad device'}")
        elif answer.fault:
            yield fail(f"{where} does not answer ({answer.fault})", SM_HINT)
        else:
            yield ok(f"{where} answers")


@checks.add(
    "carrier",
    "Each PF's netdev has a carrier if it is up",
    "An IPoIB netdev has a carrier once it has joined its broadcast group. If the port is ACTIVE and there is no "
    "carrier, the subnet manager did not answer, the netdev's P_Key is not in the port's table, or the partition has "
    "no IPoIB group (opensm's partitions.conf: `ipoib`).",
)
def check_carrier(facts: Facts) -> Iterator[Outcome]:
    for hca in serving_pfs(facts):
        port = facts.ports.get(hca.rdma)
        if not (hca.netdev and hca.netdev.up and port and port.is_active):
            continue
        if hca.netdev.carrier:
            yield ok(f"{hca.label} has a carrier")
        else:
            yield warn(
                f"{hca.label} has no carrier: it has not joined its broadcast group",
                "see the subnet manager (check sm), its partitions.conf (ipoib), the port's P_Keys",
            )


@checks.add(
    "sm-virt",
    "The subnet manager brings up the VFs' ports (virtualization)",
    "If the PF's port is ACTIVE, so must be that of each VF with a GUID, a driver and a link state other than "
    "`disable`. If none is, the subnet manager does not serve VFs' ports: set `virt_enabled 2` in opensm.conf. The "
    "opensm of Linux distributions cannot do it for ConnectX-4 and later; use the opensm of MLNX_OFED or DOCA, UFM, or "
    "the subnet manager of an NVIDIA switch. If only some are not, it is slow, or see the kernel log. As long as no VF "
    "has a GUID and no pod has one, this cannot be told: the first pod shows it, or a VF with a GUID (docs/guids.md).",
)
def check_virtualization(facts: Facts) -> Iterator[Outcome]:
    for hca in serving_pfs(facts):
        port = facts.ports.get(hca.rdma)
        if port is None or not port.is_active:
            continue
        able = [vf for vf in hca.vfs if _should_be_active(facts, hca, vf)]
        down = [vf for vf in able if not facts.ports[vf.rdma].is_active]
        if not able and (used := _vfs_in_pods(facts, hca)):
            yield ok(
                f"{hca.label}: no free VF has a GUID; those of {render_count(used, 'VF')} in pods were ACTIVE at ADD"
            )
        elif not able and hca.vfs:
            yield note(
                f"{hca.label}: no VF has a GUID, so whether the subnet manager serves VFs' ports is not known",
                "the first pod shows it: if its port stays DOWN, see --explain sm-virt (opensm: virt_enabled 2)",
            )
        elif not able:
            continue
        elif not down:
            yield ok(f"{hca.label}: {render_count(len(able), 'VF')} with a GUID, all ports are ACTIVE")
        else:
            words = render_names([f"{vf.pci} {facts.ports[vf.rdma].state}" for vf in down])
            text = f"{hca.label}: {len(down)} of {len(able)} VFs with a GUID have no active port: {words}"
            if len(down) == len(able):
                yield fail(text, VIRTUALIZATION)
            else:
                yield warn(text, "others are ACTIVE, so it is slow, or these have a fault: see its log and dmesg")


def _vfs_in_pods(facts: Facts, hca: Hca) -> int:
    """Return how many of its VFs have a live attachment."""
    records = facts.all.state.records if facts.all.state else ()
    return len({record.pci for record in records if record.alive} & {str(vf.pci) for vf in hca.vfs})


def _should_be_active(facts: Facts, hca: Hca, vf: HcaVf) -> bool:
    if not (vf.rdma_here and vf.driver and vf.port_guid and not vf.port_guid.fault and vf.rdma in facts.ports):
        return False
    config = facts.vf_configs.get(str(hca.pci), {}).get(vf.index)
    return config is None or config.link_state != "disable"


@checks.add(
    "verbs",
    "libibverbs can open an RDMA device",
    "Opens one PF and one VF in the host's namespace, as ADD's verification does. This needs pyverbs, the HCA's "
    "provider library (rdma-core: libmlx5), ib_uverbs and the nodes in /dev/infiniband; the packaged program contains "
    "the libraries.",
)
def check_verbs(facts: Facts) -> Iterator[Outcome]:
    if not facts.hca.groups:
        return
    if not facts.node.root:
        yield skip("RDMA devices were not opened: only root can")
        return
    for found in facts.verbs.values():
        if isinstance(found, str):
            yield fail(
                found, "check pyverbs, the HCA's provider library (rdma-core), ib_uverbs, /dev/infiniband, dmesg"
            )
    good = [name for name, found in facts.verbs.items() if not isinstance(found, str)]
    if good:
        yield ok(f"libibverbs can open {' and '.join(good)}")


@checks.add(
    "pkeys",
    "The P_Keys that configurations ask for are in the ports' tables",
    "The subnet manager fills the tables from its partitions (opensm's partitions.conf, with the VFs' port GUIDs or "
    "`ALL`). If a `pkey` is in no table, every ADD of that network fails with code 103.",
)
def check_pkeys(facts: Facts) -> Iterator[Outcome]:
    wanted = {network.pkey: network for network in facts.config.networks if network.pkey is not None}
    for pkey, network in sorted(wanted.items()):
        yield from _check_pkey(facts, pkey, network)
    if wanted:
        return
    for hca in serving_pfs(facts):
        port = facts.ports.get(hca.rdma)
        if port is None or not port.is_active:
            continue
        table = [pkey for pkey in port.pkeys if pkey]
        if table:
            yield ok(f"{hca.label}: {render_names([f'{pkey:#06x}' for pkey in table])}; no configuration asks for one")
        else:
            yield warn(
                f"{hca.label}: its P_Key table is empty", "see the subnet manager's partitions (partitions.conf)"
            )


def _check_pkey(facts: Facts, pkey: int, network: Network) -> Iterator[Outcome]:
    vfs = [vf for hca in facts.hca.groups for vf in hca.vfs if vf.rdma_here and _has_table(facts.ports.get(vf.rdma))]
    if not vfs:
        yield skip(
            f"P_Key {pkey:#06x} of network {network.name}: no free VF with an active port to read its table from"
        )
        return
    lacking = [vf for vf in vfs if normalize_pkey(pkey) not in map(normalize_pkey, facts.ports[vf.rdma].pkeys)]
    hint = "add it to the subnet manager's partitions (partitions.conf) for these VFs' port GUIDs"
    if not lacking:
        yield ok(f"P_Key {pkey:#06x} of network {network.name} is in the table of every free VF")
    elif len(lacking) == len(vfs):
        yield fail(f"P_Key {pkey:#06x} of network {network.name} is in no free VF's table, so ADD fails", hint)
    else:
        words = render_names([str(vf.pci) for vf in lacking])
        yield warn(f"P_Key {pkey:#06x} of network {network.name} is not in the table of {words}", hint)


def _has_table(port: PortFacts | None) -> bool:
    return port is not None and port.is_active and any(port.pkeys)


@checks.add(
    "rdma-mode",
    "The RDMA namespace mode suits the configurations",
    "`rdmaIsolation: true` needs the mode exclusive: put `options ib_core netns_mode=0` into /etc/modprobe.d and "
    "reboot (`rdma system set netns exclusive` works only as long as there is no other network namespace). In "
    "exclusive mode, pods of a network without rdmaIsolation get no RDMA device. `rdma system` shows the mode.",
)
def check_mode(facts: Facts) -> Iterator[Outcome]:
    mode = facts.hca.rdma_mode
    if not mode:
        return
    networks = facts.readable_config.networks
    isolated = list(dict.fromkeys([network.name for network in networks if network.isolation]))
    shared = list(dict.fromkeys([network.name for network in networks if not network.isolation]))
    if mode == "shared" and isolated:
        yield fail(f"{RDMA_MODE} is shared, but rdmaIsolation of {render_names(isolated)} needs exclusive", SET_MODE)
    elif mode == "exclusive" and shared:
        yield warn(f"{RDMA_MODE} is exclusive, but {render_names(shared)} does not set rdmaIsolation", NO_ISOLATION)
    elif networks:
        yield ok(f"{RDMA_MODE} is {mode}, as the configurations here need")
    else:
        yield note(
            f"{RDMA_MODE} is {mode}; no configuration here shows whether that is right",
            f"rdmaIsolation: true needs exclusive: {SET_MODE}"
            if mode == "shared"
            else "in this mode, networks need rdmaIsolation: true",
        )
