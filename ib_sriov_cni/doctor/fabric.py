"""Checks of what firmware and fabric say: ports, the subnet manager, P_Keys, the RDMA namespace mode. No I/O."""

from __future__ import annotations

from ib_sriov_cni.core.values import normalize_pkey
from ib_sriov_cni.doctor.check import Checks, fail, note, ok, skip, warn
from ib_sriov_cni.doctor.hca import serving
from ib_sriov_cni.doctor.report import count, shorten
from ib_sriov_cni.doctor.topics import TOPICS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ib_sriov_cni.doctor.check import Outcome, Seen
    from ib_sriov_cni.doctor.facts import Hca, Network, PortFacts, VfFacts

checks = Checks()
ACTIVE = "ACTIVE"
PORT_HINTS = {
    "DOWN": "cable, transceiver, switch port? ibstat, mlxlink; after a reset the link takes some seconds",
    "INIT": "the link is up, and no subnet manager has configured it: is opensm (or UFM, the switch's) running?",
    "ARMED": "the subnet manager has begun and not ended: see its log",
}
SM_HINT = "is opensm (UFM, the switch's) running and its port up? sminfo; saquery -c. New pods get no carrier"
SET_MODE = "options ib_core netns_mode=0 in /etc/modprobe.d, then reboot (docs/configuration.md)"
NO_ISOLATION = "these pods get no RDMA device: set rdmaIsolation in their network, or the mode back to shared"
MODE_WORDS = "RDMA namespace mode"


@checks.add(
    "answers",
    "Kernel, driver and firmware answer in time",
    "What is read is read in processes of its own with a deadline (`--timeout`). One that does not come back waits in "
    "the driver: `dmesg` (mlx5_core: timeouts, health), `devlink health`; reset the HCA or reboot. On a slow machine a "
    "larger `--timeout` tells.",
)
def look_at_answers(seen: Seen) -> Iterator[Outcome]:
    for topic in seen.facts.hung:
        yield fail(
            f"no answer within {seen.facts.seconds:g} s: {TOPICS[topic]}",
            "a driver or firmware that hangs: dmesg, devlink health; a slow machine: --timeout",
        )
    broken = [topic for topic in seen.facts.unseen if topic not in seen.facts.hung]
    for topic in broken:
        yield skip(f"not read: {TOPICS[topic]}: {seen.facts.unseen[topic]}")
    if not seen.facts.unseen:
        yield ok("everything that was asked has answered in time")


@checks.add(
    "pf-port",
    "Each PF's port is ACTIVE",
    "DOWN: cable, transceiver, switch port (`ibstat`, `mlxlink -d <PCI address>`). INIT: there is a link and no subnet "
    "manager has configured the port. Without an active port no VF has one.",
)
def look_at_port(seen: Seen) -> Iterator[Outcome]:
    for hca in serving(seen):
        port = seen.ports.get(hca.rdma)
        if port is None or not port.state:
            yield skip(f"{hca.label}: its port does not tell its state")
        elif port.state == ACTIVE:
            yield ok(f"{hca.label}: port ACTIVE, LID {port.lid}")
        else:
            physical = f" ({port.physical})" if port.physical else ""
            yield fail(
                f"{hca.label}: port {port.state}{physical}", PORT_HINTS.get(port.state, "ibstat, and the kernel log")
            )


@checks.add(
    "sm",
    "The subnet manager answers",
    "The doctor asks the subnet administrator (ClassPortInfo) at the LID that the PF's port names; that needs root and "
    "ib_umad. Without an answer, no netdev joins its multicast groups: net1 gets no carrier. `sminfo` and `saquery -c` "
    "ask the same; start opensm, or look at UFM or the switch that runs it.",
)
def look_at_sm(seen: Seen) -> Iterator[Outcome]:
    for hca in serving(seen):
        port = seen.ports.get(hca.rdma)
        if port is None or port.state != ACTIVE:
            continue
        if not port.sm_lid:
            yield fail(f"{hca.label}: the port knows no subnet manager (SM LID 0)", SM_HINT)
            continue
        answer = seen.sm.get(hca.rdma)
        where = f"{hca.label}: the subnet manager at LID {port.sm_lid}"
        if answer is None or not answer.seen:
            yield skip(f"{where} was not asked: {answer.fault if answer else 'no umad device'}")
        elif answer.fault:
            yield fail(f"{where} does not answer ({answer.fault})", SM_HINT)
        else:
            yield ok(f"{where} answers")


