"""attach.keep_numbers before a rebind, attach.number_gap and attach.lost_devices: what sysfs and records say."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from ib_sriov_cni.attach.host import Host
from ib_sriov_cni.attach.keep_numbers import Renumbering, rebind_in_turn
from ib_sriov_cni.attach.lost_devices import find_lost
from ib_sriov_cni.core.errors import DeviceUnusable, KernelRefused
from ib_sriov_cni.core.plan import VfFacts
from ib_sriov_cni.core.values import Link, PciAddress
from ib_sriov_cni.telemetry.log import Log
from ipam.protocol.value import replace
from tests.unit.trees import KEY, PF, RECORD, VF, Tree, write

FIRST = PciAddress("0000:3b:00.3")
DRIVER = "mlx5_core"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A PF with uverbs0 and three VFs, of which VF has uverbs3; number 1 and 2 are those of the other two."""
    tree = Tree(tmp_path / "sys")
    tree.add_pf()
    tree.add_rdma(PF, "mlx5_0", minor=0)
    for index, pci in enumerate((FIRST, "0000:3b:00.4", VF)):
        tree.add_vf(pci, index)
    tree.add_rdma("0000:3b:00.4", "mlx5_2", minor=2, here=False)
    tree.add_rdma(VF, "mlx5_3", minor=3)
    return tree


def host_of(tmp_path: Path) -> Host:
    write(tmp_path / "proc/sys/kernel/random/boot_id", "b\n")
    return Host(
        log=Log(),
        state_dir=str(tmp_path / "state"),
        lock_dir=str(tmp_path / "locks"),
        sysfs_root=str(tmp_path / "sys"),
        proc_root=str(tmp_path / "proc"),
    )


def refusal(host: Host) -> DeviceUnusable:
    with pytest.raises(DeviceUnusable) as caught:
        rebind_in_turn(host, VF, DRIVER, Renumbering(devices=None, holder=KEY.holder, seconds=0, may_change=False))
    return caught.value


def test_a_gap_refuses_before_anything_is_unbound(tree: Tree, tmp_path: Path) -> None:
    fault = refusal(host_of(tmp_path))
    assert "uverbs3, issm3, umad3; a rebind would give it uverbs1, umad1, issm1" in fault.msg
    assert "Free is uverbs1, umad1" in fault.details
    assert (tree.driver(DRIVER) / "unbind").read_text() == ""


def test_the_vf_that_is_without_devices_is_named(tree: Tree, tmp_path: Path) -> None:
    (tree.device(FIRST) / "driver").unlink()
    write(tree.device(PF) / "sriov_totalvfs", "16\n")
    assert f"VF {FIRST} (no driver)" in refusal(host_of(tmp_path)).details
    assert f"echo {FIRST} > /sys/bus/pci/drivers_probe" in refusal(host_of(tmp_path)).details


def test_a_vf_that_a_killed_call_left_is_bound_first(tree: Tree, tmp_path: Path) -> None:
    """In this tree its devices do not appear, so the rebind is refused afterwards."""
    (tree.device(FIRST) / "driver").unlink()
    host = host_of(tmp_path)
    key = replace(KEY, container_id="killed")
    host.records.write(replace(RECORD, key=key, pci=FIRST, had_char_devices=("uverbs1", "umad1"), driver=DRIVER))
    host.ownership.claim(FIRST, key)
    with host.locks.take(FIRST, key.holder, 0):
        refusal(host)
        assert (tree.driver(DRIVER) / "bind").read_text() == ""
    fault = refusal(host)
    assert (tree.driver(DRIVER) / "bind").read_text() == FIRST
    assert f"VF {FIRST} (pod train/worker-0" in fault.details


# ---- lost devices


