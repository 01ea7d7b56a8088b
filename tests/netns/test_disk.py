"""Records, locks and logs on a file system that is full or read-only; needs root to mount one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ib_sriov_cni.core.errors import StateFailure
from ib_sriov_cni.state.locks import Locks
from ib_sriov_cni.state.ownership import Ownership
from ib_sriov_cni.state.records import Records
from ib_sriov_cni.telemetry.log import Log
from ipam.protocol.value import replace
from tests.unit.trees import KEY, RECORD, VF

Remount = Callable[[str], None]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small tmpfs."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def make_read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)


def fill(disk: Path) -> Path:
    path = disk / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    return path


def test_a_full_disk_leaves_the_record_as_it_was(disk: Path) -> None:
    records = Records(str(disk / "state"))
    records.write(RECORD)
    filler = fill(disk)
    large = replace(RECORD, committed=True, conf={"x": "y" * 20_000})
    with pytest.raises(StateFailure, match=r"write record .*: No space left on device") as caught:
        records.write(large)
    assert "free space" in caught.value.details
    assert records.read(KEY) == RECORD
    assert [path.name for path in (disk / "state/attachments/ib").iterdir()] == ["c1:net1.json"]
    filler.unlink()
    records.write(large)
    assert records.read(KEY) == large


def test_a_full_disk_does_not_keep_from_forgetting(disk: Path) -> None:
    records = Records(str(disk / "state"))
    ownership = Ownership(str(disk / "state"))
    records.write(RECORD)
    ownership.claim(VF, KEY)
    fill(disk)
    ownership.disclaim(VF, KEY)
    records.forget(KEY)
    assert records.read(KEY) is None
    assert ownership.read_owner(VF) is None


def test_a_read_only_disk(disk: Path) -> None:
    records = Records(str(disk / "state"))
    ownership = Ownership(str(disk / "state"))
    records.write(RECORD)
    ownership.claim(VF, KEY)
    (disk / "locks").mkdir()
    make_read_only(disk)
    assert records.read(KEY) == RECORD
    assert ownership.read_owner(VF) == KEY
    changes: list[Callable[[], object]] = [
        lambda: records.write(RECORD),
        lambda: ownership.claim(VF, KEY),
        lambda: ownership.disclaim(VF, KEY),
        lambda: records.forget(KEY),
        lambda: Records(str(disk / "other")).write(RECORD),
        lambda: Locks(str(disk / "locks")).take(VF, "c1 net1", 0.0),
    ]
    for change in changes:
        with pytest.raises(StateFailure, match="Read-only file system") as caught:
            change()
        assert caught.value.code == 106
    assert records.read(KEY) == RECORD


def test_a_lock_holds_where_its_holder_cannot_be_written_down(disk: Path) -> None:
    locks = Locks(str(disk / "locks"))
    with locks.take(VF, "c1 net1", 0.0):
        pass
    (disk / "locks" / f"{VF}.lock").write_text("")
    fill(disk)
    with locks.take(VF, "c1 net1", 0.0):
        pass


def test_a_log_that_finds_no_room_fails_nothing(disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = Log(path=str(disk / "log"))
    fill(disk)
    log.warning("one")
    assert "msg=one" in capfd.readouterr().err
    (disk / "filler").unlink()
    log.close()
    make_read_only(disk)
    log.warning("two")
    assert "cannot open logFile" in capfd.readouterr().err


def test_a_folder_of_somebody_else_below_the_state_directory(tmp_path: Path) -> None:
    """Planted before ours existed, in a state directory that others can write to: refused, and nothing is written."""
    records = Records(str(tmp_path))
    (tmp_path / "attachments").mkdir()
    os.chown(tmp_path / "attachments", 65534, 65534)
    with pytest.raises(StateFailure, match="its folder belongs to user 65534"):
        records.write(RECORD)
    assert list((tmp_path / "attachments").iterdir()) == []
