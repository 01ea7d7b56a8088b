"""The doctor's checks on made facts: each is OK on a healthy node, and finds what it is there for."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from ib_sriov_cni.doctor import report
from ib_sriov_cni.doctor.catalogue import CHECKS, choose, run_checks
from ib_sriov_cni.doctor.facts import BrokenFile, Facts, HeldLock, SmAnswer
from ib_sriov_cni.doctor.report import FAIL, NONE, NOTE, OK, SKIP, WARN, Finding
from ib_sriov_cni.model import Guid, VfConfig
from ipam.value import replace
from tests.unit.doctor_node import (
    ACTIVE,
    FOLDER,
    HCA,
    HEALTHY,
    IN_POD,
    LEASE,
    MODULES,
    NETWORK,
    PF,
    RECORD,
    VF0,
    VF1,
    change,
    vf,
    with_hca,
    with_vfs,
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is changed, and what the check then says."""

    check: str
    facts: Facts
    status: str
    text: str
    hint: str = ""


PORTS = HEALTHY.ports or {}
CONFIGS = HEALTHY.vf_configs or {}
NODE, CONFIG, STATE = HEALTHY.node, HEALTHY.config, HEALTHY.state
assert NODE is not None
assert CONFIG is not None
assert STATE is not None
DOWN = replace(ACTIVE, state="DOWN", physical="Polling")
ZERO = {"node_guid": Guid(0), "port_guid": Guid(0)}
OTHER = replace(HCA, pci="0000:5e:00.0", rdma="mlx5_9", netdev=None)
SWITCHED_OFF = {str(PF): {1: VfConfig(node_guid=Guid(0), port_guid=Guid(0), link_state="disable")}}
NO_KUBELET = replace(NODE.device_plugin, kubelet=False, sockets=(), resources=None)


def program(**fields: object) -> Facts:
    return change("node", plugin=replace(NODE.plugin, **fields))


def device_plugin(**fields: object) -> Facts:
    return change("node", device_plugin=replace(NODE.device_plugin, **fields))


def network(**fields: object) -> Facts:
    return change("config", networks=(replace(NETWORK, **fields),))


def record(**fields: object) -> Facts:
    return change("state", records=(replace(RECORD, **fields),))


def folder(**fields: object) -> Facts:
    return change("state", folders=(replace(FOLDER, **fields),))


def case(check: str, facts: Facts, status: str, text: str, hint: str = "") -> Case:
    return Case(check=check, facts=facts, status=status, text=text, hint=hint)


