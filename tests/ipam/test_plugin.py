"""host-local on a real folder: files, results, releases, GC and STATUS (H3 to H8, C13, C16 to C18)."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ipam.host_local.plugin import KNOWN_ARGS, gc
from ipam.protocol.address import parse_address
from ipam.protocol.request import Request
from ipam.protocol.versions import VERSIONS
from tests.ipam.calls import OURS, ROOT, ask, environment, execute, files, leases

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VALID = "cni.dev/valid-attachments"


def network(folder: Path, *subnets: str, version: str = "1.1.0", **ipam: Any) -> dict[str, Any]:
    section = {"type": "host-local", "dataDir": str(folder), "ranges": [[{"subnet": subnet}] for subnet in subnets]}
    return {"cniVersion": version, "name": "net", "type": "x", "ipam": section | ipam}


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_h7_result(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text(
        "nameserver 10.0.0.53\n;x\n#nameserver 1.1.1.1\nsearch a b\n domain d\noptions x\n"
    )
    routes = [{"dst": "0.0.0.0/0", "gw": "10.0.0.9", "mtu": 1400}]
    conf = network(tmp_path, "10.0.0.0/24", "fd00::/64", routes=routes, resolvConf=str(tmp_path / "resolv.conf"))
    assert ask("ADD", conf).doc == {
        "cniVersion": "1.1.0",
        "ips": [{"address": "10.0.0.2/24", "gateway": "10.0.0.1"}, {"address": "fd00::2/64", "gateway": "fd00::1"}],
        "routes": routes,
        "dns": {"nameservers": ["10.0.0.53"], "search": ["a", "b"], "domain": "d", "options": ["x"]},
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_c7_every_version(version: str, tmp_path: Path) -> None:
    doc = ask("ADD", network(tmp_path, "10.0.0.0/24", version=version)).doc
    assert doc is not None
    assert doc["cniVersion"] == version
    assert ("ip4" in doc) == (version < "0.3.0")
    assert "interfaces" not in doc


def test_h7_a_resolv_conf_that_is_missing_reserves_nothing(tmp_path: Path) -> None:
    answer = ask("ADD", network(tmp_path, "10.0.0.0/24", resolvConf="/nowhere/resolv.conf"))
    assert (answer.status, answer.code) == (1, 106)
    assert "/nowhere/resolv.conf" in answer.msg
    assert not leases(str(tmp_path / "net"))


@pytest.mark.usefixtures("umask")
def test_h5_files(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    ask("ADD", network(folder, "10.0.0.0/24", "fd00::/64"), "c1", "eth0")
    assert files(str(folder / "net")) == {
        "10.0.0.2": (b"c1\r\neth0", 0o600),
        "fd00::2": (b"c1\r\neth0", 0o600),
        "last_reserved_ip.0": (b"10.0.0.2", 0o600),
        "last_reserved_ip.1": (b"fd00::2", 0o600),
    }
    for made in (folder / "net", folder, folder.parent):
        assert stat.S_IMODE(made.stat().st_mode) == 0o755
    assert stat.S_IMODE((folder / "net" / "lock").stat().st_mode) == 0o600


def test_h5_the_folder_does_not_depend_on_names_of_ours(tmp_path: Path) -> None:
    """Besides the leases there is nothing but what Go puts there."""
    conf = network(tmp_path, "10.0.0.0/24")
    ask("ADD", conf)
    assert sorted(os.listdir(tmp_path / "net")) == ["10.0.0.2", "last_reserved_ip.0", "lock"]
    ask("DEL", conf)
    assert sorted(os.listdir(tmp_path / "net")) == ["last_reserved_ip.0", "lock"]


def test_c13_del_of_nothing_makes_nothing(tmp_path: Path) -> None:
    assert ask("DEL", network(tmp_path, "10.0.0.0/24")).status == 0
    assert os.listdir(tmp_path) == []


def test_h6_a_changed_configuration_releases(tmp_path: Path) -> None:
    conf = network(tmp_path, "10.0.0.0/24", "fd00::/64")
    changes: list[dict[str, Any]] = [
        {"ranges": [[{"subnet": "10.7.0.0/24"}]]},
        {"ranges": "junk", "routes": 5, "slices": {"flannel": "/nowhere"}},
        {"ranges": [], "resolvConf": "/nowhere", "slices": {"index": 9, "count": 2}},
    ]
    for change in changes:
        assert len(ask("ADD", conf).ips) == 2
        other = {**conf, "ipam": {"dataDir": str(tmp_path)} | change}
        assert ask("DEL", other, args="junk;IP=x").status == 0
        assert leases(str(tmp_path / "net")) == {}


def test_h6_legacy_records(tmp_path: Path) -> None:
    conf = network(tmp_path, "10.0.0.0/24")
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "10.0.0.7").write_bytes(b"old")
    (folder / "10.0.0.8").write_bytes(b"old\n")
    assert ask("CHECK", conf, "old").status == 0
    assert ask("ADD", conf, "old").msg.endswith("has been allocated to old, duplicate allocation is not allowed")
    assert ask("DEL", conf, "other").status == 0
    assert len(leases(str(folder))) == 2
    assert ask("DEL", conf, "old", "net1").status == 0
    assert leases(str(folder)) == {}
    assert ask("CHECK", conf, "old").code == 104


def test_h6_an_exact_record_comes_before_a_legacy_one(tmp_path: Path) -> None:
    conf = network(tmp_path, "10.0.0.0/24")
    ask("ADD", conf, "old", "net1")
    (tmp_path / "net" / "10.0.0.7").write_bytes(b"old")
    ask("DEL", conf, "old", "net1")
    assert leases(str(tmp_path / "net")) == {"10.0.0.7": b"old"}


@pytest.mark.parametrize("content", [b"", b"\n", b" \r\n", b"\0" * 40, b"abc\0\0\0", b"abc\r\n", b"abc\r"])
def test_h8_leftovers_of_a_crash_are_reclaimed(content: bytes, tmp_path: Path) -> None:
    conf = network(tmp_path, "10.0.0.0/29")
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / ".ib-host-local.new").write_bytes(b"x")
    for name in ("10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "fd00::1"):
        (folder / name).write_bytes(content)
    assert [ask("ADD", conf, f"c{n}").ips for n in range(5)] == [[f"10.0.0.{n}/29"] for n in (2, 3, 4, 5, 6)]
    assert ask("ADD", conf, "c9").status == 1
    assert sorted(leases(str(folder))) == [f"10.0.0.{n}" for n in (2, 3, 4, 5, 6)]
    assert not (folder / ".ib-host-local.new").exists()


def test_h8_a_lease_emptied_behind_our_back_is_reclaimed_before_a_set_is_called_full(tmp_path: Path) -> None:
    conf = network(tmp_path, "10.0.0.0/30")
    assert ask("ADD", conf, "c1").status == 0
    (tmp_path / "net" / "10.0.0.2").write_bytes(b"")  # in place: the folder's time stays as it is
    assert ask("ADD", conf, "c2").ips == ["10.0.0.2/30"]
    (tmp_path / "net" / "10.0.0.2").write_bytes(b"")
    assert ask("ADD", conf, "c3", args="IP=10.0.0.2").ips == ["10.0.0.2/30"]


def test_what_somebody_else_put_there_keeps_its_address(tmp_path: Path) -> None:
    conf = network(tmp_path, "10.0.0.0/28", version="1.1.0")
    folder = tmp_path / "net"
    (folder / "10.0.0.2").mkdir(parents=True)
    (folder / "10.0.0.3").symlink_to("/nowhere")
    (folder / "10.0.0.4").write_bytes(b"reserved for the printer")
    (folder / "10.0.0.5").write_bytes(b"\xff\xfe binary")
    os.mkfifo(folder / "10.0.0.6")
    (folder / "notes").write_bytes(b"")
    (folder / "10.0.0.300").write_bytes(b"")
    before = sorted(os.listdir(folder))
    assert ask("ADD", conf).ips == ["10.0.0.7/28"]
    assert ask("DEL", conf).status == 0
    assert ask("GC", conf | {VALID: []}).status == 0
    assert set(before) <= set(os.listdir(folder))
    assert ask("ADD", conf, args="IP=10.0.0.4").status == 1


def test_links_are_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"c\r\neth0")
    conf = network(tmp_path / "data", "10.0.0.0/29")
    folder = tmp_path / "data" / "net"
    folder.mkdir(parents=True)
    for name in ("10.0.0.2", "last_reserved_ip.0", ".ib-host-local.new"):
        (folder / name).symlink_to(target)
    (tmp_path / "data" / ".ib-index").symlink_to(tmp_path)
    assert ask("ADD", conf).ips == ["10.0.0.3/29"]
    assert (folder / "last_reserved_ip.0").read_bytes() == b"10.0.0.3"
    assert ask("DEL", conf).status == 0
    assert ask("CHECK", conf).code == 104
    assert target.read_bytes() == b"c\r\neth0"
    assert sorted(os.listdir(tmp_path)) == ["data", "target"]
    (folder / "lock").unlink()
    (folder / "lock").symlink_to(tmp_path / "made")
    assert ask("ADD", conf).code == 106
    assert not (tmp_path / "made").exists()


def test_a_network_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "net").symlink_to("elsewhere")
    answer = ask("ADD", network(tmp_path, "10.0.0.0/29"))
    assert answer.code == 106
    assert "symbolic link" in answer.msg
    assert os.listdir(tmp_path / "elsewhere") == []


def test_a_failed_add_leaves_what_the_attachment_had(tmp_path: Path) -> None:
    """Go releases all of the attachment's addresses here, including those of earlier ADDs (C11)."""
    small = network(tmp_path, "10.0.0.0/30", "10.1.0.0/24")
    ask("ADD", small, "c1")
    before = leases(str(tmp_path / "net"))
    assert ask("ADD", network(tmp_path, "10.2.0.0/24", "10.1.0.0/24"), "c1").status == 1
    assert ask("ADD", small, "c2").status == 1
    assert leases(str(tmp_path / "net")) == before


