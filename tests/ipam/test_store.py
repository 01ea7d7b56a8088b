"""The parts of the store that calls of the plugin do not reach: what happens between a plan and its write (H5, C14)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from ipam.host_local.allocator import Grant, Holder
from ipam.host_local.config import Place
from ipam.host_local.store import Store, open_store
from ipam.protocol.address import parse_address
from ipam.protocol.errors import StateFailure
from tests.ipam.calls import leases

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

US = Holder(container_id="c", ifname="eth0")


def opened(folder: Path) -> Store:
    store = open_store(Place(data_dir=str(folder), network="net"), create=True)
    assert store is not None
    return store


def grant(text: str, index: int = 0) -> Grant:
    return Grant(index=index, address=parse_address(text), prefix=24, gateway=parse_address("10.0.0.1"))


def test_h5_a_file_made_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        (tmp_path / "net" / "10.0.1.2").write_bytes(b"other\r\neth0")
        with pytest.raises(StateFailure, match=r"10\.0\.0\.2, 10\.0\.1\.2 in .*: File exists"):
            store.reserve(US, [grant("10.0.0.2"), grant("10.0.1.2", 1)])
    assert leases(str(tmp_path / "net")) == {"10.0.1.2": b"other\r\neth0"}
    with opened(tmp_path) as store:
        assert store.held(US) == []


def test_c14_one_lease_that_cannot_be_removed_does_not_keep_the_others(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.reserve(US, [grant("10.0.0.2"), grant("10.0.1.2", 1), grant("10.0.2.2", 2)])
    (tmp_path / ".ib-index" / "net" / "seal").unlink()
    stuck = tmp_path / "net" / "10.0.1.2"
    with opened(tmp_path) as store:
        assert len(store.held(US)) == 3
        stuck.unlink()
        stuck.mkdir()
        with pytest.raises(StateFailure, match=r"cannot release in .*: 10\.0\.1\.2: Is a directory"):
            store.release(US)
    assert [path.name for path in (tmp_path / "net").iterdir() if path.name.startswith("10.")] == ["10.0.1.2"]
    stuck.rmdir()
    stuck.write_bytes(b"c\r\neth0")
    with opened(tmp_path) as store:
        assert store.release(US) == ["10.0.1.2"]


def test_a_failure_of_the_disk_is_a_state_failure(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with pytest.raises(StateFailure, match="No space left"), store:
        raise OSError(28, "No space left on device")


def calls_of(act: Callable[[], object]) -> list[str]:
    """Return the system calls that change or sync something, in order, as the interpreter reports them."""
    seen: list[str] = []

    def record(_frame: object, event: str, function: object) -> None:
        if event == "c_call" and getattr(function, "__module__", "") == "posix":
            seen.append(getattr(function, "__name__", ""))

    before = sys.getprofile()
    sys.setprofile(record)
    try:
        act()
    finally:
        sys.setprofile(before)
    return [name for name in seen if name in ("write", "fsync", "link", "rename", "unlink", "utime", "symlink")]


def test_h8_a_lease_is_synced_before_it_has_its_name_and_its_folder_afterwards(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        calls = calls_of(lambda: store.reserve(US, [grant("10.0.0.2"), grant("10.0.1.2", 1)]))
        lease = ["unlink", "write", "fsync", "link", "unlink"]
        cursor = ["unlink", "write", "rename"]
        assert calls[:17] == [*lease, *lease, *cursor, *cursor, "fsync"]
        assert set(calls[17:]) <= {"unlink", "symlink"}
        assert calls_of(lambda: store.release(US))[:3] == ["unlink", "unlink", "fsync"]
