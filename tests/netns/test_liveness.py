"""ib_sriov_cni.attach.liveness on real namespaces and a fake sysfs: what proves that an attachment is over."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ib_sriov_cni.attach.guid_holders import heal_holder
from ib_sriov_cni.attach.heal import heal, release_dead
from ib_sriov_cni.attach.host import Host
from ib_sriov_cni.attach.liveness import DEAD, HIDDEN, LIVE, LOST, await_verdict, judge
from ib_sriov_cni.core.errors import DeviceUnusable
from ib_sriov_cni.core.fault_collector import FaultCollector
from ib_sriov_cni.core.record import AttachmentKey
from ib_sriov_cni.core.values import Guid, PciAddress
from ib_sriov_cni.kernel.netns import Netns
from ib_sriov_cni.kernel.processes import INIT_PIDS
from ib_sriov_cni.node.plan_repair import plan_repairs
from ib_sriov_cni.telemetry.log import Log
from ipam.protocol.value import replace
from tests.netns.attachment import Attached
from tests.netns.conftest import Sandbox, few_descriptors
from tests.unit.trees import VF

NEXT = AttachmentKey(network="ib", container_id="c2", ifname="net1")


@pytest.fixture
def attached(sandbox: Sandbox, tmp_path: Path) -> Iterator[Attached]:
    made = Attached(tmp_path, sandbox)
    made.host.log.info("opens its file")
    with made.host:
        yield made


@pytest.fixture
def kept(attached: Attached) -> Iterator[None]:
    """The pod's namespace lives on without a path, as it looks from another mount namespace."""
    with attached.sandbox.open():
        attached.sandbox.remove()
        yield


def state(attached: Attached) -> str:
    return judge(attached.host, attached.record).state


def test_live(attached: Attached) -> None:
    assert state(attached) == LIVE


def test_a_pod_that_has_lost_its_vf(attached: Attached) -> None:
    attached.return_devices()
    verdict = judge(attached.host, attached.record)
    assert (verdict.state, verdict.why) == (LOST, f"VF {VF} is back in the host's namespace")


@pytest.mark.usefixtures("kept")
def test_a_path_that_is_not_there_proves_nothing(attached: Attached) -> None:
    verdict = judge(attached.host, attached.record)
    assert verdict.state == HIDDEN
    assert verdict.why == (
        f"its network namespace is not at {attached.sandbox.path}, but VF {VF} is not back in the host's namespace"
    )


def test_a_path_that_cannot_be_opened_proves_nothing(attached: Attached) -> None:
    with few_descriptors(0):
        verdict = judge(attached.host, attached.record)
    assert verdict.state == HIDDEN
    assert f"open network namespace {attached.sandbox.path}: Too many open files" in verdict.why


def test_the_boot_id_that_cannot_be_read_proves_nothing(attached: Attached) -> None:
    assert judge(attached.host_with("/nowhere"), attached.record).state == LIVE
    assert judge(attached.host, replace(attached.record, boot_id="another")).state == DEAD


def test_a_sysfs_that_is_not_there_proves_nothing(attached: Attached) -> None:
    shutil.rmtree(attached.root / "sys/bus")
    assert state(attached) == LIVE
    attached.sandbox.remove()
    assert state(attached) == HIDDEN


def test_the_kernel_returns_the_devices_of_a_dead_namespace(attached: Attached) -> None:
    attached.sandbox.remove()
    assert state(attached) == HIDDEN
    attached.return_devices()
    verdict = judge(attached.host, attached.record)
    assert (verdict.state, verdict.why) == (DEAD, f"its network namespace {attached.sandbox.path} is gone")


def test_it_is_waited_for(attached: Attached) -> None:
    attached.sandbox.remove()
    thread = threading.Timer(0.3, attached.return_devices)
    thread.start()
    assert await_verdict(attached.host, attached.record).state == DEAD
    thread.join()


@pytest.mark.usefixtures("kept")
def test_devices_in_the_pod_that_asks_are_not_back(attached: Attached) -> None:
    """Called inside a pod, sysfs shows that pod's devices, but not the PF's netdev."""
    attached.return_devices()
    attached.hide_pf()
    assert state(attached) == HIDDEN


def test_a_vf_without_driver_or_without_device_is_in_no_namespace(attached: Attached) -> None:
    (attached.tree.device(VF) / "driver").unlink()
    assert state(attached) == LOST
    attached.sandbox.remove()
    assert state(attached) == DEAD
    shutil.rmtree(attached.tree.device(VF))
    assert state(attached) == DEAD


def test_a_vf_with_another_driver(attached: Attached) -> None:
    (attached.tree.device(VF) / "driver").unlink()
    attached.tree.bind(VF, "vfio-pci")
    assert state(attached) == LIVE
    attached.sandbox.remove()
    assert state(attached) == DEAD


class Users:
    """The users of RDMA devices, as the kernel lists them."""

    def __init__(self, **users: list[str | int]) -> None:
        self.users = users

    def read_devices(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.users)}

    def find_device(self, name: str) -> int | None:
        return self.read_devices().get(name)

    def read_users(self, name: str) -> list[str | int]:
        return self.users.get(name, [])

    def close(self) -> None:
        """Nothing is open."""


