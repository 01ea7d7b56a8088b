"""Checks of the VFs: drivers, devices, GUIDs, link states, who has them. No I/O."""

from __future__ import annotations

from ib_sriov_cni.core.values import PASS_THROUGH_DRIVERS
from ib_sriov_cni.doctor.check import Checks, fail, note, ok, skip, warn
from ib_sriov_cni.doctor.report import shorten

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ib_sriov_cni.core.values import Guid
    from ib_sriov_cni.doctor.check import Outcome, Seen
    from ib_sriov_cni.doctor.facts import Hca, VfFacts

checks = Checks()


@checks.add(
    "vf-driver",
    "Every VF has a driver",
    "A VF without driver cannot be given to a pod (code 101): `echo <PCI address> > /sys/bus/pci/drivers_probe`. If "
    "that fails, the kernel log has the driver's reason; `driver_override` of the device or `sriov_drivers_autoprobe` "
    "of the PF may keep the driver away.",
)
def look_at_drivers(seen: Seen) -> Iterator[Outcome]:
    for hca in seen.hca.hcas:
        if not hca.vfs:
            continue
        unbound = [vf for vf in hca.vfs if not vf.driver]
        passed = [vf for vf in hca.vfs if vf.driver in PASS_THROUGH_DRIVERS]
        if unbound:
            yield fail(f"{hca.label}: {_of(unbound, hca)} no driver: {_names(unbound)}", _bind(hca, unbound[0]))
        else:
            machines = f"; {len(passed)} for virtual machines ({passed[0].driver})" if passed else ""
            yield ok(f"{hca.label}: {len(hca.vfs)} VFs have their driver{machines}")


def _bind(hca: Hca, vf: VfFacts) -> str:
    """What to do for a VF without driver."""
    devices = "/sys/bus/pci/devices"
    if vf.override:
        return f"only {vf.override} may have it: echo > {devices}/{vf.pci}/driver_override, then drivers_probe"
    autoprobe = f"echo 1 > {devices}/{hca.pci}/sriov_drivers_autoprobe"
    return f"echo {vf.pci} > /sys/bus/pci/drivers_probe; {'if that fails, dmesg' if hca.autoprobe else autoprobe}"


@checks.add(
    "vf-devices",
    "Every VF that nobody has is at home, with RDMA device and netdev",
    "A VF that no attachment owns and whose devices are elsewhere was moved by hand, or by a plugin whose record is "
    "lost. `ip netns` and `ip -n <name> link` find it; binding its driver anew brings it home: `echo <PCI address>` to "
    "`unbind` and `bind` in /sys/bus/pci/drivers/mlx5_core, when no pod uses it.",
)
def look_at_devices(seen: Seen) -> Iterator[Outcome]:
    if "ib_ipoib" not in seen.hca.modules:
        return
    owned = {pci for pci, _ in seen.state.owners}
    known = seen.state.readable and not seen.state.go_records
    for hca in seen.hca.hcas:
        bound = [vf for vf in hca.vfs if vf.driver and vf.driver not in PASS_THROUGH_DRIVERS and vf.pci not in owned]
        bare = [vf for vf in bound if not vf.rdma]
        away = [vf for vf in bound if vf.rdma and not (vf.rdma_here and vf.netdev)]
        if bare:
            yield fail(
                f"{hca.label}: {_of(bare, hca)} a driver and no RDMA device: {_names(bare)}",
                "modprobe mlx5_ib; see dmesg; bind the driver anew",
            )
        if away and known:
            yield warn(
                f"{hca.label}: {_of(away, hca)} devices elsewhere, and no attachment: {_names(away)}",
                "moved by hand, or a record is lost: find it by ip netns, or bind its driver anew",
            )
        elif away:
            yield skip(f"{hca.label}: {_of(away, hca)} devices elsewhere; whose pods have them is not seen from here")
        if hca.vfs and not bare and not away:
            yield ok(f"{hca.label}: every free VF has its RDMA device and its netdev")


@checks.add(
    "vf-guid-zero",
    "VFs without a GUID (all zero)",
    "A fresh VF has none and its port is down. That is right for this plugin: an ADD without a requested GUID derives "
    "one from the PF's and binds the VF anew, and DEL gives the zero back (docs/guids.md). Setting GUIDs at boot (`ip "
    "link set <PF> vf <n> node_guid ... port_guid ...`, then bind anew) spares each ADD that rebind. Something that "
    "uses the VF on the host, or another plugin, must set one.",
)
def look_at_zero_guids(seen: Seen) -> Iterator[Outcome]:
    for hca in seen.hca.hcas:
        here = [vf for vf in hca.vfs if vf.rdma_here]
        zero = [vf for vf in here if not vf.port_guid or not vf.node_guid]
        odd = [vf for vf in here if vf not in zero and _fault(vf)]
        if odd:
            yield warn(
                f"{hca.label}: {_of(odd, hca)} GUIDs no port may have: {_names(odd)}",
                "all ones or multicast: set others (ip link set PF vf N port_guid ...), then bind anew",
            )
        if zero and not (hca.port_guid and not hca.port_guid.fault):
            yield fail(
                f"{hca.label}: {_of(zero, hca)} no GUID, and the PF has none to derive them from",
                "does the PF's RDMA device stay in the host's namespace? cat /sys/class/infiniband/*/node_guid",
            )
        elif zero:
            yield note(
                f"{hca.label}: {_of(zero, hca)} no GUID (all zero): {_names(zero)}",
                "each ADD derives one and binds the VF anew; GUIDs set at boot spare that (docs/guids.md)",
            )
        elif here and not odd:
            yield ok(f"{hca.label}: {len(here)} VFs here have GUIDs")


