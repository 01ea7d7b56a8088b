"""ib_sriov_cni.attach.rebind: what keeps a driver from being bound is looked at before the VF loses it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ib_sriov_cni.attach.rebind import rebind
from ib_sriov_cni.core.errors import KernelRefused
from tests.unit.node import VFS, Node
from tests.unit.trees import PF, write


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