CASES = [
    case("hca", change("hca", hcas=()), FAIL, "no InfiniBand HCA", "lspci"),
    case("hca", change("hca", hcas=(), ethernet=("mlx5_0",)), FAIL, "Ethernet: mlx5_0", "LINK_TYPE_P1=1"),
    case("hca", with_hca(driver="", rdma=""), FAIL, "has no driver", "modprobe mlx5_core"),
    case("hca", with_hca(rdma=""), FAIL, "no RDMA device here", "modprobe mlx5_ib"),
    case("firmware", change("hca", hcas=(IN_POD, replace(OTHER, firmware="1.0"))), WARN, "1.0, 28.39.1002", "one version"),
    case("firmware", with_hca(firmware=""), NOTE, "tells no firmware version"),
    case("sriov", with_hca(total_vfs=None), FAIL, "SR-IOV is not there", f"mlxconfig -d {PF} set SRIOV_EN=1"),
    case("sriov", with_hca(total_vfs=0), FAIL, "0 VFs possible", "BIOS"),
    case("sriov", change("hca", hcas=(IN_POD, replace(OTHER, total_vfs=0))), NOTE, "0000:5e:00.0", "only if"),
    case("vfs", with_hca(num_vfs=0, vfs=()), FAIL, "has no VFs, 16", f"echo 8 > /sys/bus/pci/devices/{PF}/sriov_numvfs"),
    case("vfs", with_hca(num_vfs=0, vfs=(), total_vfs=4), FAIL, "has no VFs, 4", "echo 4 > "),
    case("vfs", with_hca(num_vfs=4), FAIL, "sriov_numvfs is 4, and 2 VFs", "dmesg"),
    case("vfs", change("hca", hcas=(IN_POD, replace(OTHER, num_vfs=0, vfs=()))), NOTE, "has no VFs", "only if"),
    case("module-ipoib", change("hca", modules=MODULES - {"ib_ipoib"}), FAIL, "ib_ipoib is not", "modprobe ib_ipoib"),
    case("module-uverbs", change("hca", modules=MODULES - {"ib_uverbs"}), FAIL, "ib_uverbs is not", "modprobe ib_uv"),
    case("module-more", change("hca", modules=MODULES - {"rdma_ucm"}), NOTE, "rdma_ucm is not", "modprobe rdma_ucm"),
    case("verbs-nodes", change("hca", verbs_nodes=("uverbs3",)), FAIL, "for uverbs3", "udevadm trigger"),
    case("pf-netdev", with_hca(netdev=None), FAIL, "no netdev here", "namespace"),
    case("pf-netdev", replace(with_hca(netdev=None), hca=replace(with_hca(netdev=None).hca, modules=frozenset())), NONE, ""),
    case("pf-up", with_hca(netdev=replace(HCA.netdev, up=False)), WARN, "eth100 (0000:3b:00.0) is down", "ip link set eth100 up"),
    case("answers", replace(HEALTHY, hung=("ports",), unseen={"ports": "x"}), FAIL, "no answer within 5 s: port states", "dmesg"),
    case("answers", replace(HEALTHY, unseen={"state": "Input/output error"}), SKIP, "not read: records"),
    case("pf-port", replace(HEALTHY, ports={"mlx5_0": DOWN}), FAIL, "port DOWN (Polling)", "cable"),
    case("pf-port", replace(HEALTHY, ports={"mlx5_0": replace(ACTIVE, state="INIT")}), FAIL, "port INIT", "opensm"),
    case("pf-port", replace(HEALTHY, ports={}), SKIP, "does not tell"),
    case("sm", replace(HEALTHY, sm={"mlx5_0": SmAnswer(fault="no answer", seen=True)}), FAIL, "LID 1 does not answer", "opensm"),
    case("sm", replace(HEALTHY, sm={"mlx5_0": SmAnswer(fault="/dev/x: no", seen=False)}), SKIP, "was not asked: /dev/x"),
    case("sm", replace(HEALTHY, ports={"mlx5_0": replace(ACTIVE, sm_lid=0)}), FAIL, "SM LID 0", "opensm"),
    case("carrier", with_hca(netdev=replace(HCA.netdev, carrier=False)), WARN, "has no carrier", "partitions.conf"),
    case("sm-virt", replace(HEALTHY, ports={**PORTS, "mlx5_2": DOWN}), FAIL, "1 of 1 VFs", "virt_enabled 2"),
    case(
        "sm-virt",
        replace(with_vfs(vf(0), vf(1)), ports={**PORTS, "mlx5_1": DOWN}),
        WARN,
        f"1 of 2 VFs with a GUID have no active port: {VF0} DOWN",
        "virt_enabled 2",
    ),
    case("verbs", replace(HEALTHY, verbs={"mlx5_0": "open RDMA device mlx5_0: x"}), FAIL, "open RDMA device", "pyverbs"),
    case("verbs", change("node", root=False), SKIP, "only root"),
    case("pkeys", network(pkey=0x8007), FAIL, "P_Key 0x8007 of network ib is in no free VF", "partitions.conf"),
    case("pkeys", replace(network(pkey=None), ports={"mlx5_0": replace(ACTIVE, pkeys=(0, 0))}), WARN, "empty", "partitions"),
    case(
        "pkeys",
        replace(with_vfs(vf(0), vf(1)), ports={**PORTS, "mlx5_1": ACTIVE}),
        WARN,
        f"P_Key 0x8001 of network ib is not in the table of {VF0}",
        "partitions.conf",
    ),
    case("pkeys", replace(HEALTHY, ports={"mlx5_0": ACTIVE}), SKIP, "no free VF with an active port"),
    case("rdma-mode", change("hca", rdma_mode="shared"), FAIL, "is shared, and rdmaIsolation of ib", "netns_mode=0"),
    case("rdma-mode", network(isolation=False), WARN, "is exclusive, and ib has no rdmaIsolation", "no RDMA device"),
    case("rdma-mode", change("config", networks=()), NOTE, "exclusive", "rdmaIsolation"),
    case("vf-driver", with_vfs(vf(0), vf(1, driver="")), FAIL, f"1 of 2 VFs has no driver: {VF1}", f"echo {VF1} > /sys/bus"),
    case("vf-devices", with_vfs(vf(0, rdma="", rdma_here=False)), FAIL, "a driver and no RDMA device", "modprobe mlx5_ib"),
    case("vf-devices", with_vfs(vf(0, netdev=None)), WARN, "devices elsewhere, and no attachment", "ip netns"),
    case(
        "vf-devices",
        replace(with_vfs(vf(0, netdev=None)), state=replace(STATE, readable=False, owners=(), records=())),
        SKIP,
        "not seen from here",
    ),
    case("vf-guid-zero", with_vfs(vf(0, **ZERO), vf(1)), NOTE, f"1 of 2 VFs has no GUID (all zero): {VF0}", "docs/guids.md"),
    case("vf-guid-zero", with_vfs(vf(0, node_guid=Guid(0))), NOTE, "has no GUID"),
    case("vf-guid-zero", with_vfs(vf(0, port_guid=Guid((1 << 64) - 1))), WARN, "no port may have", "bind anew"),
    case("vf-guid-zero", with_hca(vfs=(vf(0, **ZERO),), port_guid=Guid(0)), FAIL, "none to derive them from", "PF"),
    case("vf-guid-double", with_vfs(vf(0), vf(1, node_guid=vf(0).node_guid)), FAIL, f"2 times: VF {VF0}, VF {VF1}", "another"),
    case("vf-guid-double", with_vfs(vf(0, port_guid=HCA.port_guid)), FAIL, "PF eth100", "bind that VF anew"),
    case("vf-guid-double", record(guid=vf(1).port_guid), FAIL, "train/worker-0", "another"),
    case("vf-link", replace(network(link_state=""), vf_configs=SWITCHED_OFF), WARN, "disable and ib leaves it", '"auto"'),
    case("vf-link", replace(HEALTHY, vf_configs=SWITCHED_OFF), OK, "every network here sets anew"),
    case("vf-free", with_hca(vfs=IN_POD.vfs[:1]), NOTE, "none of 1 VFs is free", "ib-sriov list"),
    case("vf-free", change("state", readable=False), SKIP, "run as root"),
    case("state-dir", folder(writable=False, reason="mounted read-only"), FAIL, "cannot be written: mounted", "remount,rw"),
    case("state-dir", folder(free_bytes=4096), WARN, "room for 4 KiB", "df -h"),
    case("state-dir", folder(free_files=0), FAIL, "0 files only", "df -i"),
    case("state-modes", change("state", loose=("/var/lib/cni/ib-sriov",)), WARN, "others may read", "chmod -R go="),
    case("state-modes", folder(uid=1000), WARN, "not owned by root", "chown root:"),
    case("state-modes", change("state", readable=False), SKIP, "run as root"),
    case("records", change("state", damaged=("/s/x.json",)), WARN, "damaged: /s/x.json", "remove it"),
    case("records", change("state", readable=False), SKIP, "run as root"),
    case("leftovers", record(alive=False), WARN, f"1 attachment of dead pods: train/worker-0 (VF {VF0})", "ib-sriov gc"),
    case("leftovers", record(alive=False, this_boot=False), WARN, "from before the last boot", "ib-sriov gc"),
    case("leftovers", record(alive=False, busy=True), OK, "none of a dead pod"),
    case("owners", change("state", records=()), WARN, f"owner without record: VF {VF0}", "ADD"),
    case("owners", record(vf_there=False), WARN, "are gone", "delete these pods"),
    case("leases", change("state", leases=(replace(LEASE, container_id="lost"),)), WARN, "10.1.0.2 (ib)", "rm /l/10.1.0.2"),
    case(
        "leases",
        change("state", leases=(replace(LEASE, container_id="go"),), go_records=("/var/lib/cni/ib-sriov/go-net1",)),
        OK,
        "each for an attachment",
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
        "1 calls on their way",
    ),
    case("go-records", change("state", go_records=("/var/lib/cni/ib-sriov/c-net1",)), NOTE, "1 records of the Go", "DEL"),
    case("addresses", change("config", pools=(replace(CONFIG.pools[0], used=253, exhausted=True),)), FAIL, "253 of 253", "gc"),
    case("addresses", change("config", pools=(replace(CONFIG.pools[0], used=240),)), WARN, "240 of 253", "nearly"),
    case("slices", change("config", slice_faults=(("slice unknown", "flanneld"),)), FAIL, "slice unknown", "flanneld"),
    case("config", network(faults=("ipam.type is missing",)), FAIL, "10-ib.conf: ipam.type is missing", "configuration.md"),
    case("config", change("config", broken=(BrokenFile(path="/c", reason="not JSON", ours=True),)), FAIL, "/c: not JSON"),
    case("config", change("config", broken=(BrokenFile(path="/c", reason="not JSON", ours=False),)), WARN, "/c: not JSON"),
    case("config", change("config", unread=("/c",)), SKIP, "run as root"),
    case("config", change("config", networks=()), NOTE, "not seen", "--config nad.yaml"),
    case("config-guid", network(guid="02:00:00:00:00:00:00:01"), NOTE, "one pod at a time", "docs/guids.md"),
    case("config-names", change("config", networks=(NETWORK, replace(NETWORK, isolation=False))), WARN, "differ: ib", "own name"),
    case("ipam-plugin", network(ipam_type="whereabouts"), FAIL, "whereabouts is not in CNI_PATH", "install"),
    case("log-file", change("node", log_folders=(("/l/x", "its folder does not exist"),)), WARN, "logFile /l/x", "make"),
    case("multus", replace(change("config", multus=()), node=replace(NODE, multus=())), NOTE, "not on this node"),
    case("multus", change("node", multus=()), FAIL, "wants multus, which is not", "DaemonSet"),
    case("multus", change("config", multus=()), WARN, "names it", "DaemonSet"),
    case("multus", change("config", files=("00-cbr0.conf", "00-multus.conf")), WARN, "not the first", "rename"),
    case(
        "multus",
        replace(
            change("config", multus=(("/etc/cni/net.d/00-multus.conf", {"type": "multus-shim"}),)),
            node=replace(NODE, multus=("/opt/cni/bin/multus-shim",)),
        ),
        FAIL,
        "no daemon",
        "kubectl",
    ),
    case("plugin", change("node", plugin=None), FAIL, "not in CNI_PATH", "ib-sriov install"),
    case("plugin", program(kind="go"), FAIL, "is the Go ib-sriov-cni", "replaces it"),
    case("plugin", program(kind="unknown", fault="it cannot be executed"), FAIL, "cannot be executed", "install"),
    case("plugin", program(version="0.9"), WARN, "is version 0.9, this is 1.0", "install"),
    case("plugin", program(kind="unknown"), SKIP, "does not tell what it is"),
    case("kubelet", device_plugin(sockets=("kubelet.sock",)), WARN, "no device plugin", "SR-IOV device plugin"),
    case("kubelet", device_plugin(sockets=()), FAIL, "kubelet's socket", "systemctl status kubelet"),
    case("kubelet", change("node", device_plugin=NO_KUBELET), OK, "no kubelet here"),
    case("device-plugin", device_plugin(resources=()), FAIL, "none of 2 VFs", "selectors"),
    case("device-plugin", device_plugin(resources=(("r", (str(VF0),)),)), WARN, f"in no resource: {VF1}", "anew"),
    case("device-plugin", device_plugin(resources=(("r", (str(VF0), str(VF1), "0000:99:00.1")),)), WARN, "0000:99:00.1"),
    case("device-plugin", device_plugin(resources=None, reason="Permission denied"), SKIP, "Permission denied"),
    case("devinfo", device_plugin(devinfo=(("f", str(VF1), "mlx5_7"),)), NOTE, "says mlx5_7", "CNIDeviceInfoFile"),
    case("kernel", change("node", kernel=(4, 19), release="4.19.0"), FAIL, "no RDMA namespaces", "5.2"),
    case("kernel", change("node", kernel=(5, 4), release="5.4.0"), WARN, "does not tell what GUIDs", "OFED"),
    case("kernel", replace(change("node", kernel=(5, 4)), hca=with_hca(ofed=True).hca), NOTE, "OFED's files"),
    case("kernel", change("node", kernel=(3, 10), release="3.10.0"), WARN, "older than any", "4.18"),
    case("kernel", change("node", kernel=(0, 0)), SKIP, "not seen"),
]


