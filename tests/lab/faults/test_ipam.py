"""Address management that fails: a clear error, and the host as before (C10, C11)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.cni import CniRun
from tests.lab.pod import Pod
from tests.lab.rig import Rig, guid_of, rigs

ANSWER = {"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.2/24", "gateway": "10.9.0.1"}]}


@pytest.fixture(scope="module", params=["shared"])
def loaded(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """No fault of an IPAM plugin knows about RDMA modes."""
    yield from rigs(request.param, vfs=2)


class Plugin:
    """A made IPAM plugin that notes what it was asked."""

    def __init__(self, folder: Path, script: str) -> None:
        self.folder = folder
        self.calls = folder / "calls"
        path = folder / "made"
        path.write_text(f"#!/bin/sh\necho $CNI_COMMAND >> {self.calls}\n{script}\n")
        path.chmod(0o755)

    def call(self, rig: Rig, command: str, pod: Pod) -> CniRun:
        conf = rig.conf(0, ipam={"type": "made"}, guid=guid_of(1), link_state="enable")
        return rig.cni(command, pod, conf, env={"CNI_PATH": str(self.folder)})

    def asked(self) -> list[str]:
        return self.calls.read_text().split()


def test_exhausted(rig: Rig) -> None:
    """A /30 has one address for pods."""
    ipam = {"type": "host-local", "ranges": [[{"subnet": "10.58.0.0/30"}]]}
    first, second = rig.pod(), rig.pod()
    rig.add(first, 0, ipam=ipam)
    refused = rig.call("ADD", second, 1, ipam=ipam, guid=guid_of(1), link_state="enable")
    assert refused.code == 104, refused
    assert "no IP addresses available in range set: 10.58.0.1-10.58.0.2" in refused.out["msg"]
    assert [link["ifname"] for link in second.links()] == ["lo"]
    rig.delete(first, 0, ipam=ipam)
    rig.add(second, 1, ipam=ipam)
    rig.delete(second, 1, ipam=ipam)
    rig.assert_as_before()


def test_missing(rig: Rig, tmp_path: Path) -> None:
    conf = rig.conf(0, ipam={"type": "nosuch"}, guid=guid_of(1))
    refused = rig.cni("ADD", rig.pod(), conf, env={"CNI_PATH": str(tmp_path)})
    assert refused.code == 104
    assert f"IPAM plugin nosuch: no executable of that name in CNI_PATH ({tmp_path})" in refused.out["msg"]
    rig.assert_as_before()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("""echo '{"code":11,"msg":"pool is busy","details":"in a while"}'; exit 1""", "code 11: pool is busy"),
        ("echo oh dear >&2; exit 3", "exit status 3: oh dear"),
        ("kill -9 $$", "signal 9"),
        ("echo no json", "its answer is not JSON"),
        ("""echo '{"cniVersion":"1.1.0","ips":[]}'""", "its result has no address"),
        ("""echo '{"cniVersion":"1.1.0","ips":[{"address":"junk"}]}'""", "its result is not valid"),
    ],
)
def test_failing(rig: Rig, tmp_path: Path, script: str, words: str) -> None:
    """The message has its words, it is asked to release (C10), and the VF was not touched."""
    plugin = Plugin(tmp_path, f"[ $CNI_COMMAND = DEL ] && exit 0; cat >/dev/null; {script}")
    pod = rig.pod()
    refused = plugin.call(rig, "ADD", pod)
    assert refused.code == 104, refused
    assert words in refused.out["msg"]
    assert plugin.asked() == ["ADD", "DEL"]
    assert pod.link() is None
    rig.assert_as_before()


def test_works_for_the_whole_life(rig: Rig, tmp_path: Path) -> None:
    plugin = Plugin(tmp_path, f"[ $CNI_COMMAND = ADD ] && echo '{json.dumps(ANSWER)}'; exit 0")
    pod = rig.pod()
    added = plugin.call(rig, "ADD", pod)
    assert added.status == 0, added
    assert pod.addresses() == ["10.9.0.2/24"]
    assert plugin.call(rig, "DEL", pod).status == 0
    assert plugin.asked() == ["ADD", "DEL"]
    rig.assert_as_before()


def test_address_that_the_kernel_refuses(rig: Rig, tmp_path: Path) -> None:
    """A route whose gateway is out of reach: the kernel's reason, and all is undone."""
    answer = {**ANSWER, "routes": [{"dst": "10.98.0.0/16", "gw": "192.0.2.1"}]}
    plugin = Plugin(tmp_path, f"[ $CNI_COMMAND = ADD ] && echo '{json.dumps(answer)}'; exit 0")
    refused = plugin.call(rig, "ADD", rig.pod())
    assert refused.code == 102, refused
    assert "add route 10.98.0.0/16 via 192.0.2.1 on netdev net1: Network is unreachable" in refused.out["msg"]
    assert "is the gateway inside the subnet" in refused.out["details"]
    assert plugin.asked() == ["ADD", "DEL"]
    rig.assert_as_before()


@pytest.mark.parametrize("refuses", [False, True])
def test_one_that_looks_at_the_interface(rig: Rig, tmp_path: Path, refuses: bool) -> None:
    """Spiderpool brings the interface up, to look for its address on the network; it is in the pod by then."""
    pod = rig.pod()
    say = "echo taken >&2; exit 1" if refuses else f"echo '{json.dumps(ANSWER)}'"
    look = "nsenter --net=$CNI_NETNS ip link set $CNI_IFNAME up >&2 || exit 2"
    path = tmp_path / "spiderpool"
    path.write_text(f"#!/bin/sh\n[ $CNI_COMMAND = DEL ] && exit 0\n{look}\n{say}\n")
    path.chmod(0o755)
    conf = rig.conf(0, ipam={"type": "spiderpool"}, guid=guid_of(1))
    added = rig.cni("ADD", pod, conf, env={"CNI_PATH": str(tmp_path)})
    if refuses:
        assert (added.code, "exit status 1: taken" in added.out["msg"]) == (104, True), added
    else:
        assert added.status == 0, added
        assert pod.addresses() == ["10.9.0.2/24"]
        assert rig.cni("DEL", pod, conf, env={"CNI_PATH": str(tmp_path)}).status == 0
    assert pod.link() is None
    rig.assert_as_before()
