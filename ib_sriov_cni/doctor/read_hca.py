"""Reads facts about the HCAs: the PCI tree, ports, the PF's settings of its VFs, whether a device can be opened.

Only `read_hcas` sends no queries to the firmware; every other reader here may hang if it does (bounded.py).
"""

from __future__ import annotations

import os

from ib_sriov_cni.core.values import IFF_UP, PciAddress, VfFunction
from ib_sriov_cni.doctor.facts import Hca, HcaFacts, HcaVf, Netdev, PortFacts, SmAnswer
from ib_sriov_cni.doctor.reader_processes import describe_exception
from ib_sriov_cni.doctor.subnet_administrator import ask_class_port_info
from ib_sriov_cni.kernel.sysfs import Sysfs, read_attribute
from ib_sriov_cni.state.directory import list_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ib_sriov_cni.core.values import PortReport, VfConfig
    from ib_sriov_cni.doctor.facts import Roots

INFINIBAND_CLASS = "0x0207"  # PCI class code: network controller, InfiniBand
MODULES = ("ib_core", "ib_ipoib", "ib_uverbs", "ib_umad", "rdma_ucm", "mlx5_core", "mlx5_ib", "mlx4_core", "mlx4_ib")
MODE_PARAMETER = "module/ib_core/parameters/netns_mode"  # Y: shared; since 5.2
INFINIBAND = "InfiniBand"


def read_hcas(roots: Roots) -> HcaFacts:
    """Return every physical function that is an InfiniBand HCA, with its VFs."""
    sysfs = Sysfs(roots.sysfs, roots.proc)
    lone = sysfs.read_lone_vfs()
    found = [
        _read_hca(sysfs, roots.sysfs, pci) for pci in list_names(f"{roots.sysfs}/bus/pci/devices") if pci not in lone
    ]
    hcas = [hca for hca in found if hca is not None]
    uverbs = list_names(f"{roots.sysfs}/class/infiniband_verbs")
    nodes = roots.path("/dev/infiniband")
    return HcaFacts(
        hcas=tuple([hca for hca in hcas if hca.link_layer in {"", INFINIBAND}]),
        ethernet=tuple([hca.rdma for hca in hcas if hca.link_layer not in {"", INFINIBAND}]),
        modules=frozenset([name for name in MODULES if os.path.isdir(f"{roots.sysfs}/module/{name}")]),
        rdma_mode=_read_mode(roots.sysfs),
        verbs_nodes=tuple(
            [name for name in uverbs if name.startswith("uverbs") and not os.path.exists(f"{nodes}/{name}")]
        ),
        lone=tuple([_read_vf(sysfs, roots.sysfs, -1, pci) for pci in lone]),
    )


def _read_mode(sysfs: str) -> str:
    """Return "shared" for kernels before 5.2, which have no modes, and "" without ib_core."""
    if not os.path.isdir(f"{sysfs}/module/ib_core"):
        return ""
    return "exclusive" if read_attribute(f"{sysfs}/{MODE_PARAMETER}") in {"N", "0"} else "shared"


def _read_hca(sysfs: Sysfs, root: str, name: str) -> Hca | None:
    folder = f"{root}/bus/pci/devices/{name}"
    if os.path.lexists(f"{folder}/physfn"):
        return None
    is_infiniband = read_attribute(f"{folder}/class").startswith(INFINIBAND_CLASS)
    if not is_infiniband and not os.path.isdir(f"{folder}/infiniband"):
        return None
    pci = PciAddress(name)
    rdma = next(iter(list_names(f"{folder}/infiniband")), "")
    found = sysfs.read_rdma(pci) if rdma else None
    device = f"{folder}/infiniband/{rdma}"
    total = read_attribute(f"{folder}/sriov_totalvfs")
    number = read_attribute(f"{folder}/sriov_numvfs")
    return Hca(
        pci=pci,
        device=":".join([read_attribute(f"{folder}/{part}").removeprefix("0x") for part in ("vendor", "device")]),
        driver=sysfs.read_driver(pci),
        link_layer=read_attribute(f"{device}/ports/1/link_layer") if rdma else "",
        rdma=rdma,
        umad=_read_umad(root, folder),
        firmware=read_attribute(f"{device}/fw_ver") if rdma else "",
        board=read_attribute(f"{device}/board_id") if rdma else "",
        node_guid=found.node_guid if found else None,
        port_guid=found.port_guid if found else None,
        netdev=_read_netdev(sysfs, folder, pci),
        total_vfs=int(total) if total.isdigit() else None,
        num_vfs=int(number) if number.isdigit() else 0,
        autoprobe=sysfs.probes_automatically(pci),
        ofed=os.path.isdir(f"{folder}/sriov"),
        vfs=tuple([_read_vf(sysfs, root, index, vf) for index, vf in _read_vfs(folder)]),
    )


def _read_umad(root: str, folder: str) -> str:
    """Return the umad device of port 1, "" without one."""
    names = [name for name in list_names(f"{folder}/infiniband_mad") if name.startswith("umad")]
    ports = [(read_attribute(f"{root}/class/infiniband_mad/{name}/port"), name) for name in names]
    return next((name for port, name in ports if port in {"1", ""}), "")