@checks.add(
    "carrier",
    "Each PF's netdev that is up has a carrier",
    "IPoIB has one once it has joined its broadcast group. ACTIVE port and no carrier: the subnet manager did not "
    "answer then, or the netdev's P_Key is not in the port's table, or the fabric's partition has no IPoIB group "
    "(opensm's partitions.conf: `ipoib`).",
)
def look_at_carrier(seen: Seen) -> Iterator[Outcome]:
    for hca in serving(seen):
        port = seen.ports.get(hca.rdma)
        if not (hca.netdev and hca.netdev.up and port and port.state == ACTIVE):
            continue
        if hca.netdev.carrier:
            yield ok(f"{hca.label} has a carrier")
        else:
            yield warn(
                f"{hca.label} has no carrier: it has not joined its broadcast group",
                "subnet manager (see the check sm), its partitions.conf (ipoib), the port's P_Keys",
            )


@checks.add(
    "sm-virt",
    "The subnet manager brings the VFs' ports up (virtualization)",
    "A VF that has a GUID, a driver and a link state other than `disable` must have an ACTIVE port when the PF's is. "
    "If none has: `virt_enabled 2` in opensm.conf (NVIDIA's opensm and UFM have it on by default), or a subnet manager "
    "that can do virtualization at all; of some: see the kernel log and the switch.",
)
def look_at_virtualization(seen: Seen) -> Iterator[Outcome]:
    for hca in serving(seen):
        port = seen.ports.get(hca.rdma)
        if port is None or port.state != ACTIVE:
            continue
        able = [vf for vf in hca.vfs if _should_be_active(seen, hca, vf)]
        down = [vf for vf in able if seen.ports[vf.rdma].state != ACTIVE]
        if not able:
            yield ok(f"{hca.label}: no VF here has a GUID yet by which to tell")
        elif not down:
            yield ok(f"{hca.label}: {count(len(able), 'VF')} with a GUID, all ports ACTIVE")
        else:
            words = shorten([f"{vf.pci} {seen.ports[vf.rdma].state}" for vf in down])
            text = f"{hca.label}: {len(down)} of {len(able)} VFs with a GUID have no active port: {words}"
            hint = "opensm.conf: virt_enabled 2; can this subnet manager do virtualization?"
            yield fail(text, hint) if len(down) == len(able) else warn(text, f"{hint} see its log, and dmesg")


def _should_be_active(seen: Seen, hca: Hca, vf: VfFacts) -> bool:
    if not (vf.rdma_here and vf.driver and vf.port_guid and not vf.port_guid.fault and vf.rdma in seen.ports):
        return False
    config = seen.vf_configs.get(str(hca.pci), {}).get(vf.index)
    return config is None or config.link_state != "disable"


@checks.add(
    "verbs",
    "An RDMA device can be opened by libibverbs",
    "One PF and one VF that are at home are opened as ADD's verification does. It needs pyverbs, the provider library "
    "of the HCA (rdma-core: libmlx5), ib_uverbs and the nodes in /dev/infiniband; the packaged program brings the "
    "libraries itself.",
)
def look_at_verbs(seen: Seen) -> Iterator[Outcome]:
    if not seen.hca.hcas:
        return
    if not seen.node.root:
        yield skip("RDMA devices were not opened: only root can")
        return
    for found in seen.verbs.values():
        if isinstance(found, str):
            yield fail(found, "pyverbs and the HCA's provider (rdma-core), ib_uverbs, /dev/infiniband; dmesg")
    good = [name for name, found in seen.verbs.items() if not isinstance(found, str)]
    if good:
        yield ok(f"libibverbs opens {' and '.join(good)}")