@pytest.mark.parametrize("identity", CHECKS)
def test_a_healthy_node_is_ok(identity: str) -> None:
    found = CHECKS[identity].run(HEALTHY)
    assert [(finding.check, finding.status) for finding in found] == [(identity, OK)] * len(found), found
    assert found


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.check}-{case.status}-{case.text[:30]}")
def test_what_a_check_finds(case: Case) -> None:
    found = CHECKS[case.check].run(case.facts)
    matching = [each for each in found if each.status == case.status and case.text in each.text]
    assert matching, found
    assert any(case.hint in each.hint for each in matching), found


def test_every_check_finds_something() -> None:
    assert {case.check for case in CASES if case.status in {FAIL, WARN, NOTE}} == set(CHECKS)


@pytest.mark.parametrize("identity", CHECKS)
def test_what_could_not_be_read_is_skipped_with_its_reason(identity: str) -> None:
    nothing = Facts(unseen=dict.fromkeys(("hca", "config", "ports", "state", "node"), "the reason"))
    found = CHECKS[identity].run(nothing)
    assert {finding.status for finding in found} == {SKIP}
    assert all("the reason" in finding.text for finding in found)


def test_a_fault_of_a_check_is_a_line_of_the_report() -> None:
    (found,) = CHECKS["vf-driver"].run(replace(HEALTHY, hca=replace(HEALTHY.hca, hcas=(None,))))
    assert found.status == SKIP
    assert "failed itself: AttributeError" in found.text


