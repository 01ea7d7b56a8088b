"""ib_sriov_cni.state.records: what is written is read back, whole or not at all, whatever else is at the path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ib_sriov_cni.core.errors import StateFailure
from ib_sriov_cni.core.record import AttachmentKey, Record, parse_record, render_record
from ib_sriov_cni.core.values import GUID_MAX, Guid, PciAddress
from ib_sriov_cni.state.directory import MAX_RECORD
from ib_sriov_cni.state.ownership import Ownership
from ib_sriov_cni.state.records import Records
from ipam.protocol.fastjson import dumps, loads
from ipam.protocol.value import replace
from tests.unit.trees import KEY, RECORD, VF, tree


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "lib/cni/ib-sriov"


@pytest.fixture
def records(state: Path) -> Records:
    return Records(str(state))


@pytest.fixture
def ownership(state: Path) -> Ownership:
    return Ownership(str(state))


# ---- what is written is read back

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)  # as variables and paths are
GUIDS = st.integers(0, GUID_MAX).map(Guid)
REPORTED_GUIDS = st.integers(0, GUID_MAX - 1).map(Guid)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
NAMES = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]{0,20}", fullmatch=True)
IFNAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/:", exclude_categories=("Cc", "Zs")), min_size=1, max_size=3
).filter(lambda name: name not in {".", ".."})
KEYS = st.builds(AttachmentKey, network=NAMES, container_id=NAMES, ifname=IFNAMES)
RECORDS = st.builds(
    Record,
    key=KEYS,
    pci=st.just(VF),
    boot_id=TEXT,
    netns_path=TEXT,
    netns_cookie=st.integers(0, GUID_MAX),
    pod=TEXT,
    since=st.floats(0, 1e12),
    committed=st.booleans(),
    rdma_isolation=st.booleans(),
    driver=TEXT,
    had_netdev=TEXT,
    had_altnames=st.lists(TEXT, max_size=3).map(tuple),
    had_mtu=st.integers(0, 1 << 31),
    had_up=st.booleans(),
    had_rdma=TEXT,
    had_char_devices=st.lists(st.sampled_from(("uverbs0", "umad12", "issm12")), max_size=3).map(tuple),
    had_node_guid=st.none() | GUIDS,
    had_port_guid=st.none() | GUIDS,
    had_config_node_guid=st.none() | REPORTED_GUIDS,
    had_config_port_guid=st.none() | REPORTED_GUIDS,
    had_link_state=TEXT,
    port_guid=GUIDS,
    node_guid=GUIDS,
    sets_guid=st.booleans(),
    link_state=TEXT,
    conf=st.dictionaries(TEXT, JSON, max_size=3),
    args=TEXT,
    result=st.dictionaries(TEXT, JSON, max_size=3),
    child_pkey=st.integers(0, 0xFFFF),
)


@given(RECORDS)
def test_a_record_is_read_back_from_its_document(record: Record) -> None:
    assert parse_record(loads(dumps(render_record(record)))) == record


@given(RECORDS)
def test_a_record_is_read_back_from_disk(tmp_path_factory: pytest.TempPathFactory, record: Record) -> None:
    state = tmp_path_factory.mktemp("state") / "s"
    records = Records(str(state))
    ownership = Ownership(str(state))
    records.write(record)
    assert records.read(record.key) == record
    assert records.read_keys() == [record.key]
    ownership.claim(record.pci, record.key)
    assert ownership.read_owner(record.pci) == record.key
    ownership.disclaim(record.pci, record.key)
    records.forget(record.key)
    assert tree(state) == {}


@given(KEYS)
def test_a_key_is_read_back_from_its_path(key: AttachmentKey) -> None:
    assert AttachmentKey.parse(key.path) == key


@pytest.mark.parametrize(
    "path", ["", "/", "a", "a/b", "a/:", "a/b:", "a/:c", "/b:c", "a/b:c/d", "../../x", "/etc/passwd"]
)
def test_what_is_no_key(path: str) -> None:
    assert AttachmentKey.parse(path) is None


def test_c12_names_with_dashes_are_told_apart(records: Records) -> None:
    one = AttachmentKey(network="n", container_id="a-b", ifname="c")
    other = AttachmentKey(network="n", container_id="a", ifname="b-c")
    records.write(replace(RECORD, key=one, pod="one"))
    records.write(replace(RECORD, key=other, pod="other"))
    found = [records.read(key) for key in (one, other)]
    assert [record.pod for record in found if record] == ["one", "other"]
    records.forget(one)
    assert records.read_keys() == [other]


def test_a_record_is_replaced(records: Records, state: Path) -> None:
    records.write(RECORD)
    records.write(replace(RECORD, committed=True))
    found = records.read(KEY)
    assert found is not None
    assert found.committed
    assert list(tree(state)) == ["attachments/ib/c1:net1.json"]


def test_reading_makes_nothing(records: Records, ownership: Ownership, state: Path) -> None:
    assert records.read(KEY) is None
    assert ownership.read_owner(VF) is None
    assert records.read_keys() == []
    records.forget(KEY)
    ownership.disclaim(VF, KEY)
    assert not state.exists()


@pytest.mark.parametrize("mask", [0, 0o022, 0o077, 0o277])
def test_modes_whatever_the_umask(
    records: Records, ownership: Ownership, state: Path, tmp_path: Path, mask: int
) -> None:
    before = os.umask(mask)
    try:
        records.write(RECORD)
        ownership.claim(VF, KEY)
    finally:
        os.umask(before)
    for folder in (state, state / "attachments", state / "attachments/ib", state / "devices"):
        assert folder.stat().st_mode & 0o777 == 0o700, folder
    assert (state / "attachments/ib/c1:net1.json").stat().st_mode & 0o777 == 0o600
    for folder in (tmp_path / "lib", tmp_path / "lib/cni"):
        assert folder.stat().st_mode & 0o022 == 0, "nobody else may put files where the state directory is"


def test_a_large_configuration_is_read_back(records: Records) -> None:
    # Standard input may be 1 MiB (ipam.protocol.edge); as ASCII, each letter here takes three times its bytes.
    conf: dict[str, object] = {"name": "ib", "x": "ü" * (1 << 19)}
    records.write(replace(RECORD, conf=conf, result={"y": "ü" * (1 << 19)}))
    found = records.read(KEY)
    assert found is not None
    assert found.conf == conf


def test_a_configuration_that_cannot_be_written_leaves_nothing(records: Records, state: Path) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(StateFailure, match="nested too deeply"):
        records.write(replace(RECORD, conf={"x": deep}))
    assert not state.exists()


# ---- what is not a record of ours


def document(**changes: object) -> bytes:
    return dumps({**render_record(RECORD), **changes}).encode()


def test_a_record_from_before_p_keys_had_an_interface() -> None:
    assert parse_record(loads(without("child_pkey"))) == RECORD


def without(name: str) -> bytes:
    doc = render_record(RECORD)
    del doc[name]
    return dumps(doc).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 4096,
        b"{",
        b"[]",
        b"null",
        b"5",
        b'"x"',
        b"\xff\xfe",
        b"{}",
        document()[:-1],
        document() + b"x",
        document(schema=0),
        document(schema=2),
        document(schema="1"),
        document(novelty=1),
        document(key="ib/c1:net1"),
        document(key={"network": "ib"}),
        document(pci="x"),
        document(pci=None),
        document(guid="x"),
        document(guid=None),
        document(node_guid=None),
        document(guid=5),
        document(had_altnames=None),
        document(had_altnames="abc"),
        document(committed=1),
        document(committed="true"),
        document(had_mtu="2044"),
        document(conf=[]),
        document(result=None),
        document(since="now"),
        without("schema"),
        without("pci"),
        without("conf"),
        without("had_config_node_guid"),
        document(args="a\0b"),
        document(netns_path="/run/netns/a\0b"),
    ],
)
def test_a_damaged_record_is_set_aside(records: Records, state: Path, content: bytes) -> None:
    folder = state / "attachments/ib"
    folder.mkdir(parents=True)
    (folder / "c1:net1.json").write_bytes(content)
    assert records.read(KEY) is None
    assert [path.name for path in folder.iterdir()] == ["c1:net1.json.damaged"]
    assert (folder / "c1:net1.json.damaged").read_bytes() == content
    records.write(RECORD)
    assert records.read(KEY) == RECORD


def test_another_attachments_record_is_not_this_ones(records: Records, state: Path) -> None:
    folder = state / "attachments/ib"
    folder.mkdir(parents=True)
    (folder / "c1:net1.json").write_bytes(document(key={"network": "ib", "container_id": "c2", "ifname": "net1"}))
    assert records.read(KEY) is None


def test_planted_links_are_not_followed(records: Records, state: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(document())
    folder = state / "attachments/ib"
    folder.mkdir(parents=True)
    for name in ("c1:net1.json", "c1:net1.json.new"):
        (folder / name).symlink_to(victim)
    assert records.read(KEY) is None, "the record of a planted link is not believed"
    records.write(replace(RECORD, pod="ours"))
    found = records.read(KEY)
    assert found is not None
    assert found.pod == "ours"
    assert victim.read_bytes() == document()
    records.forget(KEY)
    assert victim.exists()


@pytest.mark.parametrize("name", ["attachments", "attachments/ib", "devices"])
@pytest.mark.parametrize("full", [True, False])
def test_links_planted_in_place_of_folders_are_not_followed(
    records: Records, ownership: Ownership, state: Path, tmp_path: Path, name: str, full: bool
) -> None:
    """Neither read nor written through, whatever they point to; renamed, so that they block nothing."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    if full:
        (elsewhere / "ib").mkdir()
        for place in (elsewhere, elsewhere / "ib"):
            (place / "c1:net1.json").write_bytes(document(pod="planted"))
        (elsewhere / VF).symlink_to("ib/c1:net1")
    before = tree(elsewhere)
    (state / name).parent.mkdir(parents=True)
    (state / name).symlink_to(elsewhere)
    assert records.read_keys() == []
    assert ownership.read_owners() == []
    assert records.read(KEY) is None
    assert ownership.read_owner(VF) is None
    assert (state / f"{name}.damaged").is_symlink()
    records.write(RECORD)
    ownership.claim(VF, KEY)
    assert records.read(KEY) == RECORD
    assert records.read_keys() == [KEY]
    assert ownership.read_owner(VF) == KEY
    ownership.disclaim(VF, KEY)
    records.forget(KEY)
    assert tree(elsewhere) == before
    assert elsewhere.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("name", ["attachments", "attachments/ib", "devices"])
