"""ib_sriov_cni.kernel.netns: opening, distinguishing and entering namespaces."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ib_sriov_cni.attach.host import Host
from ib_sriov_cni.attach.keep_numbers import Renumbering
from ib_sriov_cni.attach.pod_namespace import open_sandbox
from ib_sriov_cni.attach.return_devices import _move_to_host
from ib_sriov_cni.core.errors import InvalidEnvironment, KernelRefused, UnknownContainer
from ib_sriov_cni.kernel.netns import Inside, open_netns, open_own, try_open_netns
from ib_sriov_cni.kernel.rtnetlink import Rtnl
from ib_sriov_cni.telemetry.log import Log
from ipam.protocol.value import replace
from tests.netns.conftest import Sandbox, few_descriptors
from tests.unit.trees import RECORD


def here() -> str:
    return os.readlink("/proc/thread-self/ns/net")


def test_inside_and_back(sandbox: Sandbox) -> None:
    before = here()
    files = os.listdir("/proc/self/fd")
    with sandbox.open() as netns:
        with Inside(netns):
            assert here() == f"net:[{os.stat(sandbox.path).st_ino}]"
        assert here() == before
        with pytest.raises(ZeroDivisionError), Inside(netns):
            raise ZeroDivisionError
        assert here() == before
    assert os.listdir("/proc/self/fd") == files


def test_a_socket_stays_where_it_was_made(sandbox: Sandbox) -> None:
    sandbox.add_link("only-there")
    rtnl = sandbox.rtnl()
    outside = Rtnl()
    assert rtnl.read_link("only-there") is not None
    assert outside.read_link("only-there") is None
    rtnl.close()
    outside.close()


def test_the_own_namespace_is_known_by_its_inode(sandbox: Sandbox) -> None:
    with open_own() as own, open_netns("/proc/self/ns/net") as same, sandbox.open() as other:
        assert own.inode == same.inode
        assert own.inode != other.inode
        assert own.cookie() == same.cookie() != 0
    with sandbox.open() as other, Inside(other), open_own() as inside:
        assert inside.inode == other.inode


def test_a_cookie_is_never_given_again(new_sandbox: Callable[[], Sandbox]) -> None:
    cookies = set()
    for _ in range(5):
        sandbox = new_sandbox()
        with sandbox.open() as netns:
            assert netns.cookie() == netns.cookie()
            cookies.add(netns.cookie())
        sandbox.remove()
    assert len(cookies) == 5
    assert 0 not in cookies


def test_an_open_namespace_outlives_its_name(sandbox: Sandbox) -> None:
    with sandbox.open() as netns:
        sandbox.remove()
        assert try_open_netns(sandbox.path) is None
        with Inside(netns):
            assert [name for _, name in socket.if_nameindex()] == ["lo"]


def test_c13_a_namespace_that_is_gone() -> None:
    with pytest.raises(UnknownContainer) as caught:
        open_netns("/run/netns/never-was")
    assert caught.value.code == 3
    assert caught.value.msg == "open network namespace /run/netns/never-was: No such file or directory"
    assert try_open_netns("/run/netns/never-was") is None
    assert try_open_netns("") is None


def test_c13_what_is_no_namespace(tmp_path: Path) -> None:
    """An ordinary file is what is left of a bind mount after a reboot."""
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    files = os.listdir("/proc/self/fd")
    for path in (tmp_path / "file", tmp_path / "pipe", tmp_path, "/dev/null", "/proc/self/ns/mnt", "/proc/self/status"):
        with pytest.raises(InvalidEnvironment, match="is not a network namespace") as caught:
            open_netns(str(path))
        assert caught.value.code == 4
        assert try_open_netns(str(path)) is None
    assert os.listdir("/proc/self/fd") == files


@pytest.mark.parametrize("path", ["/run/netns/a\0b", "/proc/self/status/x", "/" + "x" * 300])
def test_a_path_that_cannot_be_one(path: str) -> None:
    with pytest.raises(InvalidEnvironment) as caught:
        open_netns(path)
    assert caught.value.code == 4
    assert try_open_netns(path) is None


def test_the_namespace_of_a_process_that_ends(sandbox: Sandbox) -> None:
    process = subprocess.Popen(["ip", "netns", "exec", sandbox.name, "cat"], stdin=subprocess.PIPE)
    path = f"/proc/{process.pid}/ns/net"
    process.communicate()
    assert try_open_netns(path) is None


def test_one_that_cannot_be_opened_is_not_taken_for_gone(sandbox: Sandbox) -> None:
    """With no file descriptor left nothing can be opened; that says nothing about the namespace."""
    assert try_open_netns(sandbox.path) is not None
    with (
        few_descriptors(0),
        pytest.raises(KernelRefused, match=rf"open network namespace {sandbox.path}: Too many open files"),
    ):
        try_open_netns(sandbox.path)
    assert try_open_netns(sandbox.path) is not None


def test_a_namespace_that_cannot_be_entered_is_not_kept_open(sandbox: Sandbox) -> None:
    """An open file keeps the namespace, and everything in it, alive."""
    record = replace(RECORD, netns_path=sandbox.path, netns_cookie=1)
    assert open_sandbox(record) is None
    files = os.listdir("/proc/self/fd")
    with few_descriptors(1), pytest.raises(KernelRefused, match="Too many open files"):
        open_sandbox(record)
    assert os.listdir("/proc/self/fd") == files


def test_a_namespace_that_cannot_be_opened_does_not_keep_a_vf(sandbox: Sandbox, tmp_path: Path) -> None:
    """A rebind returns the VF from wherever it is, so DEL must not fail for as long as the path cannot be opened."""
    host = Host(log=Log(path=str(tmp_path / "log")), sysfs_root=str(tmp_path))
    record = replace(RECORD, netns_path=sandbox.path, netns_cookie=0)
    host.log.info("opens its file")
    with few_descriptors(0):
        how = Renumbering(devices=None, holder="c1 net1", seconds=0, may_change=True)
        assert _move_to_host(host, record, how) is None
    assert "cannot open the pod's namespace; rebinding the VF" in (tmp_path / "log").read_text()
