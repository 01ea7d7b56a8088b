"""Names and settings of a VF's devices are restored if the kernel lets us, and are never a reason to fail."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ib_sriov_cni.attach.host import Host
from ib_sriov_cni.attach.restore_names import restore_names, restore_rdma_name
from ib_sriov_cni.core.errors import KernelRefused
from ib_sriov_cni.core.values import ARPHRD_INFINIBAND, IFF_UP, Link, RdmaDevice
from ib_sriov_cni.telemetry.log import Log
from ipam.protocol.value import replace
from tests.unit.node import VFS, Node
from tests.unit.trees import RECORD, write

VF = VFS[0]
NETDEV = Link(
    index=10,
    name="ibvf0",
    kind=ARPHRD_INFINIBAND,
    flags=IFF_UP,
    mtu=2044,
    address=bytes(20),
    operstate="up",
    pci=VF,
    altnames=(),
)
RDMA = RdmaDevice(name="mlx5_1", char_devices=("uverbs1",), node_guid=None, port_guid=None)
Answer = Callable[[int], int]  # of the number of the try to an errno, 0 for success


class Kernel:
    """Both netlinks of a kernel that answers each rename and each setting as told."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.tries = 0
        self.names: list[str] = []  # given to devices

    def _do(self, operation: str) -> None:
        self.tries += 1
        number = self.answer(self.tries)
        if number:
            raise KernelRefused(operation, "netdev ibvf0", number)

    def read_link(self, name: str) -> Link | None:
        return replace(NETDEV, name=name)

    def set_down(self, _link: Link) -> None:
        pass

    def set_name(self, _device: object, name: str) -> None:
        self._do(f"rename to {name}")
        self.names.append(name)

    def set_mtu(self, _link: Link, mtu: int) -> None:
        self._do(f"set mtu {mtu} of")

    def add_altname(self, _link: Link, name: str) -> None:
        self._do(f"add altname {name} of")

    def set_up(self, _link: Link) -> None:
        self._do("bring up")


class KernelHost(Host):
    """The host of a fake node with such a kernel."""

    def __init__(self, kernel: Kernel, **places: Any) -> None:
        super().__init__(**places)
        self.kernel = kernel

    def open_rtnl(self, _netns: object = None) -> Any:
        return self.kernel

    def open_rdma(self, _netns: object = None) -> Any:
        return self.kernel


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[Answer], KernelHost]]:
    """A function that makes the host of a node whose kernel answers so; its log is the file `log`."""
    node = Node(tmp_path)

    def made(answer: Answer) -> KernelHost:
        return KernelHost(
            Kernel(answer),
            log=Log(path=str(tmp_path / "log")),
            state_dir=str(node.state),
            lock_dir=str(tmp_path / "run/ib-sriov"),
            sysfs_root=str(tmp_path / "sys"),
            proc_root=str(tmp_path / "proc"),
        )

    yield made
    node.host.close()


def logged(tmp_path: Path) -> str:
    return (tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""


@pytest.mark.parametrize("number", [errno.ENODEV, errno.ENOENT, errno.EBUSY])
def test_a_device_that_somebody_is_working_on_is_renamed_at_last(
    make: Callable[[Answer], KernelHost], tmp_path: Path, number: int
) -> None:
    host = make(lambda count: number if count < 3 else 0)
    restore_rdma_name(host, VF, RDMA, "mlx5_9")
    assert host.kernel.names == ["mlx5_9"]
    assert "not restored" not in logged(tmp_path)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM])
def test_a_kernel_that_renames_nothing_is_asked_once(
    make: Callable[[Answer], KernelHost], tmp_path: Path, number: int
) -> None:
    host = make(lambda _: number)
    restore_rdma_name(host, VF, RDMA, "mlx5_9")
    assert host.kernel.tries == 1
    assert "name not restored: rename to mlx5_9" in logged(tmp_path)


def test_a_netdev_that_stays_up(make: Callable[[Answer], KernelHost], tmp_path: Path) -> None:
    host = make(lambda _: errno.EBUSY)
    record = replace(RECORD, pci=VF, had_netdev="ib7", had_rdma="", had_altnames=("ibp59s0f0v1",), had_mtu=4092)
    restore_names(host, replace(record, had_up=True), RDMA, NETDEV)
    said = logged(tmp_path)
    assert "name not restored: rename to ib7" in said
    settings = [line for line in said.splitlines() if "setting not restored" in line]
    operations = ("add altname ibp59s0f0v1 of", "set mtu 4092 of", "bring up")
    assert len(settings) == len(operations)
    for operation, line in zip(operations, settings, strict=True):
        assert operation in line


def test_a_name_whose_holder_cannot_be_looked_at(make: Callable[[Answer], KernelHost], tmp_path: Path) -> None:
    """Its owner's lock cannot be opened: nothing that a DEL of this VF should fail for."""
    host = make(lambda _: errno.EEXIST)
    host.ownership.claim(VFS[1], RECORD.key)
    write(tmp_path / "run/ib-sriov", "")  # a file in the place of the folder
    restore_rdma_name(host, VF, RDMA, "mlx5_2")
    assert "name not restored: open lock" in logged(tmp_path)
