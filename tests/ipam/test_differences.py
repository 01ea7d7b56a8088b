"""Where ours differs from the Go plugin on purpose (docs/ipam.md): what Go does, and what ours does."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.ipam.calls import OURS, ROOT, Answer, environment, execute, leases

if TYPE_CHECKING:
    from pathlib import Path


class Plugin:
    """One of the two programs, with its own folder."""

    def __init__(self, program: tuple[str, ...], folder: Path) -> None:
        self.program = program
        self.folder = folder

    def call(self, command: str, *subnets: str, container: str = "c", args: str = "", **ipam: Any) -> Answer:
        section: dict[str, Any] = {"dataDir": str(self.folder), "ranges": [[{"subnet": subnet}] for subnet in subnets]}
        conf = {"cniVersion": "1.0.0", "name": "net", "ipam": section | ipam}
        return execute(self.program, conf, environment(command, container, args=args))

    def put(self, name: str, content: bytes) -> None:
        (self.folder / "net").mkdir(parents=True, exist_ok=True)
        (self.folder / "net" / name).write_bytes(content)

    @property
    def leases(self) -> list[str]:
        return sorted(leases(str(self.folder / "net")))


@pytest.fixture
def theirs(go: tuple[str, ...], tmp_path: Path) -> Plugin:
    return Plugin(go, tmp_path / "go")


@pytest.fixture
def ours(tmp_path: Path) -> Plugin:
    return Plugin(OURS, tmp_path / "ours")


@pytest.mark.parametrize(
    ("ipam", "args"),
    [({"ranges": []}, ""), ({"ranges": [[{"subnet": "10.0.0.1/24"}]]}, ""), ({"routes": "x"}, ""), ({}, "X=1")],
)
def test_h6_a_configuration_that_has_become_invalid(
    ipam: dict[str, Any], args: str, theirs: Plugin, ours: Plugin
) -> None:
    for plugin, left in ((theirs, ["10.0.0.2"]), (ours, [])):
        assert plugin.call("ADD", "10.0.0.0/24").status == 0
        assert plugin.call("DEL", "10.0.0.0/24", args=args, **ipam).status == len(left)
        assert plugin.leases == left


def test_del_makes_no_folders(theirs: Plugin, ours: Plugin) -> None:
    for plugin in (theirs, ours):
        assert plugin.call("DEL", "10.0.0.0/24").status == 0
    assert theirs.folder.exists()
    assert not ours.folder.exists()


def test_c11_what_a_failed_add_takes_back(theirs: Plugin, ours: Plugin) -> None:
    for plugin, left in ((theirs, []), (ours, ["10.4.0.2"])):
        assert plugin.call("ADD", "10.4.0.0/24").status == 0
        assert plugin.call("ADD", "10.5.0.0/24", "10.4.0.0/24").status == 1
        assert plugin.leases == left


def test_h6_old_records_of_an_attachment_that_has_its_own(theirs: Plugin, ours: Plugin) -> None:
    for plugin, left in ((theirs, []), (ours, ["10.0.0.9"])):
        assert plugin.call("ADD", "10.0.0.0/24", "10.1.0.0/24").status == 0
        plugin.put("10.0.0.9", b"c")
        assert plugin.call("DEL", "10.0.0.0/24", "10.1.0.0/24").status == 0
        assert plugin.leases == left


def test_h2_a_start_behind_the_end(theirs: Plugin, ours: Plugin) -> None:
    ranges = [[{"subnet": "10.3.0.0/30", "rangeStart": "10.3.0.3"}]]
    given = [theirs.call("ADD", container=name, ranges=ranges).ips for name in ("a", "b")]
    assert given == [["10.3.0.3/30"], ["10.3.0.4/30"]]  # the second is outside the subnet
    assert ours.call("ADD", ranges=ranges).code == 7


def test_h8_empty_files(theirs: Plugin, ours: Plugin) -> None:
    for plugin, got in ((theirs, ["10.0.0.3/24"]), (ours, ["10.0.0.2/24"])):
        plugin.put("10.0.0.2", b"")
        assert plugin.call("ADD", "10.0.0.0/24").ips == got


def test_a_key_in_two_spellings(theirs: Plugin, ours: Plugin) -> None:
    """Both read keys in any case; where two spellings differ, Go takes the later one."""
    section: dict[str, Any] = {"ranges": None, "Subnet": "10.0.0.0/24"}
    assert theirs.call("ADD", **section).ips == ours.call("ADD", **section).ips == ["10.0.0.2/24"]
    section = {"ranges": None, "subnet": "10.0.0.0/24", "Subnet": "10.0.1.0/24"}
    assert theirs.call("ADD", container="b", **section).ips == ["10.0.1.2/24"]
    assert ours.call("ADD", container="b", **section).code == 7


def test_c20_add_in_the_own_namespace(theirs: Plugin, ours: Plugin) -> None:
    """Go reserves, prints a result, then finds out, and prints the error after the result."""
    for plugin, left, documents in ((theirs, ["10.0.0.2"], 2), (ours, [], 1)):
        conf = {"cniVersion": "1.0.0", "name": "net", "ipam": {"dataDir": str(plugin.folder), "subnet": "10.0.0.0/24"}}
        env = environment("ADD") | {"CNI_NETNS": "/proc/self/ns/net", "PYTHONPATH": ROOT}
        done = subprocess.run(
            plugin.program, input=json.dumps(conf), env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert done.stdout.count("cniVersion") + done.stdout.count('"code": 8') == documents
        assert plugin.leases == left