def test_h3_requests_are_all_served_or_none(tmp_path: Path) -> None:
    conf = network(tmp_path, "10.0.0.0/24", "10.1.0.0/24")
    conf["runtimeConfig"] = {"ips": ["10.1.0.9/24"]}
    assert ask("ADD", conf, "c1", args="IP=10.0.0.7").ips == ["10.0.0.7/24", "10.1.0.9/24"]
    assert ask("ADD", conf, "c2").msg.startswith("failed to allocate for range 1: requested IP address 10.1.0.9 is not")
    assert ask("ADD", conf | {"runtimeConfig": {"ips": ["10.9.9.9"]}}, "c2").code == 104
    assert sorted(leases(str(tmp_path / "net"))) == ["10.0.0.7", "10.1.0.9"]


def test_c15_check_compares_with_prev_result(tmp_path: Path) -> None:
    conf = network(tmp_path, "10.0.0.0/24", "10.1.0.0/24")
    conf["prevResult"] = {
        "cniVersion": "1.1.0",
        "ips": [{"address": a} for a in (*ask("ADD", conf).ips, "10.9.0.1/16")],
    }
    assert ask("CHECK", conf) == (0, None)
    (tmp_path / "net" / "10.1.0.2").unlink()
    answer = ask("CHECK", conf)
    assert answer.code == 104
    assert "10.1.0.2/24" in answer.msg
    assert "10.0.0.2" not in answer.msg
    assert ask("CHECK", conf, "nobody").code == 104


