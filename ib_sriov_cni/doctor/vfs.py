"""Checks of the VFs: drivers, devices, GUIDs, link states, and whether one is free. No I/O."""

from __future__ import annotations

from ib_sriov_cni.core.values import is_pass_through, render_bind_commands
from ib_sriov_cni.doctor.check import Checks, fail, note, ok, skip, warn
from ib_sriov_cni.doctor.report import render_count, render_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ib_sriov_cni.core.values import Guid
    from ib_sriov_cni.doctor.check import Facts, Outcome
    from ib_sriov_cni.doctor.facts import Hca, HcaVf

checks = Checks()


@checks.add(
    "vf-driver",
    "Every VF has a driver",
    "A VF without a driver cannot be given to a pod (code 101). If `driver_override` of the VF names another driver, "
    "or if `sriov_drivers_autoprobe` of the PF is 0, neither `bind` nor `drivers_probe` does anything until the "
    "driver's name is in `driver_override`: `echo mlx5_core > /sys/bus/pci/devices/<PCI address>/driver_override`, "
    "then `echo <PCI address> > /sys/bus/pci/drivers_probe`. If that fails too, the kernel log has the reason.",
)
def check_drivers(facts: Facts) -> Iterator[Outcome]:
    for hca in facts.hca.groups:
        if not hca.vfs:
            continue
        unbound = [vf for vf in hca.vfs if not vf.driver]
        passed = [vf for vf in hca.vfs if is_pass_through(vf.driver)]
        if unbound:
            yield fail(f"{hca.label}: {_share(unbound, hca)} no driver: {_vf_names(unbound)}", _bind(hca, unbound[0]))
        else:
            machines = f"; {len(passed)} for virtual machines ({passed[0].driver})" if passed else ""
            yield ok(f"{hca.label}: {len(hca.vfs)} VFs have their driver{machines}")


def _bind(hca: Hca, vf: HcaVf) -> str:
    """Return what to do about a VF without a driver."""
    commands = render_bind_commands(vf.pci, hca.driver or "<driver>")
    if vf.override and vf.override != hca.driver:
        return f"driver_override admits only {vf.override}; to bind it: {commands}"
    if not vf.override and not hca.autoprobe:
        return f"sriov_drivers_autoprobe of the PF is 0; to bind it: {commands}"
    return f"{commands}; if that fails, see dmesg"


@checks.add(
    "vf-devices",
    "Every VF that no attachment owns has its RDMA device and netdev in the host's namespace",
    "If such a VF's devices are elsewhere, it was moved by hand, or by a plugin whose record is lost. `ip netns` and "
    "`ip -n <name> link` find it. Binding its driver again brings it back, if no pod uses it: `echo <PCI address>` to "
    "`unbind` in /sys/bus/pci/drivers/mlx5_core, then bind it as `vf-driver` says.",
)
def check_devices(facts: Facts) -> Iterator[Outcome]:
    if "ib_ipoib" not in facts.hca.modules:
        return
    owned = {pci for pci, _ in facts.state.owners}
    owners_known = facts.state.readable and not facts.state.go_records
    for hca in facts.hca.groups:
        bound = [vf for vf in hca.vfs if vf.driver and not is_pass_through(vf.driver) and vf.pci not in owned]
        bare = [vf for vf in bound if not vf.rdma]
        away = [vf for vf in bound if vf.rdma and not (vf.rdma_here and vf.netdev)]
        if bare:
            yield fail(
                f"{hca.label}: {_share(bare, hca)} a driver but no RDMA device: {_vf_names(bare)}",
                "modprobe mlx5_ib; see dmesg; bind the driver again",
            )
        if away and owners_known:
            yield warn(
                f"{hca.label}: {_share(away, hca)} devices in another namespace but no attachment: {_vf_names(away)}",
                "moved by hand, or its record is lost: find it with ip netns, or bind its driver again",
            )
        elif away:
            yield skip(
                f"{hca.label}: {_share(away, hca)} devices in another namespace; which pods have them is not known here"
            )
        if hca.vfs and not bare and not away:
            yield ok(f"{hca.label}: every free VF has its RDMA device and its netdev")


@checks.add(
    "vf-guid-zero",
    "VFs have valid GUIDs (not all zero)",
    "A new VF has no GUID, and its port is down. That is fine for this plugin: an ADD without a requested GUID derives "
    "one from the PF's and rebinds the VF, and DEL restores the zero (docs/guids.md). GUIDs that are set at boot (`ip "
    "link set <PF> vf <n> node_guid ... port_guid ...`, then a rebind) save each ADD that rebind. Software that uses "
    "the VF on the host, and other plugins, need a GUID.",
)
def check_zero_guids(facts: Facts) -> Iterator[Outcome]:
    for hca in facts.hca.groups:
        here = [vf for vf in hca.vfs if vf.rdma_here]
        zero = [vf for vf in here if not vf.port_guid or not vf.node_guid]
        odd = [vf for vf in here if vf not in zero and _fault(vf)]
        if odd:
            yield warn(
                f"{hca.label}: {_share(odd, hca)} a GUID that no port may have: {_vf_names(odd)}",
                "all ones or multicast: set another one (ip link set PF vf N port_guid ...), then rebind the VF",
            )
        if zero and not hca.pci:
            yield fail(
                f"{hca.label}: {_share(zero, hca)} no GUID: {_vf_names(zero)}",
                "only the machine that has the PF can set one; then pass the VF through again",
            )
        elif zero and not (hca.port_guid and not hca.port_guid.fault):
            yield fail(
                f"{hca.label}: {_share(zero, hca)} no GUID, and the PF has none to derive one from",
                "is the PF's RDMA device in the host's namespace? cat /sys/class/infiniband/*/node_guid",
            )
        elif zero:
            yield note(
                f"{hca.label}: {_share(zero, hca)} no GUID (all zero): {_vf_names(zero)}",
                "each ADD derives one and rebinds the VF; GUIDs set at boot avoid that (docs/guids.md)",
            )
        elif here and not odd:
            yield ok(f"{hca.label}: {render_count(len(here), 'VF')} in the host's namespace with GUIDs")