@checks.add(
    "pkeys",
    "The P_Keys that configurations ask for are in the ports' tables",
    "The subnet manager writes the tables, by its partitions (opensm's partitions.conf, with the VFs' port GUIDs or "
    "`ALL`). A `pkey` that is in no table makes every ADD of that network fail with code 103.",
)
def look_at_pkeys(seen: Seen) -> Iterator[Outcome]:
    wanted = {network.pkey: network for network in seen.config.networks if network.pkey is not None}
    for pkey, network in sorted(wanted.items()):
        yield from _look_at_pkey(seen, pkey, network)
    if wanted:
        return
    for hca in serving(seen):
        port = seen.ports.get(hca.rdma)
        if port is None or port.state != ACTIVE:
            continue
        table = [pkey for pkey in port.pkeys if pkey]
        if table:
            yield ok(f"{hca.label}: {shorten([f'{pkey:#06x}' for pkey in table])}; no configuration asks for one")
        else:
            yield warn(f"{hca.label}: its P_Key table is empty", "the subnet manager's partitions (partitions.conf)")


def _look_at_pkey(seen: Seen, pkey: int, network: Network) -> Iterator[Outcome]:
    vfs = [vf for hca in seen.hca.hcas for vf in hca.vfs if vf.rdma_here and _has_table(seen.ports.get(vf.rdma))]
    if not vfs:
        yield skip(f"P_Key {pkey:#06x} of network {network.name}: no free VF with an active port has a table to tell")
        return
    lacking = [vf for vf in vfs if normalize_pkey(pkey) not in map(normalize_pkey, seen.ports[vf.rdma].pkeys)]
    hint = "add it to the subnet manager's partitions (partitions.conf) for these VFs' port GUIDs"
    if not lacking:
        yield ok(f"P_Key {pkey:#06x} of network {network.name} is in the table of every free VF")
    elif len(lacking) == len(vfs):
        yield fail(f"P_Key {pkey:#06x} of network {network.name} is in no free VF's table: ADD fails", hint)
    else:
        words = shorten([str(vf.pci) for vf in lacking])
        yield warn(f"P_Key {pkey:#06x} of network {network.name} is not in the table of {words}", hint)


def _has_table(port: PortFacts | None) -> bool:
    return port is not None and port.state == ACTIVE and any(port.pkeys)


@checks.add(
    "rdma-mode",
    "The RDMA namespace mode is what the configurations need",
    "`rdmaIsolation: true` needs the mode exclusive: `options ib_core netns_mode=0` in /etc/modprobe.d and a reboot "
    "(`rdma system set netns exclusive` works only while there is no other network namespace). In exclusive mode a "
    "network without rdmaIsolation gives its pods no RDMA device. `rdma system` shows the mode.",
)
def look_at_mode(seen: Seen) -> Iterator[Outcome]:
    mode = seen.hca.rdma_mode
    if not mode:
        return
    networks = seen.known_config.networks
    isolated = list(dict.fromkeys([network.name for network in networks if network.isolation]))
    shared = list(dict.fromkeys([network.name for network in networks if not network.isolation]))
    if mode == "shared" and isolated:
        yield fail(f"{MODE_WORDS} is shared, and rdmaIsolation of {shorten(isolated)} needs exclusive", SET_MODE)
    elif mode == "exclusive" and shared:
        yield warn(f"{MODE_WORDS} is exclusive, and {shorten(shared)} has no rdmaIsolation", NO_ISOLATION)
    elif networks:
        yield ok(f"{MODE_WORDS} is {mode}, as the configurations here need it")
    else:
        yield note(
            f"{MODE_WORDS} is {mode}; no configuration here says whether that is right",
            f"rdmaIsolation: true needs exclusive: {SET_MODE}" if mode == "shared" else "it needs rdmaIsolation: true",
        )
