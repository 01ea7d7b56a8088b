"""The doctor's readers on directory trees made for the test."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from ib_sriov_cni.doctor.facts import HcaFacts, NodeFacts, Options, ProgramFacts, Roots, StateFacts
from ib_sriov_cni.doctor.read_config import parse_documents, read_configs
from ib_sriov_cni.doctor.read_hca import read_hcas, read_ports
from ib_sriov_cni.doctor.read_node import parse_checkpoint, parse_release, read_node, read_program
from ib_sriov_cni.doctor.read_state import read_folder, read_state
from ib_sriov_cni.state.ownership import Ownership
from ib_sriov_cni.state.records import Records
from ipam.protocol.value import replace
from tests.unit.doctor_node import CONF, HCA, MODULES, NAD, PF, PF_GUID, VF0, VF1, make_node, roots, write_conf
from tests.unit.trees import KEY, RECORD, link, tree, write

# ---- the HCA


def test_a_made_node(tmp_path: Path) -> None:
    make_node(tmp_path)
    facts = read_hcas(roots(tmp_path))
    (hca,) = facts.hcas
    assert replace(hca, vfs=(), umad="umad0", total_vfs=16) == replace(HCA, vfs=())
    assert [(vf.pci, vf.index, vf.driver, vf.rdma, vf.rdma_here) for vf in hca.vfs] == [
        (VF0, 0, "mlx5_core", "mlx5_1", True),
        (VF1, 1, "mlx5_core", "mlx5_2", True),
    ]
    assert [vf.netdev.name for vf in hca.vfs if vf.netdev] == ["ib0", "ib1"]
    assert str(hca.port_guid) == str(hca.node_guid) == PF_GUID
    assert facts.modules == MODULES
    assert (facts.rdma_mode, facts.verbs_nodes, facts.ethernet) == ("exclusive", (), ())


def test_an_hca_without_driver_or_as_ethernet(tmp_path: Path) -> None:
    made = make_node(tmp_path)
    os.unlink(made.device(PF) / "driver")
    write(made.device(PF) / "infiniband/mlx5_0/ports/1/link_layer", "Ethernet\n")
    facts = read_hcas(roots(tmp_path))
    assert (facts.hcas, facts.ethernet) == ((), ("mlx5_0",))
    write(tmp_path / "sys/bus/pci/devices/0000:5e:00.0/class", "0x020700\n")
    write(tmp_path / "sys/bus/pci/devices/0000:5f:00.0/class", "0x020000\n")
    (bare,) = read_hcas(roots(tmp_path)).hcas
    assert (bare.pci, bare.driver, bare.rdma, bare.total_vfs) == ("0000:5e:00.0", "", "", None)


def test_a_vf_without_a_pf(tmp_path: Path) -> None:
    """It is none of the HCAs, of which one would expect SR-IOV."""
    made = make_node(tmp_path)
    made.add_lone("0000:00:05.0")
    made.add_rdma("0000:00:05.0", "mlx5_9", minor=9)
    facts = read_hcas(roots(tmp_path))
    assert [hca.pci for hca in facts.hcas] == [PF]
    assert [(vf.pci, vf.driver, vf.rdma, vf.rdma_here) for vf in facts.lone] == [
        ("0000:00:05.0", "mlx5_core", "mlx5_9", True)
    ]
    assert [group.label for group in facts.groups] == [f"PF eth100 ({PF})", "VFs without a PF"]


@pytest.mark.parametrize(("text", "mode"), [("N", "exclusive"), ("Y", "shared"), (None, "shared")])
def test_the_rdma_mode(tmp_path: Path, text: str | None, mode: str) -> None:
    make_node(tmp_path)
    parameter = tmp_path / "sys/module/ib_core/parameters/netns_mode"
    parameter.unlink()
    if text:
        write(parameter, f"{text}\n")
    assert read_hcas(roots(tmp_path)).rdma_mode == mode


def test_a_missing_node(tmp_path: Path) -> None:
    make_node(tmp_path)
    (tmp_path / "dev/infiniband/uverbs1").unlink()
    assert read_hcas(roots(tmp_path)).verbs_nodes == ("uverbs1",)


def test_nothing_at_all(tmp_path: Path) -> None:
    assert read_hcas(roots(tmp_path)) == HcaFacts(
        hcas=(), ethernet=(), modules=frozenset(), rdma_mode="", verbs_nodes=()
    )


def test_ports(tmp_path: Path) -> None:
    make_node(tmp_path)
    ports = read_ports(roots(tmp_path), ("mlx5_0", "mlx5_1", "gone"), frozenset(["mlx5_1"]))
    assert (ports["mlx5_0"].state, ports["mlx5_0"].physical, ports["mlx5_0"].lid) == ("ACTIVE", "LinkUp", 5)
    assert (ports["mlx5_0"].sm_lid, ports["mlx5_0"].pkeys) == (1, ())
    assert ports["mlx5_1"].pkeys == (0xFFFF, 0x8001, 0)
    assert ports["gone"].state == ""


# ---- configurations


def test_a_configuration_of_the_node(tmp_path: Path) -> None:
    write_conf(tmp_path, logFile="/var/log/x.log", guid="02:00:00:00:00:00:00:01")
    write(
        tmp_path / "etc/cni/net.d/00-multus.conf",
        json.dumps({"type": "multus", "name": "m", "kubeconfig": "/k", "delegates": [CONF]}),
    )
    write(tmp_path / "etc/cni/net.d/notes.txt", "ib-sriov")
    facts = read_configs(roots(tmp_path), Options())
    assert [(network.origin, network.name, network.faults) for network in facts.networks] == [
        ("/etc/cni/net.d/00-multus.conf", "ib", ()),
        ("/etc/cni/net.d/10-ib.conf", "ib", ()),
    ]
    network = facts.networks[1]
    assert (network.isolation, network.link_state, network.pkey, network.ipam_type) == (
        True,
        "auto",
        0x8001,
        "host-local",
    )
    assert (network.log_file, network.guid) == ("/var/log/x.log", "02:00:00:00:00:00:00:01")
    assert facts.files == ("00-multus.conf", "10-ib.conf")
    assert [path for path, _ in facts.multus] == ["/etc/cni/net.d/00-multus.conf"]
    assert facts.multus_missing == ("/k",)
    assert [(pool.size, pool.used, pool.exhausted) for pool in facts.pools] == [(5, 0, False)]


def test_an_exhausted_pool(tmp_path: Path) -> None:
    write_conf(tmp_path)
    for number in range(2, 7):
        write(tmp_path / f"var/lib/cni/networks/ib/10.1.0.{number}", f"c{number}\r\nnet1")
    (pool,) = read_configs(roots(tmp_path), Options()).pools
    assert (pool.size, pool.used, pool.exhausted) == (5, 5, True)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"ipam": {"type": "dhcp"}}, "dhcp"),
        ({"rdmaIsolation": "true", "mtu": 1}, "mtu must be between 68 and 65520 (got 1)"),
        ({"name": ""}, "name is missing"),
        ({"cniVersion": "9.9.9"}, "is not supported"),
        ({"ipam": {"type": "host-local"}}, "no IP ranges"),
    ],
)
def test_faults_of_a_configuration(tmp_path: Path, more: dict[str, object], words: str) -> None:
    write_conf(tmp_path, **more)
    (network,) = read_configs(roots(tmp_path), Options()).networks
    assert words in "; ".join(network.faults)


def test_node_wide_defaults_and_keys_in_another_case(tmp_path: Path) -> None:
    write_conf(tmp_path, rdmaIsolation=None, LogFile="/var/log/y.log", logLevel="loud")
    defaults = tmp_path / "etc/ib-sriov/defaults.json"
    write(defaults, '{"rdmaIsolation": true, "logFile": "/var/log/x.log", "link_state": "enable"}')
    defaults.chmod(0o644)
    write_record(tmp_path, conf={**CONF, "rdmaIsolation": None})
    network, recorded = read_configs(roots(tmp_path), Options()).networks
    assert (network.isolation, network.link_state, network.log_file) == (True, "auto", "/var/log/y.log")
    assert [words.partition(" ")[0] for words in network.unknown] == ["logLevel"]
    assert recorded.isolation is False, "a record has the defaults of its ADD"
    write(defaults, '{"rdmaIsolaton": true}')
    facts = read_configs(roots(tmp_path), Options())
    ((path, reason, ours),) = [(file.path, file.reason, file.ours) for file in facts.broken]
    assert (path, ours) == ("/etc/ib-sriov/defaults.json", True)
    assert reason.startswith("rdmaIsolaton cannot be set for a whole node")
    assert facts.networks[0].isolation is False


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    write(tmp_path / "etc/cni/net.d/10-ours.conf", '{"type": "ib-sriov",')
    write(tmp_path / "etc/cni/net.d/20-theirs.conf", "{")
    write(tmp_path / "etc/cni/net.d/30-list.conflist", "[1]")
    (tmp_path / "etc/cni/net.d/40-binary.conf").write_bytes(b"\xff\xfe")
    (tmp_path / "etc/cni/net.d/50-folder.conf").mkdir()
    broken = read_configs(roots(tmp_path), Options()).broken
    assert [(os.path.basename(file.path), file.ours) for file in broken] == [
        ("10-ours.conf", True),
        ("20-theirs.conf", False),
        ("30-list.conflist", False),
        ("40-binary.conf", False),
        ("50-folder.conf", False),
    ]
    assert "not JSON" in broken[0].reason


def test_definitions_given_by_hand(tmp_path: Path) -> None:
    lines = ["---", *json.dumps(NAD, indent=1).splitlines(), "---", "kind: ConfigMap", "metadata: {name: x}", ""]
    write(tmp_path / "given/nad.yaml", "\n".join(lines))
    write(tmp_path / "given/list.json", json.dumps({"kind": "List", "items": [NAD, {"kind": "Pod"}]}))
    write(tmp_path / "given/broken.yaml", "a: [")
    write(tmp_path / "given/inner.json", json.dumps({**NAD, "spec": {"config": "{"}}))
    facts = read_configs(roots(tmp_path), Options(config_files=(str(tmp_path / "given"),)))
    assert [(os.path.basename(network.origin), network.name) for network in facts.networks] == [
        ("list.json (fabric)", "fabric"),
        ("nad.yaml (fabric)", "fabric"),
    ]
    assert [(os.path.basename(file.path), file.ours) for file in facts.broken] == [
        ("broken.yaml", True),
        ("inner.json", True),
    ]
    assert "spec.config of fabric is not JSON" in facts.broken[1].reason


def test_yaml_makes_no_objects() -> None:
    with pytest.raises(ValueError, match="not YAML"):
        parse_documents("!!python/object/apply:os.getcwd []", yaml=True)


def test_slices_of_flannel(tmp_path: Path) -> None:
    ranges = {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/16"}]], "slices": {"flannel": True, "count": 64}}
    write_conf(tmp_path, ipam=ranges)
    facts = read_configs(roots(tmp_path), Options())
    ((words, hint),) = facts.slice_faults
    assert "/run/flannel/subnet.env" in words
    assert "flanneld" in hint
    write(tmp_path / "run/flannel/subnet.env", "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.3.1/24\n")
    facts = read_configs(roots(tmp_path), Options())
    assert facts.slice_faults == ()
    assert facts.slices == ("slice 3 of 64 (/run/flannel/subnet.env)",)
    assert facts.pools[0].size == 1022  # without x.x.x.0 and x.x.x.255 at its ends


# ---- records, leases, locks


def write_record(root: Path, **more: object) -> None:
    records = Records(str(root / "var/lib/cni/ib-sriov"))
    ownership = Ownership(str(root / "var/lib/cni/ib-sriov"))
    record = replace(RECORD, **{"conf": CONF, **more})
    records.write(record)
    ownership.claim(record.pci, record.key)


def read(root: Path) -> StateFacts:
    return read_state(roots(root), read_configs(roots(root), Options()).networks)


def test_a_dead_attachment_with_its_lease(tmp_path: Path) -> None:
    make_node(tmp_path)
    write_record(tmp_path, committed=True)
    write(tmp_path / "var/lib/cni/networks/ib/10.1.0.2", "c1\r\nnet1")
    write(tmp_path / "var/lib/cni/networks/ib/10.1.0.3", "reserved by hand")
    write(tmp_path / "var/lib/cni/networks/ib/lock", "")
    before = tree(tmp_path / "var")
    facts = read(tmp_path)
    (record,) = facts.records
    assert (record.key, record.alive, record.busy, record.this_boot, record.vf_exists) == (
        KEY,
        False,
        False,
        True,
        True,
    )
    assert facts.owners == ((str(RECORD.pci), KEY),)
    assert [(lease.address, lease.container_id) for lease in facts.leases] == [("10.1.0.2", "c1")]
    assert (facts.loose, facts.damaged, facts.readable) == ((), (), True)
    assert tree(tmp_path / "var") == before


def test_a_damaged_record_is_told_and_left_where_it_is(tmp_path: Path) -> None:
    make_node(tmp_path)
    write_record(tmp_path)
    folder = tmp_path / "var/lib/cni/ib-sriov/attachments/ib"
    write(folder / "c2:net1.json", "{")
    write(folder / "c3:net1.json.damaged", "{")
    write(folder / "c4:net1.json.new", "{")
    os.symlink("/etc/passwd", folder / "c5:net1.json")
    before = tree(tmp_path / "var")
    names = [os.path.basename(path) for path in read(tmp_path).damaged]
    assert names == ["c2:net1.json", "c3:net1.json.damaged", "c5:net1.json"]
    assert tree(tmp_path / "var") == before


def test_records_that_others_can_read_and_those_of_the_go_plugin(tmp_path: Path) -> None:
    make_node(tmp_path)
    write_record(tmp_path)
    base = tmp_path / "var/lib/cni/ib-sriov"
    os.chmod(base, 0o755)  # noqa: S103  # the fault that is to be found
    write(base / "c9-net1", "{}")
    facts = read(tmp_path)
    assert facts.loose == ("/var/lib/cni/ib-sriov",)
    assert facts.go_records == ("/var/lib/cni/ib-sriov/c9-net1",)


def lock_id(path: Path) -> str:
    status = path.stat()
    return f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"


def test_a_call_on_its_way_holds_its_lock(tmp_path: Path) -> None:
    make_node(tmp_path)
    write_record(tmp_path)
    lock = tmp_path / f"run/ib-sriov/{RECORD.pci}.lock"
    write(lock, f"4711 c1 net1 {int(time.time()) - 500}\n")
    write(tmp_path / f"run/ib-sriov/{VF0}.lock", "1 c2 net1 1\n")
    write(tmp_path / "proc/locks", f"1: FLOCK  ADVISORY  WRITE 4711 {lock_id(lock)} 0 EOF\n2: -> FLOCK x\n")
    facts = read(tmp_path)
    (held,) = facts.locks
    assert facts.locks_unread == ""
    assert (held.pci, held.pid, held.container_id) == (str(RECORD.pci), 4711, "c1")
    assert 400 < held.seconds < 10_000
    assert facts.records[0].busy


def test_other_locks_are_no_calls(tmp_path: Path) -> None:
    """The node agent's own lock, and a file with the same inode number on another file system."""
    make_node(tmp_path)
    agent, lock = tmp_path / "run/ib-sriov/agent.lock", tmp_path / f"run/ib-sriov/{RECORD.pci}.lock"
    write(agent, "")
    write(lock, "4711 c1 net1 1\n")
    other = f"fe:dc:{lock.stat().st_ino}"
    lines = [f"{i}: FLOCK  ADVISORY  WRITE 4711 {each} 0 EOF\n" for i, each in enumerate((lock_id(agent), other), 1)]
    write(tmp_path / "proc/locks", "".join(lines))
    facts = read(tmp_path)
    assert (facts.locks, facts.locks_unread) == ((), "")


