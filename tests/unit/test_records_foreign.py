"""ib_sriov_cni.records: the Go ib-sriov-cni's records in the same state directory (N6)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ib_sriov_cni.model import PciAddress
from ib_sriov_cni.records import Key, Records
from ipam.value import replace
from tests.unit.trees import KEY, RECORD, VF, tree

GO = {
    "cniVersion": "0.3.1",
    "name": "ib",
    "type": "ib-sriov",
    "Master": "ib0",
    "deviceID": "0000:3b:00.2",
    "VFID": 1,
    "HostIFNames": "ib1",
    "HostIFGUID": "00:00:0b:9c:fe:80:00:00:00:00:00:00:02:00:00:00:00:00:00:11",
    "ContIFNames": "net1",
    "rdmaIsolation": True,
}


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(str(tmp_path))


def put(folder: Path, name: str, doc: object) -> Path:
    path = folder / name
    path.write_text(doc if isinstance(doc, str) else json.dumps(doc))
    return path


def test_n6_a_record_of_the_go_plugin(records: Records, tmp_path: Path) -> None:
    path = put(tmp_path, "c1-net1", GO)
    assert records.foreign_file_of(KEY) == str(path)
    assert records.read_foreign(KEY) == (GO, path.stat().st_mtime)
    assert records.read_foreign_keys("ib") == [KEY]
    records.forget_foreign(KEY)
    records.forget_foreign(KEY)
    assert not path.exists()
    assert records.read_foreign(KEY) is None


def test_the_two_kinds_live_side_by_side(records: Records, tmp_path: Path) -> None:
    put(tmp_path, "c1-net1", GO)
    records.write(RECORD)
    assert records.read(KEY) == RECORD
    assert records.read_foreign(KEY) is not None
    assert records.read_foreign_keys("ib") == [KEY]
    records.forget(KEY)
    assert records.read_foreign(KEY) is not None


@pytest.mark.parametrize("name", [None, "", "ib"])
def test_a_record_without_a_network_is_anybodys(records: Records, tmp_path: Path, name: str | None) -> None:
    put(tmp_path, "c1-net1", {**GO, "name": name})
    assert records.read_foreign(KEY) is not None


def test_another_networks_record_is_left_alone(records: Records, tmp_path: Path) -> None:
    path = put(tmp_path, "c1-net1", {**GO, "name": "other"})
    assert records.read_foreign(KEY) is None
    assert records.read_foreign_keys("ib") == []
    assert records.read_foreign_keys("other") == [Key(network="other", container_id="c1", ifname="net1")]
    assert path.exists()


def test_names_with_dashes_are_told_apart_by_the_interface(records: Records, tmp_path: Path) -> None:
    """The Go plugin's file name joins both parts with a dash; what is inside says where."""
    path = put(tmp_path, "a-b-c", {**GO, "ContIFNames": "c"})
    right, wrong = Key(network="ib", container_id="a-b", ifname="c"), Key(network="ib", container_id="a", ifname="b-c")
    assert records.read_foreign(wrong) is None, "a DEL of another container must not take this one's VF"
    assert records.read_foreign(right) is not None
    assert records.read_foreign_keys("ib") == [right]
    assert path.exists()


def test_an_older_record_does_not_name_its_interface(records: Records, tmp_path: Path) -> None:
    put(tmp_path, "c1-net1", {key: item for key, item in GO.items() if key != "ContIFNames"})
    assert records.read_foreign(KEY) is not None
    assert records.read_foreign_keys("ib") == [KEY]


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "\0" * 100, '{"a": 1} x'])
def test_a_damaged_one_is_set_aside(records: Records, tmp_path: Path, text: str) -> None:
    put(tmp_path, "c1-net1", text)
    assert records.read_foreign(KEY) is None
    assert tree(tmp_path) == {"c1-net1.damaged": text}
    assert records.read_foreign_keys("ib") == []
    assert tree(tmp_path) == {"c1-net1.damaged": text}


def test_what_is_no_file_is_not_read(records: Records, tmp_path: Path) -> None:
    victim = put(tmp_path, "victim", GO)
    (tmp_path / "c1-net1").symlink_to(victim)
    assert records.read_foreign(KEY) is None
    (tmp_path / "c1-net1").unlink()
    os.mkfifo(tmp_path / "c1-net1")
    assert records.read_foreign(KEY) is None
    (tmp_path / "c1-net1").unlink()
    (tmp_path / "c1-net1").mkdir()
    assert records.read_foreign(KEY) is None
    assert records.read_foreign_keys("ib") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c1-net1", "victim"]


def test_a_container_id_too_long_for_a_file(records: Records) -> None:
    assert records.read_foreign(Key(network="ib", container_id="c" * 300, ifname="net1")) is None


def test_a_later_record_of_the_same_vf(records: Records, tmp_path: Path) -> None:
    """The VF serves that one's pod: nothing of the earlier one may be forced on it."""
    for name, pci, written in (("c1-net1", VF, 5), ("c2-net1", VF, 7), ("c3-net1", "0000:3b:00.7", 9)):
        path = tmp_path / name
        path.write_text(json.dumps({"deviceID": pci}))
        os.utime(path, (written, written))
    (tmp_path / "c4-net1").write_text("{")
    (tmp_path / "attachments").mkdir()
    (tmp_path / "c5-net1.damaged").write_text(json.dumps({"deviceID": VF}))
    assert records.is_superseded(replace(KEY, container_id="c1"), VF, 5)
    assert not records.is_superseded(replace(KEY, container_id="c2"), VF, 7)
    assert not records.is_superseded(replace(KEY, container_id="c3"), PciAddress("0000:3b:00.7"), 9)
    assert (tmp_path / "c4-net1").exists(), "not ours to set aside"
