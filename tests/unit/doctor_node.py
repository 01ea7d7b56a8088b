"""A healthy node, as the doctor's facts and as a simulated tree; tests change one thing at a time."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ib_sriov_cni.core.record import AttachmentKey
from ib_sriov_cni.core.values import Guid, PciAddress, PortReport, VfConfig
from ib_sriov_cni.doctor.facts import (
    AllFacts,
    ConfigFacts,
    DevicePlugin,
    Folder,
    Hca,
    HcaFacts,
    HcaVf,
    Lease,
    Netdev,
    Network,
    NodeFacts,
    Pool,
    PortFacts,
    ProgramFacts,
    RecordFacts,
    Roots,
    SmAnswer,
    StateFacts,
)
from ipam.protocol.value import replace
from tests.unit.trees import Tree, write

PF = PciAddress("0000:3b:00.0")
VF0, VF1 = PciAddress("0000:3b:00.1"), PciAddress("0000:3b:00.2")
PF_GUID = "00:02:c9:03:00:a1:b2:c3"
POD = AttachmentKey(network="ib", container_id="c0ffee", ifname="net1")
ACTIVE = PortFacts(state="ACTIVE", physical="LinkUp", lid=5, sm_lid=1, sm_sl=0, pkeys=(0xFFFF,))
MODULES = frozenset(("ib_core", "ib_ipoib", "ib_uverbs", "ib_umad", "rdma_ucm", "mlx5_core", "mlx5_ib"))


def vf(number: int, **change: Any) -> HcaVf:
    """Return a free VF in the host's namespace, with a GUID."""
    guid = Guid(0x0011223344556600 + number)
    facts = HcaVf(
        pci=PciAddress(f"0000:3b:00.{number + 1}"),
        index=number,
        driver="mlx5_core",
        override="",
        netdev=Netdev(name=f"ib{number}", up=False, carrier=False),
        rdma=f"mlx5_{number + 1}",
        rdma_here=True,
        node_guid=guid,
        port_guid=guid,
    )
    return replace(facts, **change)


HCA = Hca(
    pci=PF,
    device="15b3:101b",
    driver="mlx5_core",
    link_layer="InfiniBand",
    rdma="mlx5_0",
    umad="umad0",
    firmware="28.39.1002",
    board="MT_0000000838",
    node_guid=Guid.parse(PF_GUID),
    port_guid=Guid.parse(PF_GUID),
    netdev=Netdev(name="eth100", up=True, carrier=True),
    total_vfs=16,
    num_vfs=2,
    autoprobe=True,
    ofed=False,
    vfs=(vf(0), vf(1)),
)
# VF 0 is in a pod: its devices are not in the host's namespace.
IN_POD = replace(HCA, vfs=(vf(0, netdev=None, rdma_here=False, node_guid=None, port_guid=None), vf(1)))
RECORD = RecordFacts(
    key=POD,
    pci=str(VF0),
    pod="train/worker-0",
    since=1.0,
    guid=Guid(0x0011223344556600),
    alive=True,
    busy=False,
    this_boot=True,
    vf_exists=True,
)
FOLDER = Folder(
    path="/var/lib/cni/ib-sriov",
    exists=True,
    writable=True,
    reason="",
    mode=0o700,
    uid=0,
    free_bytes=1 << 30,
    free_files=1 << 20,
)
NETWORK = Network(
    origin="/etc/cni/net.d/10-ib.conf",
    name="ib",
    faults=(),
    isolation=True,
    ipam_type="host-local",
    link_state="auto",
    pkey=0x8001,
    log_file="/var/log/ib-sriov.log",
)
LEASE = Lease(network="ib", address="10.1.0.2", path="/l/10.1.0.2", container_id=POD.container_id, ifname="net1")
CONFIG = ConfigFacts(
    networks=(NETWORK,),
    broken=(),
    unread=(),
    files=("00-multus.conf", "10-ib.conf"),
    multus=(("/etc/cni/net.d/00-multus.conf", {"type": "multus"}),),
    multus_missing=(),
    pools=(Pool(network="ib", ranges="10.1.0.1-10.1.0.254", size=253, used=1, exhausted=False),),
    slice_faults=(),
    slices=("slice 1 of 64 (/run/flannel/subnet.env)",),
)
STATE = StateFacts(
    folders=(FOLDER,),
    readable=True,
    records=(RECORD,),
    owners=((str(VF0), POD),),
    damaged=(),
    loose=(),
    go_records=(),
    leases=(LEASE,),
    locks=(),
)
NODE = NodeFacts(
    kernel=(6, 12),
    release="6.12.1",
    root=True,
    plugin=ProgramFacts(path="/opt/cni/bin/ib-sriov", executable=True, kind="ours", version="1.0", fault=""),
    programs=frozenset(("ib-sriov", "multus")),
    multus=("/opt/cni/bin/multus",),
    multus_socket=False,
    device_plugin=DevicePlugin(
        kubelet=True,
        sockets=("kubelet.sock", "nvidia.com_ib_vfs.sock"),
        resources=(("nvidia.com/ib_vfs", (str(VF0), str(VF1))),),
        devinfo=(("nvidia.com-ib_vfs-0000:3b:00.2-device.json", str(VF1), "mlx5_2"),),
        reason="",
    ),
    log_folders=(),
)
HEALTHY = AllFacts(
    hca=HcaFacts(hcas=(IN_POD,), ethernet=(), modules=MODULES, rdma_mode="exclusive", verbs_nodes=()),
    ports={"mlx5_0": ACTIVE, "mlx5_2": replace(ACTIVE, pkeys=(0xFFFF, 0x8001))},
    vf_configs={
        str(PF): {
            0: VfConfig(node_guid=Guid(0x0011223344556600), port_guid=Guid(0x0011223344556600), link_state="auto"),
            1: VfConfig(node_guid=Guid(0), port_guid=Guid(0), link_state="auto"),
        }
    },
    sm={"mlx5_0": SmAnswer(fault="", asked=True)},
    verbs={
        "mlx5_0": PortReport(
            device="mlx5_0",
            node_guid=Guid(1),
            port_guid=Guid(1),
            link_layer="InfiniBand",
            state="ACTIVE",
            lid=5,
            sm_lid=1,
        )
    },
    config=CONFIG,
    state=STATE,
    node=NODE,
    own_version="1.0",
)


