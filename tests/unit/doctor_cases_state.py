"""Test cases for the doctor's checks of state, configuration and node."""

from __future__ import annotations

from ib_sriov_cni.doctor.facts import BrokenFile, HeldLock
from ib_sriov_cni.doctor.report import FAIL, NOTE, OK, SKIP, WARN
from ipam.protocol.value import replace
from tests.unit.doctor_case import case, device_plugin, folder, network, program, record
from tests.unit.doctor_node import CONFIG, LEASE, NETWORK, NODE, VF0, VF1, change, with_hca

NO_KUBELET = replace(NODE.device_plugin, kubelet=False, sockets=(), resources=None)
CASES = [
    case(
        "state-dir",
        folder(writable=False, reason="mounted read-only"),
        FAIL,
        "cannot be written: mounted",
        "remount,rw",
    ),
    case("state-dir", folder(private=True), FAIL, "is not the host's", "mount the host's"),
    case("state-dir", folder(free_bytes=4096), WARN, "only 4 KiB", "df -h"),
    case("state-dir", folder(free_files=0), FAIL, "and 0 files free", "df -i"),
    case(
        "state-modes", change("state", loose=("/var/lib/cni/ib-sriov",)), WARN, "not only root can read", "chmod -R go="
    ),
    case("state-modes", folder(uid=1000), WARN, "not owned by root", "chown root:"),
    case("state-modes", change("state", readable=False), SKIP, "run as root"),
    case("records", change("state", damaged=("/s/x.json",)), WARN, "damaged: /s/x.json", "remove it"),
    case("records", change("state", readable=False), SKIP, "run as root"),
    case(
        "leftovers", record(alive=False), WARN, f"1 attachment of dead pods: train/worker-0 (VF {VF0})", "ib-sriov gc"
    ),
    case("leftovers", record(alive=False, this_boot=False), WARN, "from before the last boot", "ib-sriov gc"),
    case("leftovers", record(alive=False, busy=True), OK, "none of a dead pod"),
    case("owners", change("state", records=()), WARN, f"owner without a record: VF {VF0}", "ADD"),
    case("owners", record(vf_exists=False), WARN, "no longer exist", "delete these pods"),
    case(
        "leases",
        change("state", leases=(replace(LEASE, container_id="lost"),)),
        WARN,
        "10.1.0.2 (ib)",
        "rm /l/10.1.0.2",
    ),
    case(
        "leases",
        change("state", leases=(replace(LEASE, container_id="go"),), go_records=("/var/lib/cni/ib-sriov/go-net1",)),
        OK,
        "all held by attachments",
    ),
    case(
        "stuck-calls",
        change("state", locks=(HeldLock(pci=VF0, pid=7, container_id="c", ifname="net1", seconds=300.0),)),
        WARN,
        f"process 7 holds VF {VF0} for 300 s",
        "kill 7",
    ),
    case(
        "stuck-calls",
        change("state", locks=(HeldLock(pci=VF0, pid=7, container_id="c", ifname="net1", seconds=3.0),)),
        OK,
        "1 call in progress",
    ),
    case(
        "stuck-calls",
        change("state", locks_unread="/run/ib-sriov: Permission denied"),
        SKIP,
        "not checked: /run/ib-sriov: Permission denied",
        "run as root",
    ),
    case(
        "go-records", change("state", go_records=("/var/lib/cni/ib-sriov/c-net1",)), NOTE, "1 record of the Go", "DEL"
    ),
    case(
        "addresses",
        change("config", pools=(replace(CONFIG.pools[0], used=253, exhausted=True),)),
        FAIL,
        "253 of 253",
        "gc",
    ),
    case("addresses", change("config", pools=(replace(CONFIG.pools[0], used=240),)), WARN, "240 of 253", "nearly"),
    case("slices", change("config", slice_faults=(("slice unknown", "flanneld"),)), FAIL, "slice unknown", "flanneld"),
    case(
        "config",
        network(faults=("ipam.type is missing",)),
        FAIL,
        "10-ib.conf: ipam.type is missing",
        "configuration.md",
    ),
    case(
        "config", change("config", broken=(BrokenFile(path="/c", reason="not JSON", ours=True),)), FAIL, "/c: not JSON"
    ),
    case(
        "config", change("config", broken=(BrokenFile(path="/c", reason="not JSON", ours=False),)), WARN, "/c: not JSON"
    ),
    case("config", change("config", unread=("/c",)), SKIP, "only root can read /c", "run as root"),
    case("config", change("config", networks=()), NOTE, "were not checked", "--config nad.yaml"),
    case(
        "config",
        network(unknown=("linkState is not a known key",)),
        WARN,
        "10-ib.conf: linkState is not a",
        "ib-sriov config",
    ),
    case("ipam-plugin", network(ipam_type="dhcp", faults=("ipam.type dhcp",)), OK, "only the bundled IPAM plugin"),
    case("config-guid", network(guid="02:00:00:00:00:00:00:01"), NOTE, "only one pod at a time", "docs/guids.md"),
    case(
        "config-names",
        change("config", networks=(NETWORK, replace(NETWORK, isolation=False))),
        WARN,
        "the same name: ib",
        "own name",
    ),
    case("ipam-plugin", network(ipam_type="whereabouts"), FAIL, "whereabouts is not in CNI_PATH", "install"),
    case(
        "log-file", change("node", log_folders=(("/l/x", "its folder does not exist"),)), WARN, "logFile /l/x", "create"
    ),
    case("multus", replace(change("config", multus=()), node=replace(NODE, multus=())), NOTE, "not on this node"),
    case(
        "multus", change("config", multus_missing=("/k",)), FAIL, "kubeconfig of Multus does not exist: /k", "DaemonSet"
    ),
    case("multus", change("node", multus=()), FAIL, "needs multus, which is not", "DaemonSet"),
    case("multus", change("config", multus=()), WARN, "names it", "DaemonSet"),
    case("multus", change("config", files=("00-cbr0.conf", "00-multus.conf")), WARN, "not the first", "rename"),
    case(
        "multus",
        replace(
            change("config", multus=(("/etc/cni/net.d/00-multus.conf", {"type": "multus-shim"}),)),
            node=replace(NODE, multus=("/opt/cni/bin/multus-shim",)),
        ),
        FAIL,
        "cannot reach its daemon",
        "kubectl",
    ),
    case("plugin", change("node", plugin=None), FAIL, "not in CNI_PATH", "ib-sriov install"),
    case("plugin", program(kind="go"), FAIL, "is the Go ib-sriov-cni", "replaces it"),
    case("plugin", program(kind="unknown", fault="it cannot be executed"), FAIL, "cannot be executed", "install"),
    case("plugin", program(version="0.9"), WARN, "is version 0.9, the doctor is 1.0", "install"),
    case("plugin", program(kind="unknown"), SKIP, "cannot tell what"),
    case("kubelet", device_plugin(sockets=("kubelet.sock",)), WARN, "no device plugin", "SR-IOV device plugin"),
    case("plugin", program(slow="no answer within 4 s"), WARN, "no answer within 4 s", "time it"),
    case("kubelet", device_plugin(sockets=()), FAIL, "kubelet's socket", "systemctl status kubelet"),
    case("kubelet", change("node", device_plugin=NO_KUBELET), OK, "no kubelet on this node"),
    case("device-plugin", device_plugin(resources=()), FAIL, "none of 2 VFs", "selectors"),
    case(
        "device-plugin",
        device_plugin(resources=(("r", (str(VF0),)),)),
        WARN,
        f"in none of kubelet's resources: {VF1}",
        "restart",
    ),
    case(
        "device-plugin", device_plugin(resources=(("r", (str(VF0), str(VF1), "0000:99:00.1")),)), WARN, "0000:99:00.1"
    ),
    case("device-plugin", device_plugin(resources=None, reason="Permission denied"), SKIP, "Permission denied"),
    case("devinfo", device_plugin(devinfo=(("f", str(VF1), "mlx5_7"),)), NOTE, "says mlx5_7", "CNIDeviceInfoFile"),
    case("kernel", change("node", kernel=(4, 19), release="4.19.0"), FAIL, "no RDMA namespaces", "5.2"),
    case("kernel", change("node", kernel=(5, 4), release="5.4.0"), WARN, "does not report the GUIDs", "OFED"),
    case("kernel", replace(change("node", kernel=(5, 4)), hca=with_hca(ofed=True).hca), NOTE, "OFED's files"),
    case("kernel", change("node", kernel=(3, 10), release="3.10.0"), WARN, "older than any", "4.18"),
    case("kernel", change("node", kernel=(0, 0)), SKIP, "not known"),
]