class HostWithUsers(Host):
    """The attachment's host, where the kernel lists these users."""

    def __init__(self, attached: Attached, users: Users) -> None:
        root = attached.root
        places = {"state_dir": root / "state", "lock_dir": root / "run", "sysfs_root": root / "sys"}
        super().__init__(log=Log(level="error"), **{name: str(path) for name, path in places.items()})
        self.users = users

    def open_rdma(self, netns: Netns | None = None) -> Any:
        assert netns is None
        return self.users


PF_USERS: list[str | int] = ["mlx5_ib", "ib_ipoib"]


@pytest.mark.parametrize(
    ("users", "expected"),
    [
        (Users(mlx5_0=PF_USERS, mlx5_3=["mlx5_ib"]), DEAD),  # the driver has a protection domain of its own
        (Users(mlx5_0=PF_USERS, mlx5_3=["mlx5_ib", "ib_ipoib"]), HIDDEN),
        (Users(mlx5_0=PF_USERS, mlx5_3=["mlx5_ib", 4711]), HIDDEN),
        (Users(mlx5_0=PF_USERS, other=[]), HIDDEN),  # renamed just now
        (Users(mlx5_0=[], mlx5_3=[]), HIDDEN),  # a kernel that shows no modules
    ],
)
def test_a_netdev_that_ended_with_its_namespace(attached: Attached, users: Users, expected: str) -> None:
    """Before Linux 5.13 it does not come back: only the RDMA device does, or was there all the time."""
    attached.return_devices(netdev=False)
    with HostWithUsers(attached, users) as host:
        assert judge(host, attached.record).state == LIVE
        attached.sandbox.remove()
        assert judge(host, attached.record).state == expected


@pytest.mark.usefixtures("kept")
def test_healing_needs_proof_and_says_what_to_do(attached: Attached) -> None:
    with pytest.raises(DeviceUnusable) as caught:
        heal(attached.host, VF, NEXT, 0)
    assert "VF 0000:3b:00.2 belongs to pod train/worker-0" in caught.value.msg
    assert f"not proved: its network namespace is not at {attached.sandbox.path}" in caught.value.msg
    assert "ib-sriov del --force ib/c1:net1" in caught.value.details
    assert attached.host.ownership.read_owner(VF) == attached.record.key


@pytest.mark.usefixtures("kept")
def test_nothing_else_releases_it_either(attached: Attached) -> None:
    collector = FaultCollector()
    assert not release_dead(attached.host, attached.record.key, 0, collector)
    assert plan_repairs(attached.host).repairs == ()
    with few_descriptors(8):
        assert not release_dead(attached.host, attached.record.key, 0, collector)


@pytest.fixture
def all_pids(tmp_path: Path) -> Path:
    """A fake /proc that looks like the node's own, which shows every process."""
    root = tmp_path / "proc"
    (root / "self/ns").mkdir(parents=True)
    (root / "self/ns/pid").symlink_to(INIT_PIDS)
    return root


def test_passed_through(sandbox: Sandbox, tmp_path: Path, all_pids: Path) -> None:
    """No device is evidence; the processes are, if all of them can be seen."""
    attached = Attached(tmp_path, sandbox, driver="vfio-pci")
    assert judge(attached.host_with(str(all_pids)), attached.record).state == LIVE
    with sandbox.open() as netns:
        sandbox.remove()
        (all_pids / "7/ns").mkdir(parents=True)
        (all_pids / "7/ns/net").symlink_to(f"/proc/{os.getpid()}/fd/{netns.fd}")
        verdict = judge(attached.host_with(str(all_pids)), attached.record)
        assert verdict.state == HIDDEN
        assert "a process runs in it" in verdict.why
    shutil.rmtree(all_pids / "7")
    assert judge(attached.host_with(str(all_pids)), attached.record).state == DEAD
    (all_pids / "self/ns/pid").unlink()
    verdict = judge(attached.host_with(str(all_pids)), attached.record)
    assert (verdict.state, "not all processes" in verdict.why) == (HIDDEN, True)


def test_another_namespace_has_its_path(attached: Attached, new_sandbox: Callable[[], Sandbox]) -> None:
    attached.change(netns_path=new_sandbox().path)
    assert state(attached) == HIDDEN
    attached.return_devices()
    assert await_verdict(attached.host, attached.record).state == DEAD


def test_a_dead_holder_of_a_guid_is_released_for_its_next_life(attached: Attached) -> None:
    """A pod of a StatefulSet gets its GUID again, on another VF."""
    other = PciAddress("0000:3b:00.3")
    attached.change(driver="vfio-pci", sets_guid=False)  # so that no device is touched
    heal_holder(attached.host, other, NEXT, attached.record.port_guid, 0)
    assert attached.host.records.read(attached.record.key) is not None  # alive
    attached.change(boot_id=attached.record.boot_id, committed=False)
    heal_holder(attached.host, other, NEXT, Guid(8), 0)
    heal_holder(attached.host, VF, NEXT, attached.record.port_guid, 0)
    assert attached.host.records.read(attached.record.key) is not None  # another GUID; its own VF
    heal_holder(attached.host, other, NEXT, attached.record.port_guid, 0)
    assert attached.host.records.read(attached.record.key) is None
    assert attached.host.ownership.read_owner(VF) is None
