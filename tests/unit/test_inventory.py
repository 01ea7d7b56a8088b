"""A node's inventory from a fake tree: every state of a VF, and what could not be read. Nothing is changed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ib_sriov_cni.core.record import AttachmentKey, Record
from ib_sriov_cni.core.values import Guid
from ib_sriov_cni.node import inventory as inv
from ib_sriov_cni.node.plan_repair import plan_repairs
from ib_sriov_cni.node.read_inventory import read_inventory
from ib_sriov_cni.state.locks import Locks
from ib_sriov_cni.state.records import Records
from tests.unit.node import VFS, Node, NodeHost
from tests.unit.trees import PF, tree, write


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    with made.host:
        yield made


def state_of(node: Node, index: int) -> str:
    return read_inventory(node.host).vfs[index].state


def test_a_node_at_rest(node: Node) -> None:
    found = read_inventory(node.host)
    (pf,) = found.pfs
    assert (pf.pci, pf.driver, pf.netdev, pf.rdma, pf.total_vfs) == (PF, "mlx5_core", "nopf0", "mlx5_0", 16)
    assert [vf.pci for vf in pf.vfs] == VFS
    assert {vf.state for vf in pf.vfs} == {inv.FREE}
    assert pf.vfs[1].netdev == "ibvf1"
    assert pf.vfs[1].rdma == "mlx5_2"
    assert pf.vfs[1].port_guid == Guid(0x0200000000000002)
    assert (found.attachments, found.damaged, found.foreign) == ((), (), ())


def test_a_pf_that_speaks_ethernet_is_another_plugins_business(node: Node) -> None:
    write(node.tree.device(PF) / "infiniband/mlx5_0/ports/1/link_layer", "Ethernet\n")
    assert read_inventory(node.host).pfs == ()


def test_the_port_is_read(node: Node) -> None:
    folder = node.tree.device(PF) / "infiniband/mlx5_0/ports/1"
    for name, text in (("state", "4: ACTIVE"), ("phys_state", "5: LinkUp"), ("lid", "0x1a"), ("rate", "200 Gb/sec")):
        write(folder / name, text + "\n")
    port = read_inventory(node.host).pfs[0].port
    assert port is not None
    assert (port.state, port.physical, port.lid, port.sm_lid, port.rate) == ("ACTIVE", "LinkUp", 26, 0, "200 Gb/sec")


def test_in_use(node: Node) -> None:
    node.take_away(VFS[1])
    record = node.record(VFS[1])
    vf = read_inventory(node.host).vfs[1]
    assert vf.state == inv.IN_USE
    assert vf.attachment is not None
    assert vf.attachment.key == record.key
    assert vf.attachment.addresses == ("10.1.2.3/24",)
    assert (vf.attachment.alive, vf.attachment.state, vf.attachment.owner) == (True, "alive", True)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"committed": False}, "never finished"),
        ({"committed": False, "result": {"awaitsPort": 1.5}}, "its VF keeps the GUID for the next try"),
        ({"boot_id": "another"}, "before the last boot"),
        ({"at_home": True, "netns_path": "/nowhere/at/all"}, "/nowhere/at/all is gone"),
        ({"at_home": True}, "back in the host's namespace"),
    ],
)
def test_leftover_and_why(node: Node, changes: dict[str, Any], why: str) -> None:
    if not changes.pop("at_home", False):
        node.take_away(VFS[0])
    node.record(VFS[0], **changes)
    vf = read_inventory(node.host).vfs[0]
    assert vf.state == inv.LEFTOVER
    assert why in vf.note
    assert vf.attachment is not None
    assert vf.attachment.state == "dead"


def test_a_namespace_that_cannot_be_seen_is_not_taken_for_gone(node: Node) -> None:
    node.take_away(VFS[0])
    node.record(VFS[0], netns_path="/nowhere/at/all")
    vf = read_inventory(node.host).vfs[0]
    assert vf.state == inv.UNKNOWN
    assert "not at /nowhere/at/all" in vf.note
    assert vf.attachment is not None
    assert (vf.attachment.alive, vf.attachment.state) == (None, "unknown")


def test_a_living_holder_comes_before_a_dead_one(node: Node) -> None:
    node.take_away(VFS[0])
    node.record(VFS[0], "old", committed=False)
    node.record(VFS[0], "new", owner=False)
    vf = read_inventory(node.host).vfs[0]
    assert vf.state == inv.IN_USE
    assert vf.attachment is not None
    assert vf.attachment.name == "train/new"


class Ending(Locks):
    """A DEL ends just before somebody looks who holds the lock."""

    def __init__(self, node: Node, record: Record) -> None:
        super().__init__(str(node.root / "run/ib-sriov"))
        self.records, self.record = node.host.records, record

    def read_holder(self, pci: str) -> str:
        self.records.forget(self.record.key)
        return super().read_holder(pci)


class Late(Records):
    """An ADD ends just after the records were listed."""

    def read_keys(self) -> list[AttachmentKey]:
        return []


class OtherHost(NodeHost):
    """The node's host, with another door."""

    def __init__(self, node: Node, *, locks: Locks | None = None, records: Records | None = None) -> None:
        super().__init__(node.root)
        self.locks, self.records = locks or self.locks, records or self.records


