"""The device-info file that Multus reads again after ADD (N4)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ib_sriov_cni.core.errors import StateFailure
from ib_sriov_cni.core.values import PciAddress
from ib_sriov_cni.state.device_info import write_device_info

PCI, PF = PciAddress("0000:3b:00.2"), PciAddress("0000:3b:00.0")


def test_n4_a_stale_rdma_device_is_replaced_and_the_rest_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "net1-device.json"
    path.write_text(
        json.dumps({"type": "pci", "version": "1.0.0", "pci": {"rdma-device": "mlx5_9", "vhost-net": "x"}, "more": [1]})
    )
    write_device_info(str(path), pci=PCI, pf=PF, rdma="mlx5_2")
    pci = {"pci-address": PCI, "pf-pci-address": PF, "rdma-device": "mlx5_2", "vhost-net": "x"}
    assert json.loads(path.read_text()) == {"type": "pci", "version": "1.0.0", "pci": pci, "more": [1]}


@pytest.mark.parametrize("before", [None, "", "{", "[]", '{"pci": 7}'])
def test_n4_absent_or_junk_it_is_made_anew(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / "net1-device.json"
    if before is not None:
        path.write_text(before)
    write_device_info(str(path), pci=PCI, pf=PF, rdma="mlx5_2")
    doc = json.loads(path.read_text())
    assert (doc["type"], doc["version"], doc["pci"]["rdma-device"]) == ("pci", "1.1.0", "mlx5_2")
    assert os.listdir(tmp_path) == [path.name]


def test_what_is_right_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "net1-device.json"
    write_device_info(str(path), pci=PCI, pf=PF, rdma="mlx5_2")
    inode = path.stat().st_ino
    write_device_info(str(path), pci=PCI, pf=PF, rdma="mlx5_2")
    assert path.stat().st_ino == inode


def test_what_a_killed_process_of_our_number_left_is_not_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "net1-device.json"
    (tmp_path / f"{path.name}.{os.getpid()}.new").write_text("torn")
    write_device_info(str(path), pci=PCI, pf=PF, rdma="mlx5_2")
    assert os.listdir(tmp_path) == [path.name]


def test_a_planted_link_is_neither_read_nor_written_through(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text('{"password": "x"}')
    path = tmp_path / "net1-device.json"
    path.symlink_to(secret)
    write_device_info(str(path), pci=PCI, pf=PF, rdma="mlx5_2")
    assert secret.read_text() == '{"password": "x"}'
    assert not path.is_symlink()
    assert "password" not in json.loads(path.read_text())


def test_a_pipe_in_its_place_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "net1-device.json"
    os.mkfifo(path)
    write_device_info(str(path), pci=PCI, pf=PF, rdma="mlx5_2")
    assert json.loads(path.read_text())["type"] == "pci"


def test_its_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "cni" / "net1-device.json"
    write_device_info(str(path), pci=PCI, pf=PF, rdma="")
    assert "rdma-device" not in json.loads(path.read_text())["pci"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "net1-device.json"
    with pytest.raises(StateFailure, match=f"write device info {path}: "):
        write_device_info(str(path), pci=PCI, pf=PF, rdma="mlx5_2")