def test_locks_that_cannot_be_read(tmp_path: Path) -> None:
    make_node(tmp_path)
    locks, folder = tmp_path / "proc/locks", tmp_path / "run/ib-sriov"
    write(locks, "")
    write(folder, "")
    assert read(tmp_path).locks_unread == f"{folder}: Not a directory"
    locks.unlink()
    assert read(tmp_path).locks_unread == f"{locks}: No such file or directory"


def test_a_folder_that_process_1_does_not_share(tmp_path: Path) -> None:
    """In a container whose /run is its own; the root folder of process 1 is that of the host."""
    where = roots(tmp_path)
    for path in ("ours/run/ib-sriov", "ours/only-here", "var/lib/shared"):
        (tmp_path / path).mkdir(parents=True)
    inside = replace(where, root=str(tmp_path / "ours"))
    folders = ("/run/ib-sriov", "/only-here", "/not-there-yet")
    assert [read_folder(inside, path).private for path in folders] == [False] * 3  # process 1 cannot be seen
    (Path(where.proc) / "1").mkdir(parents=True)
    (Path(where.proc) / "1/root").symlink_to(tmp_path / "host")
    (tmp_path / "host/run/ib-sriov").mkdir(parents=True)
    assert [read_folder(inside, path).private for path in folders] == [True, True, False]
    (tmp_path / "host/only-here").symlink_to(tmp_path / "ours/only-here")  # as a mount of the host's folder
    assert not read_folder(inside, "/only-here").private


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    write(tmp_path / "file", "")
    assert read_folder(roots(tmp_path), "/a/b").writable
    assert not read_folder(roots(tmp_path), "/a/b").exists
    assert "is not a folder" in read_folder(roots(tmp_path), "/file").reason
    assert "is not a folder" in read_folder(roots(tmp_path), "/file/below").reason


