"""The index: it is used alone while it matches the leases, and is never wrong (H8)."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from ipam.host_local.allocator import Holder
from ipam.host_local.config import Place
from ipam.host_local.store import open_store, parse_lease
from tests.ipam.calls import ask, leases

if TYPE_CHECKING:
    from pathlib import Path


def network(folder: Path) -> dict[str, Any]:
    ipam = {"dataDir": str(folder), "ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/64"}]]}
    return {"cniVersion": "1.1.0", "name": "net", "ipam": ipam}


@pytest.fixture
def conf(tmp_path: Path) -> dict[str, Any]:
    """A network with three attachments, and an index that has them."""
    made = network(tmp_path)
    for container in ("a", "b", "c"):
        ask("ADD", made, container)
    return made


def entries(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / ".ib-index" / "net"
    return {name: str(folder.joinpath(name).readlink()) for name in os.listdir(folder) if name != "seal"}


EXPECTED = {"a:eth0": "10.0.0.2,fd00::2", "b:eth0": "10.0.0.3,fd00::3", "c:eth0": "10.0.0.4,fd00::4"}


def test_what_it_says(conf: dict[str, Any], tmp_path: Path) -> None:
    assert entries(tmp_path) == EXPECTED
    ask("DEL", conf, "b")
    assert entries(tmp_path) == {"a:eth0": "10.0.0.2,fd00::2", "c:eth0": "10.0.0.4,fd00::4"}


def test_no_other_lease_is_read_while_it_holds(conf: dict[str, Any], tmp_path: Path) -> None:
    """A scan would remove an empty lease. Emptying one in place leaves the index valid, so its removal shows a scan."""
    bystander = tmp_path / "net" / "10.0.0.2"
    bystander.write_bytes(b"")
    for command, container in (
        ("CHECK", "b"),
        ("DEL", "b"),
        ("DEL", "nobody"),
        ("ADD", "d"),
        ("ADD", "d"),
        ("DEL", "d"),
    ):
        ask(command, conf, container)
        assert bystander.exists(), command
    (tmp_path / "net" / "touched").write_bytes(b"")
    ask("DEL", conf, "nobody")
    assert not bystander.exists()


@pytest.mark.parametrize("change", ["added", "removed", "replaced"])
def test_a_change_by_others_is_noticed(change: str, conf: dict[str, Any], tmp_path: Path) -> None:
    lease = tmp_path / "net" / "10.0.0.3"
    if change == "added":
        (tmp_path / "net" / "10.0.0.9").write_bytes(b"b\r\neth0")
    elif change == "removed":
        lease.unlink()
    else:
        lease.unlink()
        lease.write_bytes(b"z\r\neth0")
    ask("DEL", conf, "b")
    left = leases(str(tmp_path / "net"))
    assert b"b\r\neth0" not in left.values()
    assert (b"z\r\neth0" in left.values()) == (change == "replaced")
    assert ("z:eth0" in entries(tmp_path)) == (change == "replaced")


def test_a_change_in_the_same_tick_of_the_clock_is_noticed(conf: dict[str, Any], tmp_path: Path) -> None:
    """The sealed time is one that no later change can produce: changes within one tick have the same time."""
    for command in ("CHECK", "DEL", "ADD"):
        now = time.time_ns()
        ask(command, conf, "b")
        assert (tmp_path / "net").stat().st_mtime_ns < now - 1_000_000_000


def rewrite(tmp_path: Path, name: str, text: str | None) -> None:
    link = tmp_path / ".ib-index" / "net" / name
    link.unlink()
    if text is not None:
        link.symlink_to(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("b:eth0", "10.0.0.2"),
        ("b:eth0", "10.0.0.77"),
        ("b:eth0", "../secret"),
        ("b:eth0", "10.0.0.3,10.0.0.2,fd00::3"),
        ("seal", None),
        ("seal", "another boot,1"),
        ("seal", "junk"),
    ],
)
def test_an_index_that_lies_releases_nothing_of_others(
    name: str, text: str | None, conf: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"b\r\neth0")
    rewrite(tmp_path, name, text)
    ask("DEL", conf, "b")
    assert sorted(leases(str(tmp_path / "net"))) == ["10.0.0.2", "10.0.0.4", "fd00::2", "fd00::4"]
    assert entries(tmp_path) == {key: text for key, text in EXPECTED.items() if key != "b:eth0"}
    assert (tmp_path / "secret").exists()


def test_a_reboot_voids_it(conf: dict[str, Any], tmp_path: Path) -> None:
    """After a power failure files may be empty although the folder's time is right."""
    seal = (tmp_path / ".ib-index" / "net" / "seal").readlink()
    rewrite(tmp_path, "seal", "11111111-2222-3333-4444-555555555555," + str(seal).rpartition(",")[2])
    (tmp_path / "net" / "10.0.0.2").write_bytes(b"")
    ask("CHECK", conf, "b")
    assert not (tmp_path / "net" / "10.0.0.2").exists()


