"""cnitool, the reference client of libcni: add, check, status, gc and del, alone and with tuning after us."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.lab.client_programs import node
from tests.lab.emulated_hca import Hca
from tests.lab.modes import SHARED
from tests.lab.pod import Pod
from tests.lab.rig import Rig, guid_of

VERSIONS = ["0.4.0", "1.0.0", "1.1.0"]
GUID = guid_of(1)
ADDRESS = "10.56.0.77/24"
MTU = 1900
TUNING = {
    "type": "tuning",
    "sysctl": {"net.ipv4.conf.IFNAME.arp_ignore": "1"},
    "mtu": MTU,
}


class Tool:
    """cnitool with a folder of configurations and a folder of plugins of its own."""

    def __init__(self, folder: Path, conf: dict[str, Any]) -> None:
        self.conf = node.write_conf(folder / "net.d", conf).parent
        self.path = node.bin_folder(folder / "bin", ["tuning"])

    def __call__(self, command: str, pod: Pod, **capabilities: Any) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "CNI_PATH": self.path,
            "NETCONFPATH": str(self.conf),
            "CNI_IFNAME": "net1",
            "CAP_ARGS": json.dumps(capabilities) if capabilities else "",
        }
        words = [node.program("cnitool"), command, "ibnet", pod.netns]
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=180, check=False)


def must(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def plugins_of(hca: Hca, *, chained: bool) -> list[dict[str, Any]]:
    own = node.plugin(hca.pci(0), capabilities={"ips": True, "infinibandGUID": True})
    return [own, TUNING] if chained else [own]


def sysctl(pod: Pod) -> str:
    return pod.run(["cat", "/proc/sys/net/ipv4/conf/net1/arp_ignore"]).stdout.strip()


@SHARED
@pytest.mark.parametrize("chained", [False, True], ids=["alone", "tuning-after-us"])
@pytest.mark.parametrize("version", VERSIONS)
def test_an_attachment_by_cnitool(rig: Rig, tmp_path: Path, version: str, chained: bool) -> None:
    """C7, C9, C13, C15, C18, N1: all commands of an attachment; the capabilities ips and infinibandGUID arrive."""
    tool = Tool(tmp_path, node.conflist(version, plugins_of(rig.hca, chained=chained)))
    pod = rig.pod()
    wanted = {"ips": [ADDRESS], "infinibandGUID": GUID}
    must(tool("status", pod))
    result = json.loads(must(tool("add", pod, **wanted)))
    assert result["cniVersion"] == version
    (interface,) = result["interfaces"]
    assert (interface["name"], interface["sandbox"]) == ("net1", pod.netns)
    assert interface["mac"].endswith(GUID)
    (address,) = result["ips"]
    assert (address["address"], address["interface"]) == (ADDRESS, 0)
    assert pod.addresses() == [ADDRESS]
    if chained:
        link = pod.link()
        assert link is not None
        assert (link["mtu"], sysctl(pod)) == (MTU, "1")
    must(tool("check", pod, **wanted))
    assert must(tool("del", pod, **wanted)) == ""
    assert pod.link() is None
    assert must(tool("del", pod, **wanted)) == ""
    pod.delete()
    rig.assert_as_before()


@SHARED
def test_check_by_cnitool_tells_what_differs(rig: Rig, tmp_path: Path) -> None:
    """C15: libcni hands on the cached prevResult, and shows our message."""
    tool = Tool(tmp_path, node.conflist("1.0.0", plugins_of(rig.hca, chained=False)))
    pod = rig.pod()
    must(tool("add", pod, ips=[ADDRESS]))
    must(tool("check", pod, ips=[ADDRESS]))
    pod.run(["ip", "address", "flush", "dev", "net1"])
    found = tool("check", pod, ips=[ADDRESS])
    assert found.returncode != 0
    assert ADDRESS in found.stdout + found.stderr
    must(tool("del", pod))
    rig.assert_as_before()


@SHARED
@pytest.mark.parametrize("version", VERSIONS)
def test_gc_by_cnitool(rig: Rig, tmp_path: Path, version: str) -> None:
    """C16: libcni sends DEL for what it has cached, then, from 1.1.0 on, a GC that cnitool gives no list.

    A GC without the list releases nothing and is an error, which cnitool shows.
    """
    tool = Tool(tmp_path, node.conflist(version, plugins_of(rig.hca, chained=False)))
    pod = rig.pod()
    must(tool("add", pod))
    done = tool("gc", pod)
    if version == "1.1.0":
        assert done.returncode != 0
        assert "cni.dev/valid-attachments" in done.stdout + done.stderr
    else:
        must(done)
    assert pod.link() is None
    pod.delete()
    rig.assert_as_before()