# ---- the node


def script(path: Path, text: str, seconds: float = 60) -> ProgramFacts:
    write(path, f"#!/bin/sh\n{text}\n")
    os.chmod(path, 0o700)
    return read_program(str(path), Roots(), seconds)


def test_whose_program_it_is(tmp_path: Path) -> None:
    ours = script(tmp_path / "a", "echo ib-sriov 1.2.3")
    assert (ours.kind, ours.version, ours.fault) == ("ours", "1.2.3", "")
    other = script(tmp_path / "b", "echo CNI plugin ib-sriov v1.2.0")
    assert (other.kind, other.fault) == ("unknown", "")
    broken = script(tmp_path / "c", "echo no libz >&2; exit 127")
    assert broken.fault == "it exits with status 127: no libz"
    assert script(tmp_path / "f", "exec sleep 600", 0.5).slow == "no answer within 0.5 s"
    go = tmp_path / "d"
    go.write_bytes(b"\x7fELF" + bytes(100) + b"\xff Go buildinf:" + bytes(100))
    os.chmod(go, 0o700)
    assert read_program(str(go), Roots(), 60).kind == "go"
    os.chmod(go, 0o600)
    assert read_program(str(go), Roots(), 60).fault == "it cannot be executed"
    link(tmp_path / "e", tmp_path / "gone")
    assert not read_program(str(tmp_path / "e"), Roots(), 60).executable