def _fault(vf: HcaVf) -> str:
    return next((guid.fault for guid in (vf.node_guid, vf.port_guid) if guid is not None and guid.fault), "")


@checks.add(
    "vf-guid-double",
    "No GUID is used twice on this node",
    "Two ports with the same GUID break the subnet for both, and an ADD that would use a GUID again is refused. Set "
    "another one on the PF (`ip link set <PF> vf <n> node_guid ... port_guid ...`) and rebind the VF.",
)
def check_duplicate_guids(facts: Facts) -> Iterator[Outcome]:
    holders: dict[Guid, dict[str, str]] = {}
    for hca in facts.hca.groups:
        for guid in (hca.node_guid, hca.port_guid):
            _add_holder(holders, guid, str(hca.pci), hca.label)
        for vf in hca.vfs:
            for guid in _vf_guids(facts, hca, vf):
                _add_holder(holders, guid, str(vf.pci), f"VF {vf.pci}")
    records = facts.all.state.records if facts.all.state else ()
    for record in records:
        if record.alive:
            _add_holder(holders, record.guid, record.pci, record.label)
    duplicates = {guid: list(names.values()) for guid, names in holders.items() if len(names) > 1}
    for guid, names in sorted(duplicates.items()):
        yield fail(
            f"GUID {guid} is used {len(names)} times: {render_names(names)}",
            "ip link set PF vf N node_guid ... port_guid ... with another one, then rebind that VF",
        )
    if holders and not duplicates:
        yield ok(f"{len(holders)} GUIDs on this node, none used twice")


def _vf_guids(facts: Facts, hca: Hca, vf: HcaVf) -> list[Guid | None]:
    """Return the VF's own GUIDs; if it is in a pod, where it cannot be asked, those that the PF reports."""
    if vf.rdma_here or facts.all.vf_configs is None:
        return [vf.node_guid, vf.port_guid]
    config = facts.all.vf_configs.get(str(hca.pci), {}).get(vf.index)
    return [config.node_guid, config.port_guid] if config else []


def _add_holder(holders: dict[Guid, dict[str, str]], guid: Guid | None, function: str, words: str) -> None:
    if guid and not guid.fault:
        holders.setdefault(guid, {}).setdefault(function, words)


@checks.add(
    "vf-link",
    "No VF is disabled on its PF (link state disable)",
    "Some drivers and firmware start with this state, and the port of such a VF stays DOWN. ADD sets `auto` for as "
    "long as a pod has the VF, unless the network configuration says `disable`. Software that uses the VF on the host, "
    "and other plugins, need it set by hand: `ip link set <PF> vf <n> state auto`.",
)
def check_link_states(facts: Facts) -> Iterator[Outcome]:
    off = [network.name for network in facts.config.networks if network.link_state == "disable"]
    setting = [network.name for network in facts.config.networks if network.link_state]
    if facts.hca.lone and setting:
        yield (warn if facts.hca.hcas else fail)(
            f"VFs without a PF: {render_names(setting)} sets link_state, so its ADD refuses them",
            "remove link_state from the network: only the machine that has the PF can set it",
        )
    for hca in facts.hca.groups:
        if not hca.vfs or not hca.netdev:
            continue
        configs = facts.vf_configs.get(str(hca.pci), {})
        if not any(config.link_state for config in configs.values()):
            yield skip(f"{hca.label}: its driver does not report the link states of VFs")
            continue
        disabled = [vf for vf in hca.vfs if vf.index in configs and configs[vf.index].link_state == "disable"]
        if not disabled:
            yield ok(f"{hca.label}: no VF has link state disable")
        elif off:
            yield warn(
                f"{hca.label}: {_share(disabled, hca)} link state disable, as {render_names(off)} asks for: "
                f"{_vf_names(disabled)}",
                'pods of such a network get a port that is down: remove "link_state": "disable", or set "auto"',
            )
        else:
            yield note(
                f"{hca.label}: {_share(disabled, hca)} link state disable: {_vf_names(disabled)}",
                f"each ADD sets auto, DEL restores it; by hand: ip link set {hca.netdev.name} vf N state auto",
            )


@checks.add(
    "vf-free",
    "A VF is free",
    "If all VFs are in use, the next pod has to wait: end a pod, or create more VFs (which first takes all of them "
    "away from the pods). `ib-sriov list` shows which pod has which.",
)
def check_free_vfs(facts: Facts) -> Iterator[Outcome]:
    vfs = [vf for hca in facts.hca.groups for vf in hca.vfs]
    if not vfs:
        return
    if not facts.state.readable:
        yield skip("cannot see which VFs are in use: run as root")
        return
    alive = {record.pci for record in facts.state.records if record.alive}
    free = [vf for vf in vfs if vf.driver and vf.pci not in alive]
    if free:
        yield ok(f"{len(free)} of {len(vfs)} VFs are free")
    else:
        yield note(
            f"none of {len(vfs)} VFs is free", "ib-sriov list shows which pod has which; for more VFs: sriov_numvfs"
        )


def _share(some: list[HcaVf], hca: Hca) -> str:
    return f"{len(some)} of {len(hca.vfs)} VFs {'has' if len(some) == 1 else 'have'}"


def _vf_names(vfs: list[HcaVf]) -> str:
    return render_names([str(vf.pci) for vf in vfs])
