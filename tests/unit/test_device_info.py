"""The device-info file that Multus reads again after ADD (N4)."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from ib_sriov_cni.core.errors import StateFailure
from ib_sriov_cni.core.values import PciAddress
from ib_sriov_cni.state.device_info import write_device_info
from ipam.protocol.bounds import FILE_BYTES

PCI, PF = PciAddress("0000:3b:00.2"), PciAddress("0000:3b:00.0")


def test_n4_a_stale_rdma_device_is_replaced_and_the_rest_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "net1-device.json"
    path.write_text(
        json.dumps({"type": "pci", "version": "1.0.0", "pci": {"rdma-device": "mlx5_9", "vhost-net": "x"}, "more": [1]})
    )
    write_device_info(str(path), pci=PCI, pf=PF, rdma="mlx5_2")
    pci = {"pci-address": PCI, "pf-pci-address": PF, "rdma-device": "mlx5_2", "vhost-net": "x"}
    assert json.loads(path.read_text()) == {"type": "pci", "version": "1.0.0", "pci": pci, "more": [1]}


def test_n4_a_function_without_a_pf(tmp_path: Path) -> None:
    path = tmp_path / "net1-device.json"
    path.write_text('{"type": "pci", "version": "1.1.0", "pci": {}}')
    write_device_info(str(path), pci=PCI, pf=None, rdma="")
    assert json.loads(path.read_text())["pci"] == {"pci-address": PCI}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Stands in for the folder that the specification names."""
    return tmp_path / "var/devinfo/cni"


def write(path: Path) -> None:
    """Write with the `folder` fixture's path as the only folder in which new files may be made."""
    above = next((each for each in path.parents if each.name.startswith("test_")), path.parent)
    write_device_info(str(path), pci=PCI, pf=PF, rdma="mlx5_2", new_in=str(above / "var/devinfo/cni"))


def refused(path: Path, words: str) -> None:
    with pytest.raises(StateFailure) as caught:
        write(path)
    assert caught.value.code == 106
    assert f"write device info {path}: {words}" in caught.value.msg
    assert "CNIDeviceInfoFile" in caught.value.details


def test_n4_absent_it_is_made(folder: Path) -> None:
    """So is its folder, under either of its names (var or run), where the specification puts it."""
    (folder.parent.parent.parent / "run").symlink_to("var")
    for path in (folder / "a.json", folder.parent.parent.parent / "run/devinfo/cni/b.json"):
        write(path)
        doc = json.loads(path.read_text())
        assert (doc["type"], doc["version"], doc["pci"]["rdma-device"]) == ("pci", "1.1.0", "mlx5_2")
    assert sorted(os.listdir(folder)) == ["a.json", "b.json"]
    assert folder.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    "path", ["x.json", "etc/x.json", "var/devinfo/x.json", "var/devinfo/dp/x.json", "var/devinfo/cni/../x.json"]
)
def test_nothing_is_made_elsewhere(tmp_path: Path, folder: Path, path: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "var/devinfo/dp").mkdir(parents=True)
    folder.mkdir()
    before = sorted(tmp_path.rglob("*"))
    refused(tmp_path / path, "there is no such file, and a new one is made in ")
    assert sorted(tmp_path.rglob("*")) == before


def test_no_folder_is_made_elsewhere(tmp_path: Path, folder: Path) -> None:
    refused(tmp_path / "etc/new/x.json", "No such file or directory")
    assert os.listdir(tmp_path) == []


def test_a_link_to_another_folder_does_not_count(tmp_path: Path, folder: Path) -> None:
    """What counts is where the folder really is, not its path."""
    (tmp_path / "etc").mkdir()
    folder.mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path / "etc")
    refused(folder / "link/x.json", "there is no such file")
    assert os.listdir(tmp_path / "etc") == []


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "root:x:0:0:root:/root:/bin/bash",
        "{}",
        '{"password": "x"}',
        '{"type": "bridge", "cniVersion": "1.0.0"}',
        '{"type": "vdpa", "version": "1.1.0", "vdpa": {}}',
        '{"type": "pci", "pci": 7}',
        "\xff\xfe",
        "[" * 200_000,
    ],
)
@pytest.mark.parametrize("place", [".", "var/devinfo/cni"])
def test_a_file_that_is_another_one_is_not_touched(tmp_path: Path, folder: Path, place: str, content: str) -> None:
    """The author of a network can name any file on the node, even one that belongs to another pod."""
    folder.mkdir(parents=True)
    path = tmp_path / place / "file"
    path.write_text(content, encoding="latin-1")
    before = (path.read_bytes(), path.stat())
    refused(path, "it is ")
    assert (path.read_bytes(), path.stat()) == before
    assert sorted(path.parent.glob("*.new")) == []


@pytest.mark.parametrize("content", ['{"type": "pci"}', '{"type": "pci", "pci": {"pci-address": "0000:3b:00.3"}}'])
def test_one_of_an_earlier_try_with_another_vf_is_brought_up_to_date(tmp_path: Path, content: str) -> None:
    """A pod's second ADD may get another VF but the same file."""
    path = tmp_path / "file"
    path.write_text(content)
    write_device_info(str(path), pci=PCI, pf=PF, rdma="mlx5_2")
    wanted = {"pci-address": PCI, "pf-pci-address": PF, "rdma-device": "mlx5_2"}
    assert json.loads(path.read_text()) == {"type": "pci", "pci": wanted}


def test_one_that_is_too_large_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(json.dumps({"type": "pci", "pci": {}, "more": "x" * FILE_BYTES}))
    refused(path, f"it is larger than {FILE_BYTES} bytes")


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder", "socket", "device"])
def test_other_things_are_neither_read_nor_replaced(tmp_path: Path, folder: Path, kind: str) -> None:
    folder.mkdir(parents=True)
    path, target = folder / "net1.json", tmp_path / "target"
    if kind == "link":
        target.write_text(json.dumps({"type": "pci", "pci": {}}))
        path.symlink_to(target)
    elif kind == "dangling link":
        path.symlink_to(target)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    else:
        path = Path("/dev/zero")
    before = path.lstat().st_ino
    refused(path, "")
    assert path.lstat().st_ino == before
    assert not target.exists() or target.read_text() == '{"type": "pci", "pci": {}}'


def test_what_is_right_is_not_written_again(folder: Path) -> None:
    path = folder / "net1-device.json"
    write(path)
    inode = path.stat().st_ino
    write(path)
    assert path.stat().st_ino == inode


def test_what_a_killed_process_of_our_number_left_is_not_in_the_way(folder: Path) -> None:
    folder.mkdir(parents=True)
    path = folder / "net1-device.json"
    (folder / f"{path.name}.{os.getpid()}.new").write_text("torn")
    write(path)
    assert os.listdir(folder) == [path.name]


def test_without_an_rdma_device(folder: Path) -> None:
    path = folder / "net1-device.json"
    write_device_info(str(path), pci=PCI, pf=PF, rdma="", new_in=str(folder))
    assert json.loads(path.read_text())["pci"] == {"pci-address": PCI, "pf-pci-address": PF}


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "var").write_text("")
    refused(folder / "net1-device.json", "Not a directory")


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_path_that_names_no_file(folder: Path, name: str) -> None:
    folder.mkdir(parents=True)
    with pytest.raises(StateFailure, match="write device info"):
        write_device_info(f"{folder}/{name}", pci=PCI, pf=PF, rdma="mlx5_2", new_in=str(folder))