def three_attachments(tmp_path: Path) -> dict[str, Any]:
    conf = network(tmp_path, "10.0.0.0/24", "fd00::/64")
    for container, ifname in (("a", "eth0"), ("b", "eth0"), ("b", "net1")):
        ask("ADD", conf, container, ifname)
    (tmp_path / "net" / "10.0.0.99").write_bytes(b"old")
    return conf


def test_c16_gc(tmp_path: Path) -> None:
    conf = three_attachments(tmp_path)
    other = network(tmp_path, "10.0.0.0/24") | {"name": "other"}
    ask("ADD", other, "z")
    valid = [{"containerID": "b", "ifname": "eth0"}]
    assert ask("GC", conf | {VALID: valid}) == (0, None)
    assert sorted(leases(str(tmp_path / "net"))) == ["10.0.0.3", "10.0.0.4", "fd00::3", "fd00::4"]
    assert len(leases(str(tmp_path / "other"))) == 1
    assert ask("CHECK", conf, "b", "net1").status == 0
    assert ask("ADD", conf, "a").status == 0
    assert ask("GC", conf | {"cni.dev/attachments": []}).status == 0
    assert leases(str(tmp_path / "net")) == {}


def test_c17_gc_asks_who_lives_when_it_has_read_the_leases(tmp_path: Path) -> None:
    """An attachment added after the runtime made its list keeps its addresses: leases are read before liveness."""
    conf = three_attachments(tmp_path)
    request = Request(command="GC", args={}, conf=conf | {VALID: []}, version="1.1.0", environ={})
    asked: list[int] = []

    def live() -> list[str]:
        asked.append(len(leases(str(tmp_path / "net"))))
        return ["a"]

    gc(request, live)
    assert asked == [6 + 1]
    assert sorted(leases(str(tmp_path / "net"))) == ["10.0.0.2", "fd00::2"]


