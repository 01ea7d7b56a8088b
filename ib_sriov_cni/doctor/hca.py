"""Checks of the HCA itself: seen, SR-IOV, modules, the PF's netdev. No I/O."""

from __future__ import annotations

from ib_sriov_cni.doctor.check import Checks, fail, note, ok, warn
from ib_sriov_cni.doctor.report import count, shorten

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ib_sriov_cni.doctor.check import Outcome, Seen
    from ib_sriov_cni.doctor.facts import Hca

checks = Checks()
MORE_MODULES = {
    "rdma_ucm": "pods cannot use RDMA-CM (librdmacm)",
    "ib_umad": "nobody can ask the subnet manager, and ibstat and its like do not work",
}
MLXCONFIG = "mlxconfig -d {pci} set SRIOV_EN=1 NUM_OF_VFS=16, SR-IOV and IOMMU on in the BIOS, then a cold reboot"


@checks.add(
    "hca",
    "An InfiniBand HCA is there, with its driver and its RDMA device",
    "`lspci -nn -d 15b3:` shows Mellanox and NVIDIA HCAs. A port that is Ethernet becomes InfiniBand by `mlxconfig -d "
    "<PCI address> set LINK_TYPE_P1=1` and a reboot. Without driver: `modprobe mlx5_core`; without RDMA device: "
    "`modprobe mlx5_ib`, and see the kernel log. A PF's RDMA device must stay in the host's namespace.",
)
def look_at_hca(seen: Seen) -> Iterator[Outcome]:
    hcas = seen.hca.hcas
    if not hcas:
        if seen.hca.ethernet:
            names = shorten(seen.hca.ethernet)
            yield fail(
                f"no InfiniBand HCA; these RDMA devices are Ethernet: {names}",
                "mlxconfig -d <PCI address> set LINK_TYPE_P1=1, then reboot; this plugin is for InfiniBand",
            )
            return
        yield fail("no InfiniBand HCA on the PCI bus", "lspci -nn -d 15b3: in its slot, and passed to this machine?")
        return
    bad = False
    for hca in hcas:
        if not hca.driver:
            bad = True
            yield fail(f"HCA {hca.pci} ({hca.device}) has no driver", "modprobe mlx5_core (mlx4_core), then see dmesg")
        elif not hca.rdma:
            bad = True
            yield fail(
                f"PF {hca.pci} has no RDMA device here",
                "modprobe mlx5_ib (mlx4_ib); or its device was moved into a namespace: it must stay the host's",
            )
    if not bad:
        yield ok(f"{count(len(hcas), 'InfiniBand HCA')}: {shorten([hca.label for hca in hcas])}")


@checks.add(
    "firmware",
    "The HCA tells its firmware, and HCAs of one board have the same",
    "Bring HCAs of one kind to one firmware (`mlxfwmanager --online -u`, or `flint -d <PCI address> -i <image> burn`).",
)
def look_at_firmware(seen: Seen) -> Iterator[Outcome]:
    hcas = [hca for hca in seen.hca.hcas if hca.rdma]
    told = [hca for hca in hcas if hca.firmware]
    boards: dict[str, set[str]] = {}
    for hca in told:
        if hca.board:
            boards.setdefault(hca.board, set()).add(hca.firmware)
    mixed = {board: found for board, found in boards.items() if len(found) > 1}
    for board, found in sorted(mixed.items()):
        yield warn(
            f"HCAs of board {board} have different firmware: {', '.join(sorted(found))}",
            "bring them to one version (mlxfwmanager)",
        )
    if told and not mixed:
        yield ok(f"firmware {', '.join(sorted({hca.firmware for hca in told}))}")
    silent = [hca.label for hca in hcas if not hca.firmware]
    if silent:
        # The emulated HCA of the tests, and other drivers than mlx5 and mlx4.
        yield note(f"the driver tells no firmware version: {shorten(silent)}")


@checks.add(
    "sriov",
    "SR-IOV is enabled in the HCA's firmware and by the machine",
    "`mlxconfig -d <PCI address> set SRIOV_EN=1 NUM_OF_VFS=16`, SR-IOV and IOMMU switched on in the BIOS, then a cold "
    "reboot: the firmware reads its configuration only then. Other PFs of the node may do without.",
)
def look_at_sriov(seen: Seen) -> Iterator[Outcome]:
    hcas = [hca for hca in seen.hca.hcas if hca.driver]
    able = [hca for hca in hcas if hca.total_vfs]
    for hca in hcas:
        if not hca.total_vfs:
            text = f"{hca.label}: SR-IOV is {'off (0 VFs possible)' if hca.total_vfs == 0 else 'not there'}"
            hint = MLXCONFIG.format(pci=hca.pci)
            yield note(text, f"only if it is to serve pods: {hint}") if able else fail(text, hint)
    if able:
        yield ok(f"up to {shorten([f'{hca.total_vfs} VFs on {hca.label}' for hca in able])}")


