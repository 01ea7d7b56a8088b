"""ib_sriov_cni.state.records: the Go ib-sriov-cni's records in the same state directory (N6)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ib_sriov_cni.core.record import AttachmentKey
from ib_sriov_cni.core.values import PciAddress
from ib_sriov_cni.state.go_records import GoRecords
from ib_sriov_cni.state.records import Records
from ipam.protocol.value import replace
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


@pytest.fixture
def go_records(tmp_path: Path) -> GoRecords:
    return GoRecords(str(tmp_path))


def put(folder: Path, name: str, doc: object) -> Path:
    path = folder / name
    path.write_text(doc if isinstance(doc, str) else json.dumps(doc))
    return path


def test_n6_a_record_of_the_go_plugin(go_records: GoRecords, tmp_path: Path) -> None:
    path = put(tmp_path, "c1-net1", GO)
    assert go_records.file_of(KEY) == str(path)
    assert go_records.read(KEY) == (GO, path.stat().st_mtime)
    assert go_records.read_keys("ib") == [KEY]
    go_records.forget(KEY)
    go_records.forget(KEY)
    assert not path.exists()
    assert go_records.read(KEY) is None


def test_the_two_kinds_live_side_by_side(records: Records, go_records: GoRecords, tmp_path: Path) -> None:
    put(tmp_path, "c1-net1", GO)
    records.write(RECORD)
    assert records.read(KEY) == RECORD
    assert go_records.read(KEY) is not None
    assert go_records.read_keys("ib") == [KEY]
    records.forget(KEY)
    assert go_records.read(KEY) is not None


@pytest.mark.parametrize("name", [None, "", "ib"])
def test_a_record_without_a_network_is_anybodys(go_records: GoRecords, tmp_path: Path, name: str | None) -> None:
    put(tmp_path, "c1-net1", {**GO, "name": name})
    assert go_records.read(KEY) is not None


def test_another_networks_record_is_left_alone(go_records: GoRecords, tmp_path: Path) -> None:
    path = put(tmp_path, "c1-net1", {**GO, "name": "other"})
    assert go_records.read(KEY) is None
    assert go_records.read_keys("ib") == []
    assert go_records.read_keys("other") == [AttachmentKey(network="other", container_id="c1", ifname="net1")]
    assert path.exists()


def test_names_with_dashes_are_told_apart_by_the_interface(go_records: GoRecords, tmp_path: Path) -> None:
    """The Go plugin's file name joins both parts with a dash; the content shows where to split it."""
    path = put(tmp_path, "a-b-c", {**GO, "ContIFNames": "c"})
    right, wrong = (
        AttachmentKey(network="ib", container_id="a-b", ifname="c"),
        AttachmentKey(network="ib", container_id="a", ifname="b-c"),
    )
    assert go_records.read(wrong) is None, "a DEL of another container must not take this one's VF"
    assert go_records.read(right) is not None
    assert go_records.read_keys("ib") == [right]
    assert path.exists()


def test_an_older_record_does_not_name_its_interface(go_records: GoRecords, tmp_path: Path) -> None:
    put(tmp_path, "c1-net1", {key: item for key, item in GO.items() if key != "ContIFNames"})
    assert go_records.read(KEY) is not None
    assert go_records.read_keys("ib") == [KEY]


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "\0" * 100, '{"a": 1} x'])
def test_a_damaged_one_is_set_aside(go_records: GoRecords, tmp_path: Path, text: str) -> None:
    put(tmp_path, "c1-net1", text)
    assert go_records.read(KEY) is None
    assert tree(tmp_path) == {"c1-net1.damaged": text}
    assert go_records.read_keys("ib") == []
    assert tree(tmp_path) == {"c1-net1.damaged": text}


def test_what_is_no_file_is_not_read(go_records: GoRecords, tmp_path: Path) -> None:
    victim = put(tmp_path, "victim", GO)
    (tmp_path / "c1-net1").symlink_to(victim)
    assert go_records.read(KEY) is None
    (tmp_path / "c1-net1").unlink()
    os.mkfifo(tmp_path / "c1-net1")
    assert go_records.read(KEY) is None
    (tmp_path / "c1-net1").unlink()
    (tmp_path / "c1-net1").mkdir()
    assert go_records.read(KEY) is None
    assert go_records.read_keys("ib") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c1-net1", "victim"]


def test_a_container_id_too_long_for_a_file(go_records: GoRecords) -> None:
    assert go_records.read(AttachmentKey(network="ib", container_id="c" * 300, ifname="net1")) is None


def test_a_later_record_of_the_same_vf(go_records: GoRecords, tmp_path: Path) -> None:
    """The VF belongs to the later record's pod: nothing from the earlier record may be applied to it."""
    for name, pci, written in (("c1-net1", VF, 5), ("c2-net1", VF, 7), ("c3-net1", "0000:3b:00.7", 9)):
        path = tmp_path / name
        path.write_text(json.dumps({"deviceID": pci}))
        os.utime(path, (written, written))
    (tmp_path / "c4-net1").write_text("{")
    (tmp_path / "attachments").mkdir()
    (tmp_path / "c5-net1.damaged").write_text(json.dumps({"deviceID": VF}))
    assert go_records.is_superseded(replace(KEY, container_id="c1"), VF, 5)
    assert not go_records.is_superseded(replace(KEY, container_id="c2"), VF, 7)
    assert not go_records.is_superseded(replace(KEY, container_id="c3"), PciAddress("0000:3b:00.7"), 9)
    assert (tmp_path / "c4-net1").exists(), "not ours to set aside"
