"""Checks of the HCA itself: presence, SR-IOV, modules, the PF's netdev. No I/O."""

from __future__ import annotations

from ib_sriov_cni.doctor.check import Checks, fail, note, ok, warn
from ib_sriov_cni.doctor.report import render_count, render_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ib_sriov_cni.doctor.check import Facts, Outcome
    from ib_sriov_cni.doctor.facts import Hca

checks = Checks()
MORE_MODULES = {
    "rdma_ucm": "pods cannot use RDMA-CM (librdmacm)",
    "ib_umad": "nothing can query the subnet manager, and ibstat and similar tools do not work",
}
MLXCONFIG = "mlxconfig -d {pci} set SRIOV_EN=1 NUM_OF_VFS=16; enable SR-IOV and IOMMU in the BIOS; then cold reboot"


@checks.add(
    "hca",
    "An InfiniBand HCA is present, with its driver and its RDMA device",
    "`lspci -nn -d 15b3:` lists Mellanox and NVIDIA HCAs. To switch a port from Ethernet to InfiniBand: `mlxconfig -d "
    "<PCI address> set LINK_TYPE_P1=1`, then reboot. If the driver is missing: `modprobe mlx5_core`. If the RDMA "
    "device is missing: `modprobe mlx5_ib`, and see the kernel log. A PF's RDMA device must stay in the host's "
    "namespace.",
)
def check_hca(facts: Facts) -> Iterator[Outcome]:
    hcas = facts.hca.hcas
    if facts.hca.lone:
        yield ok(f"{render_count(len(facts.hca.lone), 'VF')} without a PF on this machine")
    elif not hcas:
        if facts.hca.ethernet:
            names = render_names(facts.hca.ethernet)
            yield fail(
                f"no InfiniBand HCA; these RDMA devices are Ethernet: {names}",
                "mlxconfig -d <PCI address> set LINK_TYPE_P1=1, then reboot; this plugin is for InfiniBand only",
            )
            return
        yield fail(
            "no InfiniBand HCA on the PCI bus",
            "`lspci -nn -d 15b3:` must print a line such as '3b:00.0 Infiniband controller [0207]: Mellanox ... "
            "[15b3:101b]'; if it prints nothing, the HCA is not in its slot, or not passed through to this machine",
        )
        return
    bad = False
    for hca in hcas:
        if not hca.driver:
            bad = True
            yield fail(
                f"HCA {hca.pci} ({hca.device}) has no driver", "modprobe mlx5_core (or mlx4_core), then see dmesg"
            )
        elif not hca.rdma:
            bad = True
            yield fail(
                f"PF {hca.pci} has no RDMA device here",
                "modprobe mlx5_ib (or mlx4_ib); if it was moved into another namespace, move it back to the host's",
            )
    if hcas and not bad:
        yield ok(f"{render_count(len(hcas), 'InfiniBand HCA')}: {render_names([hca.label for hca in hcas])}")


@checks.add(
    "firmware",
    "HCAs report their firmware version, and HCAs of the same board type have the same",
    "Bring HCAs of the same type to the same firmware (`mlxfwmanager --online -u`, or `flint -d <PCI address> -i "
    "<image> burn`).",
)
def check_firmware(facts: Facts) -> Iterator[Outcome]:
    hcas = [hca for hca in facts.hca.hcas if hca.rdma]
    known = [hca for hca in hcas if hca.firmware]
    boards: dict[str, set[str]] = {}
    for hca in known:
        if hca.board:
            boards.setdefault(hca.board, set()).add(hca.firmware)
    mixed = {board: found for board, found in boards.items() if len(found) > 1}
    for board, found in sorted(mixed.items()):
        yield warn(
            f"HCAs of board {board} have different firmware: {', '.join(sorted(found))}",
            "bring them to the same version (mlxfwmanager)",
        )
    if known and not mixed:
        yield ok(f"firmware {', '.join(sorted({hca.firmware for hca in known}))}")
    silent = [hca.label for hca in hcas if not hca.firmware]
    if silent:
        # Drivers other than mlx5 and mlx4, such as that of the emulated HCA in tests/lab.
        yield note(f"the driver reports no firmware version: {render_names(silent)}")


@checks.add(
    "sriov",
    "SR-IOV is enabled in the HCA's firmware and in the BIOS",
    "`mlxconfig -d <PCI address> set SRIOV_EN=1 NUM_OF_VFS=16`, enable SR-IOV and IOMMU in the BIOS, then do a cold "
    "reboot: only then does the firmware read its configuration. PFs that serve no pods do not need it.",
)
def check_sriov(facts: Facts) -> Iterator[Outcome]:
    hcas = [hca for hca in facts.hca.hcas if hca.driver]
    able = [hca for hca in hcas if hca.total_vfs]
    for hca in hcas:
        if not hca.total_vfs:
            text = f"{hca.label}: SR-IOV is {'off (0 VFs possible)' if hca.total_vfs == 0 else 'not available'}"
            hint = MLXCONFIG.format(pci=hca.pci)
            yield note(text, f"only needed if this PF is to serve pods: {hint}") if able else fail(text, hint)
    if able:
        yield ok(f"up to {render_names([f'{hca.total_vfs} VFs on {hca.label}' for hca in able])}")