def test_an_attachment_that_is_released_meanwhile_is_not_dead(node: Node) -> None:
    """Its VF is back before its record is removed."""
    record = node.record(VFS[0])
    node.host.ownership.disclaim(VFS[0], record.key)
    with OtherHost(node, locks=Ending(node, record)) as host:
        found = read_inventory(host)
    assert found.attachments == ()
    assert found.vfs[0].state == inv.FREE


def test_an_attachment_that_is_made_meanwhile_is_found_by_its_vf(node: Node) -> None:
    node.take_away(VFS[0])
    record = node.record(VFS[0])
    with OtherHost(node, records=Late(str(node.state))) as host:
        found = read_inventory(host)
    assert [held.key for held in found.attachments] == [record.key]
    assert found.vfs[0].state == inv.IN_USE


def test_busy_while_the_lock_is_held(node: Node) -> None:
    node.record(VFS[0], committed=False)
    with node.host.locks.take(VFS[0], "c-w-0 net1", 0):
        found = read_inventory(node.host)
    assert found.vfs[0].state == inv.BUSY
    assert f"process {os.getpid()} (container c-w-0, net1" in found.vfs[0].note
    assert found.attachments[0].state == "busy"
    assert state_of(node, 0) == inv.LEFTOVER


def test_looking_at_a_lock_does_not_hold_it(node: Node) -> None:
    with node.host.locks.take(VFS[0], "x net1", 0):
        pass
    assert node.host.locks.read_holder(VFS[0]) == ""
    with open(node.root / f"run/ib-sriov/{VFS[0]}.lock", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_states_that_no_record_explains(node: Node) -> None:
    node.unbind(VFS[0])
    node.take_away(VFS[1])
    (node.tree.device(VFS[2]) / "net").rename(node.tree.device(VFS[2]) / ".net")
    assert [vf.state for vf in read_inventory(node.host).vfs] == [inv.UNBOUND, inv.UNMANAGED, inv.NO_NETDEV, inv.FREE]


def test_without_rdma_device(node: Node) -> None:
    node.take_away(VFS[1])
    (node.tree.device(VFS[1]) / "infiniband_verbs").rename(node.tree.device(VFS[1]) / ".verbs")
    assert state_of(node, 1) == inv.NO_RDMA


def test_passed_through_and_free(node: Node) -> None:
    node.take_away(VFS[0])
    node.unbind(VFS[0])
    node.tree.bind(VFS[0], "vfio-pci")
    assert state_of(node, 0) == inv.FREE


def test_the_go_plugins_record(node: Node) -> None:
    node.take_away(VFS[2])
    doc = f'{{"deviceID": "{VFS[2]}", "ContIFNames": "net-1", "name": "go"}}'
    write(node.state / "4f-5e-net-1", doc)
    found = read_inventory(node.host)
    assert found.vfs[2].state == inv.FOREIGN
    (foreign,) = found.foreign
    assert (foreign.container_id, foreign.ifname, foreign.network, foreign.pci) == ("4f-5e", "net-1", "go", VFS[2])


def test_an_owner_without_record(node: Node) -> None:
    record = node.record(VFS[3])
    node.host.records.forget(record.key)
    vf = read_inventory(node.host).vfs[3]
    assert vf.state == inv.LEFTOVER
    assert "ib/c-w-0:net1 has no record" in vf.note


def test_damaged_records_are_told_and_left_where_they_are(node: Node) -> None:
    node.take_away(VFS[0])
    record = node.record(VFS[0])
    path = Path(node.host.records.file_of(record.key))
    path.write_text("{")
    write(path.with_name("c2:net1.json.damaged"), "x")
    write(path.with_name("c3:net1.json.new"), "x")
    write(node.state / "go-net1.damaged", "x")
    before = tree(node.root)
    found = read_inventory(node.host)
    assert tree(node.root) == before
    named = {Path(item.path).name: (item.key.container_id if item.key else None, item.pci) for item in found.damaged}
    assert named == {
        "c-w-0:net1.json": ("c-w-0", VFS[0]),
        "c2:net1.json.damaged": ("c2", None),
        "c3:net1.json.new": ("c3", None),
        "go-net1.damaged": (None, None),
    }
    assert found.vfs[0].state == inv.UNMANAGED
    assert found.foreign == ()


def test_a_record_that_somebody_planted_as_a_link_is_damaged(node: Node) -> None:
    record = node.record(VFS[0])
    path = Path(node.host.records.file_of(record.key))
    path.unlink()
    path.symlink_to("/etc/passwd")
    (damaged,) = read_inventory(node.host).damaged
    assert "symbolic link" in damaged.words
    assert path.is_symlink()


def test_a_pf_whose_netdev_cannot_be_asked_is_named(node: Node) -> None:
    found = read_inventory(node.host)
    assert any("nopf0" in words for words in found.unseen)
    assert found.vfs[0].config is None


def test_records_that_cannot_be_listed_are_named(node: Node) -> None:
    """A symlink loop stands in for a missing permission, which root would not lack."""
    node.take_away(VFS[0])
    node.state.parent.mkdir(parents=True)
    os.symlink("loop", node.root / "var/lib/cni/loop")
    os.symlink("loop", node.state)
    found = read_inventory(node.host)
    assert any(words.startswith("the records (") for words in found.unseen)
    assert found.vfs[0].state == inv.UNKNOWN
    assert found.vfs[1].state == inv.FREE


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0", b"junk\n", b"9" * 5000, b"-1\n", b":::::::\n"])
def test_a_file_of_sysfs_that_is_garbled_hides_nothing_else(node: Node, content: bytes) -> None:
    """Whatever a driver writes there, all attachments are listed, and so are all other PFs and VFs."""
    node.take_away(VFS[0])
    record = node.record(VFS[0])
    files = [path for path in (node.root / "sys").rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 20
    for path in files:
        before = path.read_bytes()
        path.write_bytes(content)
        found = read_inventory(node.host)
        assert [held.key for held in found.attachments] == [record.key], path
        plan_repairs(node.host, found)
        if not str(path).startswith(str(node.tree.device(PF))) and "uverbs0" not in path.parts:  # not a file of the PF
            assert len(found.pfs) == 1, path
            assert len(found.vfs) >= len(VFS) - 1, path
        path.write_bytes(before)
    assert [vf.pci for vf in read_inventory(node.host).vfs] == VFS


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "5", "[]", '{"deviceID": 5}', '{"ContIFNames": [1], "name": {}}', "\0", '{"deviceID": "\\ud800"}'],
)
def test_a_garbled_record_of_the_go_plugin_hides_nothing(node: Node, text: str) -> None:
    node.take_away(VFS[0])
    record = node.record(VFS[0])
    write(node.state / "4f5e-net1", text)
    found = read_inventory(node.host)
    assert [held.key for held in found.attachments] == [record.key]
    assert found.vfs[0].state == inv.IN_USE


def test_a_deep_record_is_damaged_or_unseen(node: Node) -> None:
    """For JSON that is nested too deeply, Python does not raise ValueError."""
    good, bad = node.record(VFS[0], "good"), node.record(VFS[1], "bad")
    Path(node.host.records.file_of(bad.key)).write_text("[" * 200_000)
    found = read_inventory(node.host)
    assert [held.key for held in found.attachments] == [good.key]
    assert [item.key for item in found.damaged] == [bad.key] or any("c-bad" in words for words in found.unseen)
    vf = found.vfs[1]
    assert vf.state in {inv.UNKNOWN, inv.LEFTOVER}


def test_every_state_is_explained() -> None:
    names = {"FREE", "IN_USE", "BUSY", "LEFTOVER", "UNBOUND", "NO_NETDEV", "NO_RDMA", "FOREIGN", "UNMANAGED", "UNKNOWN"}
    assert {getattr(inv, name) for name in names} == set(inv.STATES)