def test_folders_that_were_there_become_private(records: Records, ownership: Ownership, state: Path, name: str) -> None:
    (state / name).mkdir(parents=True)
    (state / name).chmod(0o777)
    records.write(RECORD)
    ownership.claim(VF, KEY)
    assert (state / name).stat().st_mode & 0o777 == 0o700


def test_a_planted_second_name_is_not_written_to(records: Records, state: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = state / "attachments/ib"
    folder.mkdir(parents=True)
    os.link(victim, folder / "c1:net1.json.new")
    records.write(RECORD)
    assert victim.read_text() == "precious"
    assert records.read(KEY) == RECORD


def test_a_pipe_in_the_way_is_not_waited_for(records: Records, state: Path) -> None:
    folder = state / "attachments/ib"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "c1:net1.json")
    assert records.read(KEY) is None
    records.write(RECORD)
    assert records.read(KEY) == RECORD


def test_a_folder_in_the_way(records: Records, state: Path) -> None:
    (state / "attachments/ib/c1:net1.json/x").mkdir(parents=True)
    with pytest.raises(StateFailure, match=r"write record .*c1:net1.json: Is a directory"):
        records.write(RECORD)
    with pytest.raises(StateFailure, match="remove record"):
        records.forget(KEY)
    assert [path.name for path in (state / "attachments/ib").iterdir()] == ["c1:net1.json"]
    assert records.read(KEY) is None
    assert [path.name for path in (state / "attachments/ib").iterdir()] == ["c1:net1.json.damaged"]