@checks.add(
    "vfs",
    "VFs have been made",
    "`echo 8 > /sys/bus/pci/devices/<PF>/sriov_numvfs`, by a systemd unit or udev rule so that it holds over a reboot. "
    "From one number to another goes by 0, which takes the VFs from the pods. Fewer VFs than asked for: see the kernel "
    "log; the BIOS may have too little MMIO space (Above 4G Decoding, SR-IOV BAR).",
)
def look_at_vfs(seen: Seen) -> Iterator[Outcome]:
    able = [hca for hca in seen.hca.hcas if hca.total_vfs]
    with_vfs = [hca for hca in able if hca.num_vfs]
    for hca in able:
        if not hca.num_vfs:
            command = f"echo {min(8, hca.total_vfs or 8)} > /sys/bus/pci/devices/{hca.pci}/sriov_numvfs"
            text = f"{hca.label} has no VFs, {hca.total_vfs} are possible"
            yield (
                note(text, f"only if it is to serve pods: {command}")
                if with_vfs
                else fail(text, f"{command} (and a udev rule or unit that does so at boot)")
            )
        elif len(hca.vfs) < hca.num_vfs:
            yield fail(
                f"{hca.label}: sriov_numvfs is {hca.num_vfs}, and {len(hca.vfs)} VFs are there",
                "see dmesg: too little MMIO space or bus numbers (BIOS)?",
            )
        else:
            yield ok(f"{hca.label}: {hca.num_vfs} of {hca.total_vfs} VFs made")


@checks.add(
    "module-ipoib",
    "ib_ipoib is loaded",
    "`modprobe ib_ipoib`, and a line `ib_ipoib` in /etc/modules-load.d. Without it neither PF nor VFs have netdevs: "
    "no GUID can be set, and pods get no interface.",
)
def look_at_ipoib(seen: Seen) -> Iterator[Outcome]:
    if "ib_ipoib" in seen.hca.modules:
        yield ok("ib_ipoib is loaded")
    elif seen.hca.hcas:
        yield fail("ib_ipoib is not loaded: no netdevs, and no GUID can be set", _load("ib_ipoib"))


@checks.add(
    "module-uverbs",
    "ib_uverbs is loaded",
    "`modprobe ib_uverbs`, and a line in /etc/modules-load.d. Without it no program can open an RDMA device, and ADD, "
    "which verifies by opening it, fails with code 103.",
)
def look_at_uverbs(seen: Seen) -> Iterator[Outcome]:
    if "ib_uverbs" in seen.hca.modules:
        yield ok("ib_uverbs is loaded")
    elif seen.hca.hcas:
        yield fail("ib_uverbs is not loaded: no RDMA device can be opened", _load("ib_uverbs"))


@checks.add(
    "module-more",
    "Modules that some programs want are loaded: ib_umad, rdma_ucm",
    "`modprobe rdma_ucm` for programs that connect by RDMA-CM; `modprobe ib_umad` for the tools of infiniband-diags, "
    "and for this doctor's question to the subnet manager.",
)
def look_at_more_modules(seen: Seen) -> Iterator[Outcome]:
    if not seen.hca.hcas:
        return
    missing = [name for name in MORE_MODULES if name not in seen.hca.modules]
    for name in missing:
        yield note(f"{name} is not loaded: {MORE_MODULES[name]}", _load(name))
    if not missing:
        yield ok(" and ".join(MORE_MODULES) + " are loaded")


def _load(module: str) -> str:
    return f"modprobe {module}; echo {module} >> /etc/modules-load.d/infiniband.conf"


@checks.add(
    "verbs-nodes",
    "Every uverbs device has its node in /dev/infiniband",
    "udevd or devtmpfs makes them: `udevadm trigger --subsystem-match=infiniband_verbs`. In a container, /dev of the "
    "host must be mounted.",
)
def look_at_nodes(seen: Seen) -> Iterator[Outcome]:
    if not seen.hca.hcas or "ib_uverbs" not in seen.hca.modules:
        return
    missing = seen.hca.verbs_nodes
    if missing:
        yield fail(
            f"no node in /dev/infiniband for {shorten(missing)}",
            "udevadm trigger --subsystem-match=infiniband_verbs; is udevd running, /dev the host's?",
        )
    else:
        yield ok("every uverbs device has its node")


@checks.add(
    "pf-netdev",
    "Each PF has its IPoIB netdev in the host's namespace",
    "The VFs' GUIDs and link states are set through it. It may have any name. If ib_ipoib is loaded and there is none: "
    "it was moved into another namespace (`ip -n <name> link`), or the kernel log says why it was not made.",
)
def look_at_pf_netdev(seen: Seen) -> Iterator[Outcome]:
    if "ib_ipoib" not in seen.hca.modules:
        return  # which is the finding
    for hca in serving(seen):
        if hca.netdev:
            yield ok(f"{hca.label} has its netdev")
        else:
            yield fail(
                f"PF {hca.pci} has no netdev here: GUIDs and link states of its VFs cannot be set",
                "bring it back from the namespace it was moved to (ip -n NAME link); otherwise see dmesg",
            )


@checks.add(
    "pf-up",
    "Each PF's netdev is up",
    "`ip link set <netdev> up`, by the host's network configuration. Pods do without; IPoIB of the host itself does "
    "not work, and nothing can be told of the fabric by its carrier.",
)
def look_at_pf_up(seen: Seen) -> Iterator[Outcome]:
    for hca in serving(seen):
        if hca.netdev and hca.netdev.up:
            yield ok(f"{hca.label} is up")
        elif hca.netdev:
            yield warn(f"{hca.label} is down", f"ip link set {hca.netdev.name} up (and in the network configuration)")


def serving(seen: Seen) -> list[Hca]:
    """Give the PFs that serve pods, or all of them if none has VFs yet."""
    usable = [hca for hca in seen.hca.hcas if hca.rdma]
    return [hca for hca in usable if hca.num_vfs] or usable