def node(root: Path) -> NodeFacts:
    networks = read_configs(roots(root), Options()).networks
    return read_node(roots(root), Options(), networks)


def test_kubelet_and_multus(tmp_path: Path) -> None:
    make_node(tmp_path)
    folder = tmp_path / "var/lib/kubelet/device-plugins"
    registered = {"nvidia.com/ib_vfs": [str(VF0)]}
    write(
        folder / "kubelet_internal_checkpoint", json.dumps({"Data": {"RegisteredDevices": registered}, "Checksum": 1})
    )
    write(folder / "nvidia.sock", "")
    registry = tmp_path / "var/lib/kubelet/plugins_registry"
    for name in ("nvidia.com_ib_vfs.sock", "csi.example.com-reg.sock", "nvidia.sock"):
        write(registry / name, "")
    info = {"type": "pci", "version": "1.1.0", "pci": {"pci-address": str(VF0), "rdma-device": "mlx5_7"}}
    write(tmp_path / "run/k8s.cni.cncf.io/devinfo/dp/x-device.json", json.dumps(info))
    write(tmp_path / "run/k8s.cni.cncf.io/devinfo/dp/torn.json", "{")
    write(tmp_path / "opt/cni/bin/multus", "")
    facts = node(tmp_path)
    assert facts.device_plugin.resources == (("nvidia.com/ib_vfs", (str(VF0),)),)
    assert facts.device_plugin.sockets == ("nvidia.sock", "nvidia.com_ib_vfs.sock")  # the other one is a CSI driver's
    assert facts.device_plugin.devinfo == (("x-device.json", str(VF0), "mlx5_7"),)
    assert [os.path.basename(path) for path in facts.multus] == ["multus"]
    assert (facts.kernel, facts.release) == ((6, 12), "6.12.1-amd64")