def _fault(vf: VfFacts) -> str:
    return next((guid.fault for guid in (vf.node_guid, vf.port_guid) if guid is not None and guid.fault), "")


@checks.add(
    "vf-guid-double",
    "No GUID is there twice on this node",
    "Two ports of one GUID break the subnet for both, and an ADD that would double one is refused. Set another one on "
    "the PF (`ip link set <PF> vf <n> node_guid ... port_guid ...`) and bind the VF anew.",
)
def look_at_double_guids(seen: Seen) -> Iterator[Outcome]:
    holders: dict[Guid, dict[str, str]] = {}
    for hca in seen.hca.hcas:
        for guid in (hca.node_guid, hca.port_guid):
            _hold(holders, guid, str(hca.pci), hca.label)
        for vf in hca.vfs:
            for guid in _guids(seen, hca, vf):
                _hold(holders, guid, str(vf.pci), f"VF {vf.pci}")
    records = seen.facts.state.records if seen.facts.state else ()
    for record in records:
        if record.alive:
            _hold(holders, record.guid, record.pci, record.label)
    double = {guid: list(names.values()) for guid, names in holders.items() if len(names) > 1}
    for guid, names in sorted(double.items()):
        yield fail(
            f"GUID {guid} is there {len(names)} times: {shorten(names)}",
            "ip link set PF vf N node_guid ... port_guid ... with another one, then bind that VF anew",
        )
    if holders and not double:
        yield ok(f"{len(holders)} GUIDs on this node, none twice")


def _guids(seen: Seen, hca: Hca, vf: VfFacts) -> list[Guid | None]:
    """The VF's own; in a pod, where it cannot be asked, what the PF says of it."""
    if vf.rdma_here or seen.facts.vf_configs is None:
        return [vf.node_guid, vf.port_guid]
    config = seen.facts.vf_configs.get(str(hca.pci), {}).get(vf.index)
    return [config.node_guid, config.port_guid] if config else []


def _hold(holders: dict[Guid, dict[str, str]], guid: Guid | None, function: str, words: str) -> None:
    if guid and not guid.fault:
        holders.setdefault(guid, {}).setdefault(function, words)


@checks.add(
    "vf-link",
    "No VF is switched off at the PF (link state disable)",
    'Some drivers and firmware begin with it, and such a VF\'s port stays DOWN. `"link_state": "auto"` in the '
    "network configuration sets it at every ADD; by hand: `ip link set <PF> vf <n> state auto`.",
)
def look_at_link_states(seen: Seen) -> Iterator[Outcome]:
    networks = seen.config.networks
    leaving = [network.name for network in networks if not network.link_state]
    for hca in seen.hca.hcas:
        if not hca.vfs or not hca.netdev:
            continue
        configs = seen.vf_configs.get(str(hca.pci), {})
        off = [vf for vf in hca.vfs if vf.index in configs and configs[vf.index].link_state == "disable"]
        if not off:
            yield ok(f"{hca.label}: no VF is switched off")
        elif networks and not leaving:
            yield ok(f"{hca.label}: {_of(off, hca)} link state disable, which every network here sets anew")
        else:
            whose = f" and {shorten(leaving)} leaves it so" if leaving else ""
            yield warn(
                f"{hca.label}: {_of(off, hca)} link state disable{whose}: {_names(off)}",
                f'"link_state": "auto" in the configuration, or ip link set {hca.netdev.name} vf N state auto',
            )


@checks.add(
    "vf-free",
    "A VF is free",
    "When all are in use the next pod waits: end a pod, or make more VFs (which takes all of them from the pods "
    "first). `ib-sriov list` shows who has which.",
)
def look_at_free_vfs(seen: Seen) -> Iterator[Outcome]:
    vfs = [vf for hca in seen.hca.hcas for vf in hca.vfs]
    if not vfs:
        return
    if not seen.state.readable:
        yield skip("who has which VF is not seen: run as root")
        return
    alive = {record.pci for record in seen.state.records if record.alive}
    free = [vf for vf in vfs if vf.driver and vf.pci not in alive]
    if free:
        yield ok(f"{len(free)} of {len(vfs)} VFs are free")
    else:
        yield note(f"none of {len(vfs)} VFs is free", "ib-sriov list shows who has them; more VFs: sriov_numvfs")


def _of(some: list[VfFacts], hca: Hca) -> str:
    return f"{len(some)} of {len(hca.vfs)} VFs {'has' if len(some) == 1 else 'have'}"


def _names(vfs: list[VfFacts]) -> str:
    return shorten([str(vf.pci) for vf in vfs])
