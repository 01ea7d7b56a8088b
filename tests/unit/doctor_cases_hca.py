"""Test cases for the doctor's checks of HCA, fabric and VFs."""

from __future__ import annotations

from ib_sriov_cni.core.values import Guid, VfConfig
from ib_sriov_cni.doctor.facts import SmAnswer
from ib_sriov_cni.doctor.report import FAIL, NONE, NOTE, OK, SKIP, WARN
from ipam.protocol.value import replace
from tests.unit.doctor_case import PORTS, case, network, record
from tests.unit.doctor_node import (
    ACTIVE,
    HCA,
    HEALTHY,
    IN_POD,
    MODULES,
    PF,
    STATE,
    VF0,
    VF1,
    change,
    vf,
    with_hca,
    with_vfs,
)

DOWN = replace(ACTIVE, state="DOWN", physical="Polling")
ZERO = {"node_guid": Guid(0), "port_guid": Guid(0)}
OTHER = replace(HCA, pci="0000:5e:00.0", rdma="mlx5_9", netdev=None)
SWITCHED_OFF = {str(PF): {1: VfConfig(node_guid=Guid(0), port_guid=Guid(0), link_state="disable")}}
CASES = [
    case("hca", change("hca", hcas=()), FAIL, "no InfiniBand HCA", "lspci"),
    case("hca", change("hca", hcas=(), ethernet=("mlx5_0",)), FAIL, "Ethernet: mlx5_0", "LINK_TYPE_P1=1"),
    case("hca", change("hca", hcas=(), lone=(vf(0),)), OK, "1 VF without a PF on this machine"),
    case("sriov", change("hca", hcas=(), lone=(vf(0),)), NONE, ""),
    case("vf-driver", change("hca", lone=(vf(8, driver=""),)), FAIL, "without a PF: 1 of 1 VFs has no driver", "echo"),
    case("vf-guid-zero", change("hca", lone=(vf(8, **ZERO),)), FAIL, "VFs without a PF: 1 of 1 VFs has no GUID", "PF"),
    case("vf-link", change("hca", lone=(vf(8),)), WARN, "without a PF: ib sets link_state", "remove link_state"),
    case("vf-link", change("hca", hcas=(), lone=(vf(8),)), FAIL, "without a PF: ib sets link_state", "remove link_"),
    case("vf-free", change("hca", hcas=(), lone=(vf(8),)), OK, "1 of 1 VFs are free"),
    case("pf-port", change("hca", lone=(vf(8, rdma="lone"),)), SKIP, "without a PF: its port reports no state"),
    case(
        "pf-port",
        replace(change("hca", lone=(vf(8, rdma="lone"),)), ports={**PORTS, "lone": DOWN}),
        FAIL,
        "without a PF: port DOWN (Polling)",
        "the machine that has its PF",
    ),
    case("hca", with_hca(driver="", rdma=""), FAIL, "has no driver", "modprobe mlx5_core"),
    case("hca", with_hca(rdma=""), FAIL, "no RDMA device here", "modprobe mlx5_ib"),
    case(
        "firmware",
        change("hca", hcas=(IN_POD, replace(OTHER, firmware="1.0"))),
        WARN,
        "1.0, 28.39.1002",
        "same version",
    ),
    case("firmware", with_hca(firmware=""), NOTE, "reports no firmware version"),
    case("sriov", with_hca(total_vfs=None), FAIL, "SR-IOV is not available", f"mlxconfig -d {PF} set SRIOV_EN=1"),
    case("sriov", with_hca(total_vfs=0), FAIL, "0 VFs possible", "BIOS"),
    case("sriov", change("hca", hcas=(IN_POD, replace(OTHER, total_vfs=0))), NOTE, "0000:5e:00.0", "only needed if"),
    case(
        "vfs", with_hca(num_vfs=0, vfs=()), FAIL, "has no VFs, 16", f"echo 8 > /sys/bus/pci/devices/{PF}/sriov_numvfs"
    ),
    case("vfs", with_hca(num_vfs=0, vfs=(), total_vfs=4), FAIL, "has no VFs, 4", "echo 4 > "),
    case("vfs", with_hca(num_vfs=4), FAIL, "sriov_numvfs is 4, but 2 VFs", "dmesg"),
    case("vfs", change("hca", hcas=(IN_POD, replace(OTHER, num_vfs=0, vfs=()))), NOTE, "has no VFs", "only needed if"),
    case("module-ipoib", change("hca", modules=MODULES - {"ib_ipoib"}), FAIL, "ib_ipoib is not", "modprobe ib_ipoib"),
    case("module-uverbs", change("hca", modules=MODULES - {"ib_uverbs"}), FAIL, "ib_uverbs is not", "modprobe ib_uv"),
    case("module-more", change("hca", modules=MODULES - {"rdma_ucm"}), NOTE, "rdma_ucm is not", "modprobe rdma_ucm"),
    case("verbs-nodes", change("hca", verbs_nodes=("uverbs3",)), FAIL, "for uverbs3", "udevadm trigger"),
    case("pf-netdev", with_hca(netdev=None), FAIL, "no netdev here", "namespace"),
    case(
        "pf-netdev",
        replace(with_hca(netdev=None), hca=replace(with_hca(netdev=None).hca, modules=frozenset())),
        NONE,
        "",
    ),
    case(
        "pf-up",
        with_hca(netdev=replace(HCA.netdev, up=False)),
        WARN,
        "eth100 (0000:3b:00.0) is down",
        "ip link set eth100 up",
    ),
    case(
        "answers",
        replace(HEALTHY, hung=("ports",), unread={"ports": "x"}),
        FAIL,
        "no answer within 5 s: port states",
        "dmesg",
    ),
    case("answers", replace(HEALTHY, unread={"state": "Input/output error"}), SKIP, "not read: records"),
    case("pf-port", replace(HEALTHY, ports={"mlx5_0": DOWN}), FAIL, "port DOWN (Polling)", "cable"),
    case("pf-port", replace(HEALTHY, ports={"mlx5_0": replace(ACTIVE, state="INIT")}), FAIL, "port INIT", "opensm"),
    case("pf-port", replace(HEALTHY, ports={}), SKIP, "reports no state"),
    case(
        "sm",
        replace(HEALTHY, sm={"mlx5_0": SmAnswer(fault="no answer", asked=True)}),
        FAIL,
        "LID 1 does not answer",
        "opensm",
    ),
    case(
        "sm", replace(HEALTHY, sm={"mlx5_0": SmAnswer(fault="/dev/x: no", asked=False)}), SKIP, "was not asked: /dev/x"
    ),
    case("sm", replace(HEALTHY, ports={"mlx5_0": replace(ACTIVE, sm_lid=0)}), FAIL, "SM LID 0", "opensm"),
    case("carrier", with_hca(netdev=replace(HCA.netdev, carrier=False)), WARN, "has no carrier", "partitions.conf"),
    case("sm-virt", replace(HEALTHY, ports={**PORTS, "mlx5_2": DOWN}), FAIL, "1 of 1 VFs", "virt_enabled 2"),
    case(
        "sm-virt",
        replace(with_vfs(vf(0), vf(1)), ports={**PORTS, "mlx5_1": DOWN}),
        WARN,
        f"1 of 2 VFs with a GUID have no active port: {VF0} DOWN",
        "others are ACTIVE",
    ),
    case("sm-virt", with_hca(vfs=(vf(0, **ZERO), vf(1, **ZERO)), num_vfs=2), OK, "1 VF in pods were ACTIVE"),
    case(
        "sm-virt",
        replace(with_vfs(vf(0, **ZERO), vf(1, **ZERO)), state=replace(STATE, records=())),
        NOTE,
        "is not known",
        "virt_enabled 2",
    ),
    case(
        "verbs", replace(HEALTHY, verbs={"mlx5_0": "open RDMA device mlx5_0: x"}), FAIL, "open RDMA device", "pyverbs"
    ),
    case("verbs", change("node", root=False), SKIP, "only root"),
    case("pkeys", network(pkey=0x8007), FAIL, "P_Key 0x8007 of network ib is in no free VF", "partitions.conf"),
    case(
        "pkeys",
        replace(network(pkey=None), ports={"mlx5_0": replace(ACTIVE, pkeys=(0, 0))}),
        WARN,
        "empty",
        "partitions",
    ),
    case(
        "pkeys",
        replace(with_vfs(vf(0), vf(1)), ports={**PORTS, "mlx5_1": ACTIVE}),
        WARN,
        f"P_Key 0x8001 of network ib is not in the table of {VF0}",
        "partitions.conf",
    ),
    case("pkeys", replace(HEALTHY, ports={"mlx5_0": ACTIVE}), SKIP, "no free VF with an active port"),
    case("rdma-mode", change("hca", rdma_mode="shared"), FAIL, "is shared, but rdmaIsolation of ib", "netns_mode=0"),
    case(
        "rdma-mode", network(isolation=False), WARN, "is exclusive, but ib does not set rdmaIsolation", "no RDMA device"
    ),
    case("rdma-mode", change("config", networks=()), NOTE, "exclusive", "rdmaIsolation"),
    case(
        "vf-driver",
        with_vfs(vf(0), vf(1, driver="")),
        FAIL,
        f"1 of 2 VFs has no driver: {VF1}",
        f"echo {VF1} > /sys/bus",
    ),
    case(
        "vf-devices", with_vfs(vf(0, rdma="", rdma_here=False)), FAIL, "a driver but no RDMA device", "modprobe mlx5_ib"
    ),
    case(
        "vf-driver",
        with_vfs(vf(0, driver="", override="vfio-pci")),
        FAIL,
        "no driver",
        "driver_override admits only vfio-pci",
    ),
    case("vf-driver", with_hca(vfs=(vf(0, driver=""),), autoprobe=False), FAIL, "no driver", "sriov_drivers_autoprobe"),
    case(
        "vf-driver",
        with_hca(vfs=(vf(0, driver="", override="mlx5_core"),), autoprobe=False),
        FAIL,
        "no driver",
        "drivers_probe; if that fails, see dmesg",
    ),
    case(
        "vf-devices", with_vfs(vf(0, netdev=None)), WARN, "devices in another namespace but no attachment", "ip netns"
    ),
    case(
        "vf-devices",
        replace(with_vfs(vf(0, netdev=None)), state=replace(STATE, readable=False, owners=(), records=())),
        SKIP,
        "not known here",
    ),
    case(
        "vf-guid-zero",
        with_vfs(vf(0, **ZERO), vf(1)),
        NOTE,
        f"1 of 2 VFs has no GUID (all zero): {VF0}",
        "docs/guids.md",
    ),
    case("vf-guid-zero", with_vfs(vf(0, node_guid=Guid(0))), NOTE, "has no GUID"),
    case("vf-guid-zero", with_vfs(vf(0, port_guid=Guid((1 << 64) - 1))), WARN, "no port may have", "rebind the VF"),
    case("vf-guid-zero", with_hca(vfs=(vf(0, **ZERO),), port_guid=Guid(0)), FAIL, "none to derive one from", "PF"),
    case(
        "vf-guid-double",
        with_vfs(vf(0), vf(1, node_guid=vf(0).node_guid)),
        FAIL,
        f"used 2 times: VF {VF0}, VF {VF1}",
        "another",
    ),
    case("vf-guid-double", with_vfs(vf(0, port_guid=HCA.port_guid)), FAIL, "PF eth100", "rebind that VF"),
    case("vf-guid-double", record(guid=vf(1).port_guid), FAIL, "train/worker-0", "another"),
    case(
        "vf-link",
        replace(network(link_state="disable"), vf_configs=SWITCHED_OFF),
        WARN,
        "disable, as ib asks for",
        '"auto"',
    ),
    case("vf-link", replace(HEALTHY, vf_configs={str(PF): {}}), SKIP, "does not report the link states"),
    case("vf-link", replace(HEALTHY, vf_configs=SWITCHED_OFF), NOTE, "link state disable", "each ADD sets auto"),
    case("vf-free", with_hca(vfs=IN_POD.vfs[:1]), NOTE, "none of 1 VFs is free", "ib-sriov list"),
    case("vf-free", change("state", readable=False), SKIP, "run as root"),
]