def _read_vfs(folder: str) -> list[tuple[int, PciAddress]]:
    found = []
    for name in list_names(folder):
        if name.startswith("virtfn") and name[6:].isdigit():
            try:
                found.append((int(name[6:]), PciAddress(os.path.basename(os.readlink(f"{folder}/{name}")))))
            except OSError:
                continue  # the VF is just being removed
    return sorted(found)


def _read_vf(sysfs: Sysfs, root: str, index: int, pci: PciAddress) -> HcaVf:
    rdma = sysfs.read_rdma(pci)
    return HcaVf(
        pci=pci,
        index=index,
        driver=sysfs.read_driver(pci),
        override=sysfs.read_override(pci),
        netdev=_read_netdev(sysfs, f"{root}/bus/pci/devices/{pci}", pci),
        rdma=rdma.name if rdma else "",
        rdma_here=rdma is not None and rdma.node_guid is not None,
        node_guid=rdma.node_guid if rdma else None,
        port_guid=rdma.port_guid if rdma else None,
    )


def _read_netdev(sysfs: Sysfs, folder: str, pci: PciAddress) -> Netdev | None:
    name = sysfs.read_netdev(pci)
    if not name:
        return None
    flags = read_attribute(f"{folder}/net/{name}/flags")
    up = bool(int(flags, 16) & IFF_UP) if flags.startswith("0x") else False
    return Netdev(name=name, up=up, carrier=read_attribute(f"{folder}/net/{name}/carrier") == "1")


# ---- queries to the firmware


def read_ports(roots: Roots, names: tuple[str, ...], whole_tables: frozenset[str]) -> dict[str, PortFacts]:
    """Return port 1 of each RDMA device in `names`; its P_Key table, one query per entry, only for `whole_tables`."""
    return {name: _read_port(f"{roots.sysfs}/class/infiniband/{name}/ports/1", name in whole_tables) for name in names}


def _read_port(folder: str, whole_table: bool) -> PortFacts:  # noqa: FBT001  # one caller, above
    # The files contain "4: ACTIVE" and "5: LinkUp".
    state, physical = [read_attribute(f"{folder}/{name}").partition(":")[2].strip() for name in ("state", "phys_state")]
    lid, sm_lid, sm_sl = [_parse_number(read_attribute(f"{folder}/{name}")) for name in ("lid", "sm_lid", "sm_sl")]
    entries = sorted(list_names(f"{folder}/pkeys"), key=_parse_number) if whole_table else []
    pkeys = [_parse_number(read_attribute(f"{folder}/pkeys/{name}")) for name in entries]
    return PortFacts(state=state, physical=physical, lid=lid, sm_lid=sm_lid, sm_sl=sm_sl, pkeys=tuple(pkeys))


def _parse_number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        return 0


def read_vf_configs(roots: Roots, hcas: tuple[Hca, ...]) -> dict[str, dict[int, VfConfig]]:
    """Return what each PF says of its VFs, by PCI address and VF index; PFs without a netdev are left out."""
    from ib_sriov_cni.kernel.rtnetlink import Rtnl
    from ib_sriov_cni.kernel.vf_settings import VfConfigs

    rtnl = Rtnl()
    vf_configs = VfConfigs(lambda: rtnl, roots.sysfs)
    found = {}
    for hca in hcas:
        if hca.netdev:
            function = VfFunction(
                pci=hca.pci, pf=hca.pci, index=0, driver="", pf_driver=hca.driver, pf_netdev=hca.netdev.name
            )
            found[str(hca.pci)] = vf_configs.read(function)[1]
    return found


def ask_subnet_managers(
    roots: Roots, hcas: tuple[Hca, ...], ports: Mapping[str, PortFacts], seconds: float
) -> dict[str, SmAnswer]:
    """Query the subnet manager of each PF's port, one after the other, within `seconds` altogether."""
    queried = [hca for hca in hcas if hca.rdma in ports and ports[hca.rdma].sm_lid]
    found = {}
    for hca in queried:
        port = ports[hca.rdma]
        path = roots.path(f"/dev/infiniband/{hca.umad}")
        if not hca.umad:
            found[hca.rdma] = SmAnswer(fault="the port has no umad device (ib_umad)", asked=False)
            continue
        each = seconds / len(queried)
        try:
            fault = ask_class_port_info(path, lid=port.sm_lid, sl=port.sm_sl, pkeys=port.pkeys, seconds=each)
        except OSError as refusal:
            found[hca.rdma] = SmAnswer(fault=describe_exception(refusal), asked=False)
        else:
            found[hca.rdma] = SmAnswer(fault=fault, asked=True)
    return found


def open_devices(names: tuple[str, ...], seconds: float) -> dict[str, PortReport | str]:
    """Open RDMA devices as ADD's verification does; return for each its report, or why it cannot be opened."""
    from ib_sriov_cni.core.errors import CniError
    from ib_sriov_cni.kernel.netns import open_own
    from ib_sriov_cni.kernel.rdma_verifier import read_port

    found: dict[str, PortReport | str] = {}
    with open_own() as own:
        for name in names:
            try:
                found[name] = read_port(
                    name, netns=own, exclusive=False, wait=0, pkey=None, open_seconds=seconds / len(names)
                )
            except CniError as fault:
                found[name] = fault.msg
    return found