@pytest.mark.parametrize("doc", [None, [], {}, {"Data": None}, {"Data": []}])
def test_a_checkpoint_that_is_none(doc: object) -> None:
    with pytest.raises(ValueError, match="no Data"):
        parse_checkpoint(doc)


def test_a_checkpoint_before_any_device_plugin() -> None:
    assert parse_checkpoint({"Data": {"RegisteredDevices": None}}) == ()
    assert parse_checkpoint({"Data": {"RegisteredDevices": {"r": None}}}) == (("r", ()),)


@pytest.mark.parametrize(
    ("release", "numbers"),
    [("6.12.1-amd64", (6, 12)), ("4.19-rc1", (4, 19)), ("5.15.0-1034-azure", (5, 15)), ("", (0, 0)), ("x.y", (0, 0))],
)
def test_kernel_releases(release: str, numbers: tuple[int, int]) -> None:
    assert parse_release(release) == numbers


def test_log_files(tmp_path: Path) -> None:
    write_conf(tmp_path, logFile="/var/log/none/x.log")
    assert node(tmp_path).log_folders == (("/var/log/none/x.log", "its folder does not exist"),)
    (tmp_path / "var/log/none").mkdir(parents=True)
    assert node(tmp_path).log_folders == ()
    os.symlink("/dev/null", tmp_path / "var/log/none/x.log")
    assert "symbolic link" in node(tmp_path).log_folders[0][1]