def test_a_record_that_is_too_large(records: Records, state: Path) -> None:
    """It is not read to its end: a record has at most MAX_RECORD bytes."""
    records.write(RECORD)
    path = state / "attachments/ib/c1:net1.json"
    os.truncate(path, 1 << 40)
    with pytest.raises(ValueError, match=f"it is larger than {MAX_RECORD} bytes"):
        records.inspect(KEY)
    assert records.read(KEY) is None
    assert path.with_name("c1:net1.json.damaged").exists()


@pytest.mark.parametrize("name", [".", "lib", "lib/cni", "lib/cni/ib-sriov", "lib/cni/ib-sriov/attachments"])
def test_a_file_where_a_folder_should_be(
    records: Records, ownership: Ownership, state: Path, tmp_path: Path, name: str
) -> None:
    if name == ".":
        records = Records("/proc/self/nowhere/ib-sriov")
    else:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert records.read(KEY) is None
    assert ownership.read_owner(VF) is None
    with pytest.raises(StateFailure) as caught:
        records.write(RECORD)
    assert caught.value.code == 106
    assert "writable" in caught.value.details
    records.forget(KEY)


@pytest.mark.parametrize("length", [223, 224, 230, 231, 240, 255, 4000])
def test_a_container_id_too_long_for_a_file(records: Records, ownership: Ownership, state: Path, length: int) -> None:
    key = replace(KEY, container_id="c" * length, ifname="i" * 15)
    records.write(RECORD)
    # Nothing can have been attached under it, so a DEL finds nothing (C13).
    assert records.read(key) is None
    records.forget(key)
    ownership.disclaim(VF, key)
    if length <= 230:  # with ":", a 15-character interface name and ".json.new": exactly 255, the limit of a file name
        records.write(replace(RECORD, key=key))
        assert records.read(key) is not None
    else:
        with pytest.raises(StateFailure, match="File name too long") as caught:
            records.write(replace(RECORD, key=key))
        assert caught.value.code == 106
        assert list(tree(state)) == ["attachments/ib/c1:net1.json"]