def test_works_without_one(tmp_path: Path) -> None:
    (tmp_path / ".ib-index").write_bytes(b"in the way")
    conf = network(tmp_path)
    assert ask("ADD", conf, "a").ips == ["10.0.0.2/24", "fd00::2/64"]
    assert ask("ADD", conf, "a").status == 1
    assert ask("CHECK", conf, "a").status == 0
    assert ask("DEL", conf, "a").status == 0
    assert leases(str(tmp_path / "net")) == {}


def test_junk_in_its_folder_is_cleared(conf: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / ".ib-index" / "net" / "junk").write_bytes(b"")
    rewrite(tmp_path, "seal", None)
    ask("CHECK", conf, "a")
    assert entries(tmp_path) == EXPECTED


def test_more_addresses_than_a_link_can_name(tmp_path: Path) -> None:
    conf = network(tmp_path)
    folder = tmp_path / "net"
    folder.mkdir()
    for number in range(2, 250):
        (folder / f"fd00::1234:5678:9abc:{number}").write_bytes(b"a\r\neth0")
    assert ask("ADD", conf, "b").status == 0
    assert ask("DEL", conf, "a").status == 0
    assert sorted(leases(str(folder))) == ["10.0.0.2", "fd00::2"]


def test_keys_too_long_for_a_file_name_do_not_mix(tmp_path: Path) -> None:
    conf = network(tmp_path)
    for last in "xyz":
        assert ask("ADD", conf, "c" * 300 + last).status == 0
    assert ask("DEL", conf, "c" * 300 + "y").status == 0
    assert sorted(leases(str(tmp_path / "net"))) == ["10.0.0.2", "10.0.0.4", "fd00::2", "fd00::4"]
    assert len(entries(tmp_path)) == 2


@pytest.mark.parametrize(
    ("content", "holder"),
    [
        (b"c\r\neth0", Holder(container_id="c", ifname="eth0")),
        (b" c\r\neth0\n", Holder(container_id="c", ifname="eth0")),
        (b"c", Holder(container_id="c")),
        (b"c\n", Holder(container_id="c")),
        (b"c eth0", Holder(container_id="c eth0")),
        (b"", None),
        (b"\r\n", None),
        (b"c\r\n", None),
        (b"c\0", None),
    ],
)
def test_what_a_lease_says(content: bytes, holder: Holder | None) -> None:
    assert parse_lease(content) == holder


def test_a_failed_add_does_not_cost_the_next_call_a_scan(tmp_path: Path) -> None:
    conf = network(tmp_path)
    conf["ipam"]["ranges"].append([{"subnet": "10.1.0.0/30"}])
    assert ask("ADD", conf, "a").status == 0
    assert ask("ADD", conf, "b").status == 1
    assert (tmp_path / "net" / "last_reserved_ip.0").read_bytes() == b"10.0.0.3"
    (tmp_path / "net" / "10.0.0.2").write_bytes(b"")
    assert ask("DEL", conf, "nobody").status == 0
    assert (tmp_path / "net" / "10.0.0.2").exists()


def test_h8_a_nearly_full_set_is_searched_in_a_list(conf: dict[str, Any], tmp_path: Path) -> None:
    """The disk is not read for each address: a lease created after the list was read is not seen."""
    place = Place(data_dir=str(tmp_path), network="net")
    store = open_store(place, create=False)
    assert store is not None
    with store:
        addresses = [(32, (10 << 24) + number) for number in range(2, 600)]
        seen = [store.is_taken(address) for address in addresses]
        assert seen == [True] * 3 + [False] * 595
        (tmp_path / "net" / "10.0.2.1").write_bytes(b"x\r\neth0")
        assert not store.is_taken((32, (10 << 24) + 513))
    assert ask("DEL", conf, "x").status == 0
    assert not (tmp_path / "net" / "10.0.2.1").exists()


@pytest.mark.parametrize(("name", "text"), [("b:eth0", "10.0.0.2"), ("b:eth0", "junk"), ("b:eth0", None)])
def test_it_is_built_anew_from_the_leases(name: str, text: str | None, conf: dict[str, Any], tmp_path: Path) -> None:
    rewrite(tmp_path, name, text)
    rewrite(tmp_path, "seal", None)
    assert ask("CHECK", conf, "a").status == 0
    assert entries(tmp_path) == EXPECTED
