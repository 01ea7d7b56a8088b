"""ib_sriov_cni.state.records: killed at any system call, and several at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ib_sriov_cni.core.record import Record, render_record
from ib_sriov_cni.state.ownership import Ownership
from ib_sriov_cni.state.records import Records
from ipam.protocol.value import replace
from tests.unit.trees import KEY, RECORD, VF, tree

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "lib/cni/ib-sriov"


@pytest.fixture
def records(state: Path) -> Records:
    return Records(str(state))


@pytest.fixture
def ownership(state: Path) -> Ownership:
    return Ownership(str(state))


CRASH = """
import json, os, resource, signal, sys
from ib_sriov_cni.core.values import PciAddress
from ib_sriov_cni.state.ownership import Ownership
from ib_sriov_cni.state.records import Records
from ib_sriov_cni.core.record import parse_record
doc, state, act, left, size = sys.argv[1:]
record, records, left = parse_record(json.loads(doc)), Records(state), int(left)
ownership = Ownership(state)

def count(event, arguments):
    global left
    if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.chmod"):
        left -= 1
        if left < 0:
            os._exit(9)

if int(size) >= 0:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), int(size)))
sys.addaudithook(count)
if act == "write":
    records.write(record)
elif act == "claim":
    ownership.claim(record.pci, record.key)
elif act == "disclaim":
    ownership.disclaim(record.pci, record.key)
else:
    records.forget(record.key)
os._exit(0)
"""


def crash(state: Path, act: str, record: Record, *, events: int = 1000, size: int = -1) -> int:
    """Run `act` in a process that dies before system call number `events`, or once a file reaches `size` bytes."""
    doc = json.dumps(render_record(record))
    command = [sys.executable, "-c", CRASH, doc, str(state), act, str(events), str(size)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


@pytest.mark.parametrize("before", [None, RECORD])
def test_killed_while_writing(records: Records, state: Path, before: Record | None) -> None:
    """Either the old or the new record is there, and complete."""
    new = replace(RECORD, committed=True)
    events = 0
    while True:
        if before:
            records.write(before)
        status = crash(state, "write", new, events=events)
        assert records.read(KEY) in (before, new)
        assert not list(state.rglob("*.damaged"))
        if status == 0:
            break
        assert status == 9
        events += 1
    assert events >= 3  # create, chmod, rename
    assert records.read(KEY) == new
    assert list(tree(state)) == ["attachments/ib/c1:net1.json"]


def test_killed_in_the_middle_of_the_write(records: Records, state: Path) -> None:
    records.write(RECORD)
    for size in (0, 1, 100):
        assert crash(state, "write", replace(RECORD, committed=True), size=size) == -25
        assert records.read(KEY) == RECORD
    assert (state / "attachments/ib/c1:net1.json.new").stat().st_size == 100
    records.write(replace(RECORD, committed=True))
    assert list(tree(state)) == ["attachments/ib/c1:net1.json"]


@pytest.mark.parametrize("by", ["DEL", "GC"])
def test_what_a_first_write_cut_short_leaves_is_removed(records: Records, state: Path, by: str) -> None:
    assert crash(state, "write", RECORD, size=100) == -25
    assert list(tree(state)) == ["attachments/ib/c1:net1.json.new"]
    assert records.read(KEY) is None
    if by == "DEL":
        records.sweep("ib", KEY)
    else:
        records.sweep("ib")
    assert tree(state) == {}


def test_a_sweep_takes_nothing_else(records: Records, state: Path) -> None:
    records.write(RECORD)
    (state / "attachments/other").mkdir()
    (state / "attachments/other/c1:net1.json.new").write_text("{")
    records.sweep("ib")
    records.sweep("other", KEY)
    records.sweep("none")
    assert sorted(tree(state)) == ["attachments/ib/c1:net1.json", "attachments/other/c1:net1.json.new"]


@pytest.mark.parametrize("act", ["claim", "disclaim", "forget"])
def test_killed_while_claiming_or_letting_go(records: Records, ownership: Ownership, state: Path, act: str) -> None:
    events = 0
    while True:
        if act == "claim":
            ownership.disclaim(VF, KEY)
        else:
            records.write(RECORD)
            ownership.claim(VF, KEY)
        status = crash(state, act, RECORD, events=events)
        assert ownership.read_owner(VF) in (None, KEY)
        if act != "claim":
            assert records.read(KEY) in (None, RECORD)
        if status == 0:
            break
        events += 1
    assert events > 1
    records.forget(KEY)
    ownership.disclaim(VF, KEY)
    assert tree(state) == {}


COMPANY = """
import json, sys
from ib_sriov_cni.core.values import PciAddress
from ib_sriov_cni.state.ownership import Ownership
from ib_sriov_cni.state.records import Records
from ib_sriov_cni.core.record import AttachmentKey, parse_record
from ipam.protocol.value import replace
record, records = parse_record(json.loads(sys.argv[1])), Records(sys.argv[2])
ownership = Ownership(sys.argv[2])
pci = PciAddress(f"0000:3b:00.{sys.argv[3]}")
key = AttachmentKey(network="ib", container_id=f"c{sys.argv[3]}", ifname="net1")
for _ in range(100):
    records.write(replace(record, key=key))
    ownership.claim(pci, key)
    if records.read(key) is None or ownership.read_owner(pci) != key:
        sys.exit("lost")
    ownership.disclaim(pci, key)
    records.forget(key)
"""


def test_c21_attachments_come_and_go_side_by_side(state: Path) -> None:
    """The last one to leave removes the folders, even while the next one is about to write into them."""
    doc = json.dumps(render_record(RECORD))
    command = [sys.executable, "-c", COMPANY, doc, str(state)]
    company = [
        subprocess.Popen([*command, str(number)], cwd=ROOT, stderr=subprocess.PIPE, text=True) for number in range(4)
    ]
    told = [process.communicate(timeout=120)[1] for process in company]
    assert [process.returncode for process in company] == [0, 0, 0, 0], told
    assert tree(state) == {}


def test_the_record_of_another_attachment(records: Records, state: Path) -> None:
    """A file that was copied or renamed by hand says nothing about the attachment that it is named after."""
    records.write(RECORD)
    path = state / "attachments/ib/c1:net1.json"
    path.rename(path.with_name("c2:net1.json"))
    assert records.read(replace(KEY, container_id="c2")) is None
    assert [each.name for each in path.parent.iterdir()] == ["c2:net1.json.damaged"]
