"""What can be repaired on a fake node, what cannot, and that each repair does what it says and no more."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ib_sriov_cni.core.errors import TryAgainLater
from ib_sriov_cni.node import plan_repair as rep
from ib_sriov_cni.node.apply_repair import apply_repair
from ib_sriov_cni.node.plan_repair import Repair, RepairPlan, plan_repairs
from tests.unit.node import VFS, Node
from tests.unit.trees import PF, tree, write

WEEK = 7 * 86400


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    with made.host:
        yield made


def kinds(plan: RepairPlan) -> list[str]:
    return [repair.kind for repair in plan.repairs]


def only(node: Node, kind: str) -> Repair:
    (repair,) = plan_repairs(node.host).repairs
    assert repair.kind == kind
    return repair


def test_a_healthy_node_needs_nothing(node: Node) -> None:
    plan = plan_repairs(node.host)
    assert (plan.repairs, plan.findings) == ((), ())


def test_planning_changes_nothing(node: Node) -> None:
    node.record(VFS[0], committed=False)
    node.unbind(VFS[1])
    Path(node.host.records.file_of(node.record(VFS[2]).key)).write_text("{")
    before = tree(node.root)
    assert plan_repairs(node.host).repairs
    assert tree(node.root) == before


def test_a_dead_attachment_is_released(node: Node) -> None:
    # From another boot: its devices are gone, so only the record is left to release.
    record = node.record(VFS[0], boot_id="another")
    repair = only(node, rep.RELEASE)
    assert repair.harmless
    assert repair.key == record.key
    assert f"VF {VFS[0]}" in repair.what
    assert "10.1.2.3/24" in repair.what
    assert "before the last boot" in repair.why
    assert apply_repair(node.host, repair) == repair.what
    assert node.host.records.read_keys() == []
    assert node.host.ownership.read_owner(VFS[0]) is None
    assert apply_repair(node.host, repair) == ""


def test_an_attachment_that_lives_again_is_left_alone(node: Node) -> None:
    record = node.record(VFS[0], boot_id="another")
    repair = only(node, rep.RELEASE)
    node.take_away(VFS[0])
    node.record(VFS[0])  # the same attachment, added again in the meantime
    assert apply_repair(node.host, repair) == ""
    assert node.host.records.read_keys() == [record.key]


def test_what_somebody_is_at_work_on_is_left_alone(node: Node) -> None:
    node.record(VFS[0], committed=False)
    node.unbind(VFS[1])
    bind = only_kind(plan_repairs(node.host), rep.BIND)
    with node.host.locks.take(VFS[0], "c net1", 0), node.host.locks.take(VFS[1], "d net1", 0):
        assert kinds(plan_repairs(node.host)) == []
        with pytest.raises(TryAgainLater):
            apply_repair(node.host, bind, lock_timeout=0)
    assert sorted(kinds(plan_repairs(node.host))) == sorted([rep.RELEASE, rep.BIND])


def only_kind(plan: RepairPlan, kind: str) -> Repair:
    (found,) = [repair for repair in plan.repairs if repair.kind == kind]
    return found


def test_a_vf_without_driver_is_bound_to_its_pfs(node: Node) -> None:
    node.unbind(VFS[1])
    repair = only(node, rep.BIND)
    assert repair.what == f"bind VF {VFS[1]} to mlx5_core"
    node.tree.bind(VFS[1], "mlx5_core")  # someone else bound it first
    assert apply_repair(node.host, repair) == ""


@pytest.mark.parametrize(
    ("place", "text", "words"),
    [
        (f"{VFS[1]}/driver_override", "vfio-pci", "driver_override says vfio-pci"),
        (f"{PF}/sriov_drivers_autoprobe", "0", "sriov_drivers_autoprobe of its PF is 0"),
    ],
)
def test_a_vf_that_is_meant_to_have_no_driver_is_only_told_of(node: Node, place: str, text: str, words: str) -> None:
    node.unbind(VFS[1])
    write(node.root / "sys/bus/pci/devices" / place, text + "\n")
    plan = plan_repairs(node.host)
    assert plan.repairs == ()
    (finding,) = plan.findings
    assert finding.pci == VFS[1]
    assert words in finding.hint
    # The only commands that work in both cases.
    override = f"/sys/bus/pci/devices/{VFS[1]}/driver_override"
    assert finding.hint.endswith(f"echo mlx5_core > {override}; echo {VFS[1]} > /sys/bus/pci/drivers_probe")


def test_an_override_that_names_the_drivers_own_name(node: Node) -> None:
    """It lets the driver in even where autoprobe is off."""
    node.unbind(VFS[1])
    write(node.tree.device(VFS[1]) / "driver_override", "mlx5_core\n")
    write(node.root / f"sys/bus/pci/devices/{PF}/sriov_drivers_autoprobe", "0\n")
    assert only(node, rep.BIND).pci == VFS[1]


def test_a_vf_whose_pf_has_no_driver_either(node: Node) -> None:
    node.unbind(VFS[1])
    node.unbind(PF)
    (finding,) = plan_repairs(node.host).findings
    assert "load the driver" in finding.hint


def test_an_override_that_is_none(node: Node) -> None:
    node.unbind(VFS[1])
    write(node.tree.device(VFS[1]) / "driver_override", "(null)\n")
    assert only(node, rep.BIND).pci == VFS[1]


def test_an_owner_without_record_is_removed(node: Node) -> None:
    record = node.record(VFS[3])
    node.host.records.forget(record.key)
    repair = only(node, rep.DISOWN)
    assert "ib/c-w-0:net1 has no record" in repair.why
    assert apply_repair(node.host, repair) == repair.what
    assert node.host.ownership.read_owner(VFS[3]) is None
    assert kinds(plan_repairs(node.host)) == []


def test_an_owner_whose_record_came_meanwhile_stays(node: Node) -> None:
    record = node.record(VFS[3])
    node.host.records.forget(record.key)
    repair = only(node, rep.DISOWN)
    node.record(VFS[3])
    assert apply_repair(node.host, repair) == ""
    assert node.host.ownership.read_owner(VFS[3]) == record.key


def test_an_owner_of_a_vf_that_is_away_stays(node: Node) -> None:
    """Nothing else says whose VF it is."""
    node.take_away(VFS[3])
    record = node.record(VFS[3])
    node.host.records.forget(record.key)
    plan = plan_repairs(node.host)
    assert plan.repairs == ()
    (finding,) = plan.findings
    assert str(VFS[3]) in finding.what
    assert "/unbind" in finding.hint


def age(path: Path, seconds: float) -> Path:
    stamp = time.time() - seconds
    os.utime(path, (stamp, stamp))
    return path


def stray_file(node: Node, name: str, seconds: float) -> Path:
    path = node.state / "attachments/ib" / name
    write(path, "{")
    return age(path, seconds)


def test_stray_files_are_kept_for_a_week(node: Node) -> None:
    old = stray_file(node, "c1:net1.json.damaged", WEEK + 60)
    half = stray_file(node, "c2:net1.json.new", WEEK + 60)
    young = stray_file(node, "c3:net1.json.damaged", WEEK - 60)
    just = stray_file(node, "c4:net1.json.new", 0)
    plan = plan_repairs(node.host)
    assert kinds(plan) == [rep.STRAY_FILE, rep.STRAY_FILE]
    assert {repair.about for repair in plan.repairs} == {str(old), str(half)}
    assert [finding.what.partition(":")[0] for finding in plan.findings] == [str(young).partition(":")[0]]
    for repair in plan.repairs:
        assert apply_repair(node.host, repair) == repair.what
    assert not old.exists()
    assert not half.exists()
    assert young.exists()
    assert just.exists()


def test_the_name_of_a_damaged_record_is_kept_while_its_vf_is_away(node: Node) -> None:
    node.take_away(VFS[0])
    record = node.record(VFS[0])
    node.host.records.forget(record.key)
    stray_file(node, "c-w-0:net1.json.damaged", 2 * WEEK)
    plan = plan_repairs(node.host)
    assert plan.repairs == ()
    assert any(f"VF {VFS[0]} returns to the host" in finding.hint for finding in plan.findings)


def test_a_record_that_is_damaged_now_is_a_finding_and_no_repair(node: Node) -> None:
    record = node.record(VFS[0])
    path = Path(node.host.records.file_of(record.key))
    path.write_text("{")
    age(path, 2 * WEEK)
    plan = plan_repairs(node.host)
    assert plan.repairs == ()
    assert any(str(path) in finding.what for finding in plan.findings)


def test_an_owner_is_set_right_before_the_dead_one_is_released(node: Node) -> None:
    """Otherwise releasing the dead attachment would take the VF from the live one."""
    first = [rep.OWNER, rep.DISOWN, rep.RELEASE]
    assert list(rep.ORDER) == [*first, rep.LINK_STATE, rep.UP, rep.ADDRESS, rep.ROUTE, rep.BIND, rep.STRAY_FILE]