class Kernel:
    """NETLINK_RDMA with the users of each device."""

    def __init__(self, users: dict[str, list[str | int]] | None) -> None:
        self.users = users

    def read_devices(self) -> dict[str, int]:
        return dict.fromkeys(self.users or (), 1)

    def find_device(self, name: str) -> int | None:
        return self.read_devices().get(name)

    def read_users(self, name: str) -> list[str | int]:
        if self.users is None:
            raise KernelRefused("list the users of", name, errno.EOPNOTSUPP)
        return self.users[name]


class Asking(Host):
    """A host with a fake NETLINK_RDMA."""

    rdma: Any = None


def lost(tmp_path: Path, users: dict[str, list[str | int]] | None, **changes: Any) -> str:
    host = Asking(log=Log(), sysfs_root=str(tmp_path / "sys"))
    host.rdma = Kernel(users)
    rdma = host.sysfs.read_rdma(VF)
    facts = VfFacts(
        function=host.sysfs.read_function(VF),
        pf_link=None,
        configs={},
        rdma=rdma,
        netdev=None,
        rdma_here=rdma is not None and rdma.node_guid is not None,
        mode="shared",
    )
    return find_lost(host, replace(facts, **changes))


def test_a_netdev_that_no_namespace_has(tree: Tree, tmp_path: Path) -> None:
    assert lost(tmp_path, {"mlx5_0": ["ib_ipoib"], "mlx5_3": []}) == "netdev"
    assert lost(tmp_path, {"mlx5_0": ["ib_ipoib"], "mlx5_3": [os.getpid()]}) == "netdev"


@pytest.mark.parametrize(
    "users",
    [
        {"mlx5_0": ["ib_ipoib"], "mlx5_3": ["ib_ipoib"]},  # another namespace has it
        {"mlx5_0": [], "mlx5_3": []},  # ib_ipoib is not loaded, or the kernel hides it
        {"mlx5_3": []},
        None,  # the kernel cannot say
    ],
)
def test_a_netdev_that_may_be_somewhere(tree: Tree, tmp_path: Path, users: Any) -> None:
    assert lost(tmp_path, users) == ""


@pytest.mark.parametrize("facts", [{"link_layers": ("Ethernet",)}, {"ipoib": False}])
def test_a_netdev_that_no_rebind_would_make(tree: Tree, tmp_path: Path, facts: dict[str, Any]) -> None:
    assert lost(tmp_path, {"mlx5_0": ["ib_ipoib"], "mlx5_3": []}, **facts) == ""


def test_an_rdma_device_in_another_namespace(tree: Tree, tmp_path: Path) -> None:
    assert lost(tmp_path, {"mlx5_0": ["ib_ipoib"], "mlx5_3": []}, rdma_here=False) == ""


def test_an_rdma_device_that_no_namespace_has(tree: Tree, tmp_path: Path) -> None:
    assert lost(tmp_path, {}, rdma=None, rdma_here=False) == ""  # it is shown by its character devices
    for name in ("infiniband_verbs/uverbs3", "infiniband_mad/umad3"):
        (tree.device(VF) / name).rmdir()
    assert lost(tmp_path, {}, rdma=None, rdma_here=False) == ""
    (tree.device(VF) / "infiniband_mad/issm3").rmdir()
    assert lost(tmp_path, {}, rdma=None, rdma_here=False) == "RDMA device"
    (tree.device(PF) / "infiniband_verbs/uverbs0").rmdir()  # without ib_uverbs nobody sees it in another namespace
    for name in ("umad0", "issm0"):
        (tree.device(PF) / "infiniband_mad" / name).rmdir()
    assert lost(tmp_path, {}, rdma=None, rdma_here=False) == ""


def test_nothing_is_lost(tree: Tree, tmp_path: Path) -> None:
    link = Link(index=1, name="ib3", kind=32, flags=0, mtu=2044, address=b"", operstate="", pci=VF, altnames=())
    assert lost(tmp_path, {"mlx5_0": ["ib_ipoib"], "mlx5_3": []}, netdev=link) == ""
