"""ib_sriov_cni.attach.host and ib_sriov_cni.kernel.rdma_netlink: sockets that are opened in a namespace."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ib_sriov_cni.attach.host import Host
from ib_sriov_cni.core.errors import KernelRefused
from ib_sriov_cni.kernel.netns import open_own
from ib_sriov_cni.telemetry.log import Log
from tests.netns.conftest import Sandbox


@pytest.fixture
def host() -> Host:
    return Host(log=Log())


def addresses(sandbox: Sandbox) -> list[str]:
    return [item["local"] for item in sandbox.ip("addr", "show", "v0")[0]["addr_info"]]


def test_ipv6_is_turned_on_where_the_runtime_turned_it_off(sandbox: Sandbox, host: Host) -> None:
    knob = "/proc/sys/net/ipv6/conf/{}/disable_ipv6"
    for name in ("all", "default"):
        command = ["ip", "netns", "exec", sandbox.name, "sh", "-c", f"echo 1 >{knob.format(name)}"]
        subprocess.run(command, check=True)
    sandbox.add_link("v0")
    with sandbox.open() as netns:
        pod = host.open_rtnl(netns)
        link = pod.read_link("v0")
        assert link is not None
        with pytest.raises(KernelRefused, match="add address fd00::3/64 to netdev v0"):
            pod.add_address(link, "fd00::3/64")
        host.set_ipv6(netns, "v0", disable_ipv6="0", accept_ra="0")
        pod.add_address(link, "fd00::3/64")
        pod.close()
        assert "fd00::3" in addresses(sandbox)
        host.set_ipv6(netns, "v0", disable_ipv6="0", accept_ra="0")  # already enabled
        host.set_ipv6(netns, "nowhere", disable_ipv6="0", accept_ra="0")  # adding the address reports it


def test_the_name_of_this_boot(host: Host, tmp_path: Path) -> None:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        assert host.read_boot_id() == file.read().strip() != ""
    assert Host(log=Log(), proc_root=str(tmp_path)).read_boot_id() == ""


def test_doors_of_a_namespace_and_of_the_host(sandbox: Sandbox, host: Host) -> None:
    sandbox.add_link("only-there")
    files = set(os.listdir("/proc/self/fd"))
    with sandbox.open() as netns, open_own() as own:
        inside = host.open_rtnl(netns)
        assert inside.read_link("only-there") is not None
        assert host.rtnl.read_link("only-there") is None
        assert host.rtnl is host.rtnl, "one socket serves the whole invocation"
        with open_own() as still:
            assert still.inode == own.inode
        inside.close()
    host.rtnl.close()
    assert set(os.listdir("/proc/self/fd")) == files


def test_rdma_netlink_answers_or_says_what_is_missing(host: Host) -> None:
    """Where ib_core is loaded, the answer is compared with iproute2's."""
    seen = subprocess.run(["rdma", "system"], capture_output=True, text=True, check=False)
    if "netns" in seen.stdout:
        assert host.rdma.read_mode() in seen.stdout
        host.rdma.close()
        return
    with pytest.raises(KernelRefused) as caught:
        host.rdma.read_devices()
    assert caught.value.msg == "open RDMA netlink: Protocol not supported"
    assert "ib_core" in caught.value.details