def change(topic: str, **fields: Any) -> AllFacts:
    """Return the healthy node with some fields of one topic changed."""
    return replace(HEALTHY, **{topic: replace(getattr(HEALTHY, topic), **fields)})


def with_hca(**fields: Any) -> AllFacts:
    """Return the healthy node with its one HCA changed."""
    return change("hca", hcas=(replace(IN_POD, **fields),))


def with_vfs(*vfs: HcaVf) -> AllFacts:
    """Return the healthy node with these VFs, none of them in a pod."""
    return replace(with_hca(vfs=vfs, num_vfs=len(vfs)), state=replace(HEALTHY.state, records=(), owners=(), leases=()))


def make_node(root: Path) -> Tree:
    """Create a healthy node's trees below a folder: an HCA with two free VFs, the plugin and a configuration."""
    tree = Tree(root / "sys")
    tree.add_pf(PF, offset=1)
    device = tree.device(PF)
    write(device / "sriov_numvfs", "2\n")
    write(device / "class", "0x020700\n")
    write(device / "vendor", "0x15b3\n")
    write(device / "device", "0x101b\n")
    tree.add_netdev(PF, "eth100", index=4)
    write(device / "net/eth100/flags", "0x1003\n")
    write(device / "net/eth100/carrier", "1\n")
    tree.add_rdma(PF, "mlx5_0", minor=0, guid=PF_GUID)
    write(device / "infiniband/mlx5_0/fw_ver", "28.39.1002\n")
    write(device / "infiniband/mlx5_0/board_id", "MT_0000000838\n")
    for number, pci in enumerate((VF0, VF1)):
        tree.add_vf(pci, number)
        tree.add_netdev(pci, f"ib{number}", index=10 + number)
        tree.add_rdma(pci, f"mlx5_{number + 1}", minor=number + 1, guid=f"00:11:22:33:44:55:66:0{number + 1}")
    for number, pci in enumerate((PF, VF0, VF1)):
        write(root / f"dev/infiniband/uverbs{number}", "")
        port = tree.device(pci) / f"infiniband/mlx5_{number}/ports/1"
        for name, text in {
            "link_layer": "InfiniBand",
            "state": "4: ACTIVE",
            "phys_state": "5: LinkUp",
            "lid": f"{5 + number:#x}",
            "sm_lid": "0x1",
            "sm_sl": "0",
            "pkeys/0": "0xffff",
            "pkeys/1": "0x8001",
            "pkeys/2": "0x0000",
        }.items():
            write(port / name, f"{text}\n")
    for name in MODULES:
        write(root / "sys/module" / name / "initstate", "live\n")
    write(root / "sys/module/ib_core/parameters/netns_mode", "N\n")
    write(root / "proc/sys/kernel/osrelease", "6.12.1-amd64\n")
    write(root / "proc/sys/kernel/random/boot_id", "b\n")
    write(root / "proc/locks", "")
    (root / "run").mkdir()
    (root / "var/lib/cni").mkdir(parents=True)
    os.makedirs(root / "opt/cni/bin")
    write(root / "opt/cni/bin/ib-sriov", "#!/bin/sh\necho ib-sriov 1.0\n")
    os.chmod(root / "opt/cni/bin/ib-sriov", 0o755)  # noqa: S103  # a program has to be executable
    return tree


CONF = {
    "cniVersion": "1.0.0",
    "name": "ib",
    "type": "ib-sriov",
    "rdmaIsolation": True,
    "pkey": "0x8001",
    "link_state": "auto",
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/29"}]]},
}
NAD = {
    "apiVersion": "k8s.cni.cncf.io/v1",
    "kind": "NetworkAttachmentDefinition",
    "metadata": {"name": "fabric"},
    "spec": {"config": json.dumps({key: item for key, item in CONF.items() if key != "name"})},
}


def roots(root: Path) -> Roots:
    return Roots(root=str(root), sysfs=str(root / "sys"), proc=str(root / "proc"))


def write_conf(root: Path, **more: object) -> None:
    write(root / "etc/cni/net.d/10-ib.conf", json.dumps({**CONF, **more}))