# ---- who owns a VF


def test_the_owner_of_a_vf(ownership: Ownership, state: Path) -> None:
    other = replace(KEY, container_id="c2")
    ownership.claim(VF, KEY)
    assert ownership.read_owner(VF) == KEY
    assert ownership.read_owner(PciAddress("0000:3b:00.3")) is None
    ownership.claim(VF, other)
    assert ownership.read_owner(VF) == other
    ownership.disclaim(VF, KEY)
    assert ownership.read_owner(VF) == other, "a late DEL does not take the VF from the next pod"
    ownership.claim(PciAddress("0000:3b:00.3"), KEY)
    assert sorted(ownership.read_owners()) == [(VF, other), ("0000:3b:00.3", KEY)]
    ownership.disclaim(VF, other)
    ownership.disclaim(VF, other)
    assert ownership.read_owner(VF) is None
    assert tree(state) == {"devices/0000:3b:00.3": "-> ib/c1:net1"}


def test_a_claim_cut_short_is_no_owner(ownership: Ownership, state: Path) -> None:
    (state / "devices").mkdir(parents=True)
    (state / "devices" / f"{VF}.new").symlink_to("ib/c9:net1")
    assert ownership.read_owner(VF) is None
    assert ownership.read_owners() == []
    ownership.claim(VF, KEY)
    assert ownership.read_owners() == [(VF, KEY)]


@pytest.mark.parametrize("target", ["/etc/passwd", "..", "x"])
def test_a_link_that_names_no_attachment(ownership: Ownership, state: Path, target: str) -> None:
    (state / "devices").mkdir(parents=True)
    (state / "devices" / VF).symlink_to(target)
    assert ownership.read_owner(VF) is None
    assert ownership.read_owners() == []
    ownership.claim(VF, KEY)
    assert ownership.read_owner(VF) == KEY


def test_a_claim_that_cannot_be_written(ownership: Ownership, state: Path) -> None:
    (state / "devices" / VF / "x").mkdir(parents=True)
    with pytest.raises(StateFailure, match="write owner of VF"):
        ownership.claim(VF, KEY)
    assert ownership.read_owner(VF) is None


def test_stored_names_do_not_change_with_ours(records: Records) -> None:
    """Nodes are upgraded and rolled back with pods running: each version reads what the other wrote."""
    stored = render_record(RECORD)
    assert (stored["guid"], stored["set_guid"]) == (str(RECORD.port_guid), RECORD.sets_guid)
    assert not {"port_guid", "sets_guid"} & stored.keys()
    assert parse_record(stored) == RECORD
    newer = {{"guid": "port_guid", "set_guid": "sets_guid"}.get(name, name): item for name, item in stored.items()}
    assert parse_record(newer) == RECORD
