"""ib_sriov_cni.attach.rebind: what keeps a driver from being bound is looked at before the VF loses it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ib_sriov_cni.attach.driver_override import restore_override
from ib_sriov_cni.attach.heal import heal
from ib_sriov_cni.attach.keep_numbers import bind_in_turn
from ib_sriov_cni.attach.rebind import rebind
from ib_sriov_cni.attach.release import release_device
from ib_sriov_cni.core.errors import KernelRefused
from tests.unit.node import VFS, Node
from tests.unit.trees import KEY, PF, write


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    with made.host:
        yield made


def written(node: Node, name: str) -> str:
    """What was last written to a file of the driver."""
    return (node.tree.driver("mlx5_core") / name).read_text()


@pytest.mark.parametrize("override", ["(null)", "vfio-pci"])
def test_the_driver_is_let_in_for_the_rebind_alone(node: Node, override: str) -> None:
    path = node.tree.device(VFS[0]) / "driver_override"
    write(path, f"{override}\n")
    write(node.tree.device(PF) / "sriov_drivers_autoprobe", "0\n")
    rebind(node.host, VFS[0], "mlx5_core")
    assert (written(node, "unbind"), written(node, "bind")) == (VFS[0], VFS[0])
    assert path.read_text().strip() == override.replace("(null)", "")
    assert "set_override" in node.host.log.steps


@pytest.fixture(params=["", "vfio-pci"])
def forbidding(node: Node, request: pytest.FixtureRequest) -> str:
    """A node where VF 0 gets no driver, and what its driver_override was before a killed call has changed it."""
    write(node.tree.device(PF) / "sriov_drivers_autoprobe", "0\n")
    write(node.tree.device(VFS[0]) / "driver_override", "mlx5_core\n")
    Path(node.root / "run/ib-sriov").mkdir(parents=True)
    node.host.overrides.note(VFS[0], "mlx5_core", request.param)
    return str(request.param)


def overridden(node: Node) -> str:
    return (node.tree.device(VFS[0]) / "driver_override").read_text().strip()


@pytest.mark.parametrize("way", ["release", "heal", "repair"])
def test_what_a_killed_call_has_changed_is_restored(node: Node, forbidding: str, way: str) -> None:
    if way == "release":
        release_device(node.host, node.record(VFS[0], sets_guid=False), 0.0)
    elif way == "heal":
        heal(node.host, VFS[0], KEY, 0.0)
    else:
        bind_in_turn(node.host, VFS[0], "mlx5_core", holder="repair -", seconds=0)
        assert written(node, "bind") == VFS[0]
    assert overridden(node) == forbidding
    # What an administrator writes from now on is his own.
    write(node.tree.device(VFS[0]) / "driver_override", "mlx5_core\n")
    restore_override(node.host, VFS[0])
    assert overridden(node) == "mlx5_core"


def test_what_somebody_else_has_written_since_the_kill_stays(node: Node, forbidding: str) -> None:
    for override in ("pci-stub", "mlx5_core"):
        write(node.tree.device(VFS[0]) / "driver_override", f"{override}\n")
        restore_override(node.host, VFS[0])
        assert overridden(node) == override, forbidding


@pytest.mark.parametrize("content", [b"", b"mlx5_core", b"\xff\n\n", b"\n\n"])
def test_a_note_that_says_nothing_changes_nothing(node: Node, forbidding: str, content: bytes) -> None:
    (node.root / f"run/ib-sriov/{VFS[0]}.override").write_bytes(content)
    restore_override(node.host, VFS[0])
    assert overridden(node) == "mlx5_core", forbidding


def test_a_rebind_needs_no_note(node: Node) -> None:
    """A file in the place of the folder: nothing can be noted, and only a kill would need it."""
    write(node.root / "run/ib-sriov", "")
    write(node.tree.device(VFS[0]) / "driver_override", "vfio-pci\n")
    rebind(node.host, VFS[0], "mlx5_core")
    assert (written(node, "bind"), overridden(node)) == (VFS[0], "vfio-pci")


@pytest.mark.parametrize("override", ["", "vfio-pci"])
def test_a_vf_without_driver_is_bound_where_that_is_forbidden(node: Node, override: str) -> None:
    write(node.tree.device(PF) / "sriov_drivers_autoprobe", "0\n")
    write(node.tree.device(VFS[0]) / "driver_override", f"{override}\n")
    bind_in_turn(node.host, VFS[0], "mlx5_core", holder="repair -", seconds=0)
    assert (written(node, "bind"), overridden(node)) == (VFS[0], override)
    assert "set_override" in node.host.log.steps


def test_an_ordinary_vf_has_no_override_written(node: Node) -> None:
    path = node.tree.device(VFS[0]) / "driver_override"
    write(path, "(null)\n")
    rebind(node.host, VFS[0], "mlx5_core")
    assert path.read_text() == "(null)\n"


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("/proc/sys/kernel/ostype", "driver_override of the VF says Linux"),  # which not even root can write
        ("/proc", "sriov_drivers_autoprobe of its PF is 0"),
    ],
)
def test_a_driver_that_could_not_be_bound_again_is_not_unbound(node: Node, file: str, words: str) -> None:
    write(node.tree.device(PF) / "sriov_drivers_autoprobe", "0\n")
    (node.tree.device(VFS[0]) / "driver_override").symlink_to(file)
    with pytest.raises(KernelRefused, match=f"^set driver_override mlx5_core of VF {VFS[0]}: ") as refused:
        rebind(node.host, VFS[0], "mlx5_core")
    assert words in refused.value.details
    assert written(node, "unbind") == ""