@pytest.mark.parametrize(
    "listed",
    [
        {},
        {VALID: None},
        {VALID: {}},
        {VALID: "a"},
        {VALID: ["a"]},
        {VALID: [{"ifname": "eth0"}]},
        {VALID: [{"containerID": 1}]},
    ],
)
def test_c16_without_a_list_nothing_is_released(listed: dict[str, Any], tmp_path: Path) -> None:
    conf = three_attachments(tmp_path)
    before = leases(str(tmp_path / "net"))
    answer = ask("GC", conf | listed)
    assert (answer.status, answer.code) == (1, 7)
    assert (answer.doc or {})["details"] == "nothing was released"
    assert leases(str(tmp_path / "net")) == before


def test_c16_gc_needs_no_valid_ranges_and_no_folder(tmp_path: Path) -> None:
    conf = three_attachments(tmp_path)
    assert ask("GC", {**conf, VALID: [], "ipam": {"dataDir": str(tmp_path), "ranges": 5}}).status == 0
    assert leases(str(tmp_path / "net")) == {}
    assert ask("GC", {**conf, VALID: [], "name": "none"}).status == 0
    assert sorted(os.listdir(tmp_path)) == [".ib-index", "net"]


def test_c18_status(tmp_path: Path) -> None:
    conf = network(tmp_path / "data", "10.0.0.0/24", "10.1.0.0/30")
    assert ask("STATUS", conf) == (0, None)
    assert os.listdir(tmp_path) == []


def test_c18_addresses_that_are_all_in_use_are_not_broken(tmp_path: Path) -> None:
    """A runtime makes the whole node NotReady after code 50."""
    conf = network(tmp_path, "10.1.0.0/30")
    ask("ADD", conf)
    assert "no IP addresses available" in ask("ADD", conf, "late").msg
    assert ask("STATUS", conf) == (0, None)


@pytest.mark.parametrize("change", [{"slices": {"flannel": "/nowhere/subnet.env"}}, {"resolvConf": "/nowhere"}])
def test_c18_what_an_add_would_miss(change: dict[str, Any], tmp_path: Path) -> None:
    answer = ask("STATUS", network(tmp_path, "10.0.0.0/24", **change))
    assert answer.code == 50
    assert "/nowhere" in answer.msg