def test_a_failure_or_warning_says_what_to_do() -> None:
    for each in CASES:
        for finding in CHECKS[each.check].run(each.facts):
            assert finding.hint or finding.status not in {FAIL, WARN}, finding
            assert "\n" not in finding.text + finding.hint


def test_findings_are_sorted_and_counted() -> None:
    found = [Finding(check=str(number), status=status, text="") for number, status in enumerate((OK, WARN, FAIL, OK, SKIP))]
    assert [finding.check for finding in report.sort_findings(found)] == ["2", "1", "4", "0", "3"]
    assert report.summarize(found) == "1 FAIL, 1 WARN, 2 OK, 1 not seen"
    assert report.summarize([]) == "0 OK"


@pytest.mark.parametrize(
    ("statuses", "strict", "status"),
    [((OK, NOTE, SKIP), False, 0), ((OK, WARN), False, 0), ((WARN,), True, 1), ((OK, FAIL), False, 1), ((NOTE,), True, 0)],
)
def test_exit_status(statuses: tuple[str, ...], strict: bool, status: int) -> None:
    found = [Finding(check="x", status=each, text="") for each in statuses]
    assert report.exit_status(found, strict=strict) == status


def test_checks_are_chosen_by_id() -> None:
    assert [check.id for check in choose(["sm", "hca"], [])] == ["hca", "sm"]
    assert [check.id for check in choose([], list(CHECKS)[1:])] == ["hca"]
    with pytest.raises(KeyError):
        choose(["nonsense"], [])


def test_a_shortened_list_is_never_longer_than_it_was() -> None:
    assert report.shorten(["a", "b", "c", "d"]) == "a, b, c, d"
    assert report.shorten(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


def test_a_machine_without_an_hca_fails_once() -> None:
    facts = change("hca", hcas=(), modules=frozenset(), rdma_mode="")
    found = run_checks([CHECKS[name] for name in CHECKS if name not in {"device-plugin", "devinfo"}], facts)
    assert [finding.check for finding in found if finding.status in {FAIL, WARN}] == ["hca"]
