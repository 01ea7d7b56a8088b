"""attach.remaining_users: which RDMA device name the kernel is asked about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ib_sriov_cni.attach.host import Host
from ib_sriov_cni.attach.remaining_users import describe_remaining_user
from ib_sriov_cni.core.values import RdmaDevice
from ib_sriov_cni.telemetry.log import Log
from tests.unit.trees import VF, Tree


class Kernel:
    """Knows one RDMA device by its current name, as NETLINK_RDMA does."""

    def __init__(self, name: str, users: list[str | int]) -> None:
        self.name, self.users = name, users

    def read_users(self, name: str) -> list[str | int]:
        return self.users if name == self.name else []


class Asking(Host):
    """A host with a fake NETLINK_RDMA."""

    rdma: Any = None


def test_a_device_that_udev_has_renamed_since(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.add_pf()
    tree.add_vf(VF, 0)
    tree.add_rdma(VF, "ibp59s0v1")
    host = Asking(log=Log(), sysfs_root=str(tmp_path))
    host.rdma = Kernel("ibp59s0v1", ["ib_ipoib"])
    before = RdmaDevice(name="mlx5_3", char_devices=("uverbs3",), node_guid=None, port_guid=None)
    assert describe_remaining_user(host, VF, before) == "IPoIB interfaces on it: 1, of which the host shows 0"