def test_c18_a_data_dir_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    answer = ask("ADD", network(tmp_path / "file", "10.0.0.0/24"))
    assert answer.code == 106
    assert str(tmp_path / "file") in answer.msg
    assert ask("STATUS", network(tmp_path / "file", "10.0.0.0/24")).code == 50


def test_the_executable(tmp_path: Path) -> None:
    conf = network(tmp_path, "10.0.0.0/24")
    assert execute(OURS, conf, environment("ADD")).ips == ["10.0.0.2/24"]
    assert execute(OURS, conf, environment("CHECK")) == (0, None)
    assert execute(OURS, conf, environment("STATUS")) == (0, None)
    assert execute(OURS, conf | {VALID: []}, environment("GC")) == (0, None)
    assert execute(OURS, conf, environment("CHECK")).code == 104
    assert execute(OURS, conf, environment("DEL")) == (0, None)
    assert execute(OURS, conf, environment("ADD", args="X=1")).code == 4
    assert execute(OURS, {}, {"CNI_COMMAND": "VERSION"}).doc == {
        "cniVersion": "1.1.0",
        "supportedVersions": list(VERSIONS),
    }
    assert execute(OURS, {}, {}) == (0, None)


def test_what_the_executable_imports(tmp_path: Path) -> None:
    """Start-up is what a call costs (docs/performance.md): C modules, os, and ours."""
    program = (
        f"import sys; sys.path.insert(0, {ROOT!r}); before = set(sys.modules);"
        "from ipam.host_local.plugin import main; main();"
        "print(*sorted(set(sys.modules) - before), file=sys.stderr)"
    )
    conf = network(tmp_path, "10.0.0.0/24", "fd00::/64", routes=[{"dst": "0.0.0.0/0"}])
    for command in ("ADD", "CHECK", "DEL"):
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", program],
            input=json.dumps(conf).encode(),
            env=environment(command),
            capture_output=True,
            check=True,
        )
        theirs = [name for name in done.stderr.decode().split() if name.partition(".")[0] != "ipam"]
        allowed = {
            "__future__",
            "_json",
            "_socket",
            "_stat",
            "errno",
            "fcntl",
            "genericpath",
            "os",
            "os.path",
            "posixpath",
        }
        assert set(theirs) <= allowed | {"_collections_abc", "abc", "_abc", "stat", "time"}


def test_c20_add_in_the_own_namespace_is_refused_and_del_is_not(tmp_path: Path) -> None:
    conf = network(tmp_path, "10.0.0.0/24")
    own = {"CNI_NETNS": "/proc/self/ns/net"}
    assert execute(OURS, conf, environment("ADD") | own).code == 8
    assert not (tmp_path / "net").exists()
    assert execute(OURS, conf, environment("ADD") | own | {"CNI_NETNS_OVERRIDE": "TRUE"}).status == 0
    assert execute(OURS, conf, environment("DEL") | own).status == 0
    assert leases(str(tmp_path / "net")) == {}


def test_names_at_their_limits(tmp_path: Path) -> None:
    conf = network(tmp_path, "10.0.0.0/24", "fd00::/64") | {"name": "n" * 255}
    for container in ("c" * 4000, "c" * 65536):
        assert len(ask("ADD", conf, container, "i" * 15).ips) == 2
        assert ask("CHECK", conf, container, "i" * 15).status == 0
        assert ask("ADD", conf, container, "i" * 15).status == 1
        assert ask("DEL", conf, container, "i" * 15).status == 0
    assert leases(str(tmp_path / ("n" * 255))) == {}


def test_known_args_are_host_locals() -> None:
    assert frozenset({"IP"}) == KNOWN_ARGS
    assert parse_address("10.0.0.1") == (32, 167772161)