@checks.add(
    "vfs",
    "VFs have been created",
    "`echo 8 > /sys/bus/pci/devices/<PF>/sriov_numvfs`, from a systemd unit or udev rule so that it survives a reboot. "
    "To change the number, write 0 first, which takes the VFs away from the pods. Fewer VFs than requested: see the "
    "kernel log; the BIOS may reserve too little MMIO space (Above 4G Decoding, SR-IOV BAR).",
)
def check_vfs(facts: Facts) -> Iterator[Outcome]:
    able = [hca for hca in facts.hca.hcas if hca.total_vfs]
    with_vfs = [hca for hca in able if hca.num_vfs]
    for hca in able:
        if not hca.num_vfs:
            command = f"echo {min(8, hca.total_vfs or 8)} > /sys/bus/pci/devices/{hca.pci}/sriov_numvfs"
            text = f"{hca.label} has no VFs, {hca.total_vfs} are possible"
            yield (
                note(text, f"only needed if this PF is to serve pods: {command}")
                if with_vfs
                else fail(text, f"{command} (and a udev rule or unit that does so at boot)")
            )
        elif len(hca.vfs) < hca.num_vfs:
            yield fail(
                f"{hca.label}: sriov_numvfs is {hca.num_vfs}, but {render_count(len(hca.vfs), 'VF')} found",
                "see dmesg: too little MMIO space or too few bus numbers (BIOS)?",
            )
        else:
            yield ok(f"{hca.label}: {hca.num_vfs} of {hca.total_vfs} VFs created")


@checks.add(
    "module-ipoib",
    "ib_ipoib is loaded",
    "`modprobe ib_ipoib`, and a line `ib_ipoib` in /etc/modules-load.d. Without it, neither the PF nor its VFs have "
    "netdevs: no GUID can be set, and pods get no interface.",
)
def check_ipoib(facts: Facts) -> Iterator[Outcome]:
    if "ib_ipoib" in facts.hca.modules:
        yield ok("ib_ipoib is loaded")
    elif facts.hca.groups:
        yield fail("ib_ipoib is not loaded: no netdevs, and no GUID can be set", _load("ib_ipoib"))


@checks.add(
    "module-uverbs",
    "ib_uverbs is loaded",
    "`modprobe ib_uverbs`, and a line in /etc/modules-load.d. Without it, no program can open an RDMA device. ADD "
    "opens it to verify the result, and so fails with code 103.",
)
def check_uverbs(facts: Facts) -> Iterator[Outcome]:
    if "ib_uverbs" in facts.hca.modules:
        yield ok("ib_uverbs is loaded")
    elif facts.hca.groups:
        yield fail("ib_uverbs is not loaded: no RDMA device can be opened", _load("ib_uverbs"))


@checks.add(
    "module-more",
    "Modules that some programs need are loaded: ib_umad, rdma_ucm",
    "`modprobe rdma_ucm` for programs that connect through RDMA-CM; `modprobe ib_umad` for the tools of "
    "infiniband-diags, and for the doctor's own query to the subnet manager.",
)
def check_more_modules(facts: Facts) -> Iterator[Outcome]:
    if not facts.hca.groups:
        return
    missing = [name for name in MORE_MODULES if name not in facts.hca.modules]
    for name in missing:
        yield note(f"{name} is not loaded: {MORE_MODULES[name]}", _load(name))
    if not missing:
        yield ok(" and ".join(MORE_MODULES) + " are loaded")


def _load(module: str) -> str:
    return f"modprobe {module}; echo {module} >> /etc/modules-load.d/infiniband.conf"


@checks.add(
    "verbs-nodes",
    "Every uverbs device has a node in /dev/infiniband",
    "udevd or devtmpfs creates them: `udevadm trigger --subsystem-match=infiniband_verbs`. In a container, the host's "
    "/dev must be mounted.",
)
def check_nodes(facts: Facts) -> Iterator[Outcome]:
    if not facts.hca.groups or "ib_uverbs" not in facts.hca.modules:
        return
    missing = facts.hca.verbs_nodes
    if missing:
        yield fail(
            f"no node in /dev/infiniband for {render_names(missing)}",
            "udevadm trigger --subsystem-match=infiniband_verbs; is udevd running, and is /dev the host's?",
        )
    else:
        yield ok("every uverbs device has a node in /dev/infiniband")


@checks.add(
    "pf-netdev",
    "Each PF has its IPoIB netdev in the host's namespace",
    "The VFs' GUIDs and link states are set through it. Its name does not matter. If ib_ipoib is loaded and the netdev "
    "is missing, it was moved into another namespace (`ip -n <name> link`), or the kernel log says why it was not "
    "created.",
)
def check_pf_netdev(facts: Facts) -> Iterator[Outcome]:
    if "ib_ipoib" not in facts.hca.modules:
        return  # the check module-ipoib reports it
    for hca in serving_pfs(facts):
        if hca.netdev:
            yield ok(f"{hca.label} has its netdev")
        else:
            yield fail(
                f"PF {hca.pci} has no netdev here: GUIDs and link states of its VFs cannot be set",
                "if it was moved into another namespace (ip -n NAME link), move it back; otherwise see dmesg",
            )


@checks.add(
    "pf-up",
    "Each PF's netdev is up",
    "`ip link set <netdev> up`, in the host's network configuration. Pods do not need it. Without it, the host's own "
    "IPoIB does not work, and the carrier says nothing about the fabric.",
)
def check_pf_up(facts: Facts) -> Iterator[Outcome]:
    for hca in serving_pfs(facts):
        if hca.netdev and hca.netdev.up:
            yield ok(f"{hca.label} is up")
        elif hca.netdev:
            yield warn(
                f"{hca.label} is down", f"ip link set {hca.netdev.name} up (also in the host's network configuration)"
            )


def serving_pfs(facts: Facts) -> list[Hca]:
    """Return the PFs that serve pods, or all PFs with an RDMA device if none has VFs yet."""
    usable = [hca for hca in facts.hca.hcas if hca.rdma]
    return [hca for hca in usable if hca.num_vfs] or usable
