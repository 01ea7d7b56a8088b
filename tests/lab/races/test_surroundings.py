"""Pods and callers that differ from the usual: a pod with users of its own, a bond, rdma-cni after us, another /run."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.commands import names, run, wait
from tests.lab.modes import EXCLUSIVE, SHARED
from tests.lab.pod import Pod
from tests.lab.rig import Rig, answers, connected, guid_of
from tests.lab.snapshot import LOCKS

WITH_GUID: dict[str, Any] = {"guid": guid_of(1), "link_state": "enable"}
# With a GUID of its own DEL binds the driver anew; without one it moves the devices back.
BOTH = pytest.mark.parametrize("conf", [WITH_GUID, {}], ids=["guid", "kept"])
DUAL_STACK = {
    "type": "host-local",
    "ranges": [[{"subnet": "10.56.0.0/24"}], [{"subnet": "fd56::/64"}]],
    "routes": [{"dst": "10.99.0.0/16"}],
}


# ---- a pod with users of its own (hostUsers: false)


class UserPod(Pod):
    """A pod whose network namespace belongs to a user namespace of its own; root in there is nobody on the host."""

    def __init__(self, name: str) -> None:
        super().__init__(name)  # for its name and container ID; the namespace is another one
        run(["umount", self.netns])
        command = ["unshare", "--user", "--net", "sh", "-c", "echo made; exec sleep 1000"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"made\n"
        for kind in ("uid", "gid"):
            Path(f"/proc/{self.process.pid}/{kind}_map").write_text("0 100000 1000")
        run(["mount", "--bind", f"/proc/{self.process.pid}/ns/net", self.netns])
        self.as_root("ip link set lo up")

    def as_root(self, command: str) -> None:
        """Run a shell line as the pod's own root."""
        run(["nsenter", "-t", str(self.process.pid), "--user", "--net", "sh", "-c", command])

    def delete(self) -> None:
        super().delete()
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def user_pod(rig: Rig) -> Iterator[UserPod]:
    made = UserPod("users")
    yield made
    made.delete()


@BOTH
def test_a_pod_with_users_of_its_own(rig: Rig, user_pod: UserPod, conf: dict[str, Any]) -> None:
    conf = {**conf, "ipam": DUAL_STACK}
    peer = rig.pod("peer")
    result = rig.add(user_pod, **conf)
    rig.add(peer, 1, ipam=DUAL_STACK)
    assert user_pod.addresses() == ["10.56.0.2/24", "fd56::2/64"]
    assert rig.hca.rdma(0, user_pod.name) is not None
    settings = user_pod.run("cd /proc/sys/net/ipv6/conf/net1 && cat accept_ra keep_addr_on_down").stdout.split()
    assert settings == ["0", "1"]
    assert rig.check(user_pod, result, **conf).status == 0
    assert connected(user_pod)
    assert answers(peer, "10.56.0.2")
    user_pod.as_root("ip link set net1 down && ip addr add 10.1.1.1/24 dev net1 && ip link set net1 up")
    assert "fd56::2/64" in user_pod.addresses()
    rig.delete(peer, 1, ipam=DUAL_STACK)
    rig.delete(user_pod, **conf)
    assert user_pod.link() is None
    rig.assert_as_before()


@BOTH
def test_a_pod_with_users_of_its_own_ends_before_its_del(rig: Rig, user_pod: UserPod, conf: dict[str, Any]) -> None:
    rig.add(user_pod, **conf)
    user_pod.delete()
    rig.delete(user_pod, **conf)
    rig.assert_as_before()


# ---- a bond over two rails


@BOTH
def test_a_bond_over_two_rails(rig: Rig, conf: dict[str, Any]) -> None:
    """IPoIB bonds are active-backup; DEL takes one leg after the other, and the bond goes on with what it has."""
    run(["modprobe", "bonding", "max_bonds=0"])
    pod, peer = rig.pod("bonded"), rig.pod("peer")
    second = {**conf, "guid": guid_of(2)} if conf else {}
    rig.add(pod, 0, **conf)
    rig.add(pod, 1, ifname="net2", **second)
    rig.add(peer, 2)
    pod.run(
        "ip link add bond0 type bond mode active-backup fail_over_mac active miimon 100 &&"
        " ip link set net1 down && ip link set net1 master bond0 &&"
        " ip link set net2 down && ip link set net2 master bond0 &&"
        " ip addr flush dev net1 && ip addr flush dev net2 && ip addr add 10.56.0.77/24 dev bond0 &&"
        " ip link set bond0 up"
    )
    assert connected(pod, "bond0")
    assert answers(peer, "10.56.0.77")
    rig.delete(pod, 0, **conf)
    assert pod.link("net1") is None
    assert wait(lambda: "active_slave net2" in pod.run("ip -d link show bond0").stdout)
    rig.delete(pod, 1, ifname="net2", **second)
    assert pod.link("bond0") is None  # the kernel removes one that is not of Ethernet (bond_slave_netdev_event)
    rig.delete(peer, 2)
    rig.assert_as_before()


# ---- rdma-cni in the chain after us


def rdma_cni(rig: Rig, pod: Pod) -> bool:
    """Do as its ADD does: move the RDMA device that the host shows for the VF; False if there is none."""
    found = names(f"/sys/bus/pci/devices/{rig.hca.pci(0)}/infiniband")
    for name in found:
        run(["rdma", "dev", "set", name, "netns", pod.name])
    return bool(found)


@BOTH
@EXCLUSIVE
def test_rdma_cni_finds_nothing_to_do_after_us(rig: Rig, conf: dict[str, Any]) -> None:
    """With rdmaIsolation the device is in the pod already. rdma-cni then fails the pod, whose DEL leaves nothing."""
    pod = rig.pod()
    result = rig.add(pod, **conf)
    assert not rdma_cni(rig, pod)
    assert rig.check(pod, result, **conf).status == 0
    rig.delete(pod, **conf)
    rig.assert_as_before()


@pytest.mark.parametrize("returned", [True, False], ids=["returned", "left"])
@BOTH
@EXCLUSIVE
def test_rdma_cni_in_place_of_our_isolation(rig: Rig, conf: dict[str, Any], returned: bool) -> None:
    """Before Linux 6.17 its move takes net1 away from the pod. CHECK says so, and DEL leaves nothing."""
    conf = {**conf, "rdmaIsolation": False}
    pod = rig.pod()
    result = rig.add(pod, **conf)
    assert rdma_cni(rig, pod)
    found = rig.check(pod, result, **conf)
    assert found.code == 105, found
    assert "has left the host's namespace" in found.out["msg"]
    if returned:  # its DEL comes before ours
        device = str(rig.hca.rdma_anywhere(0))
        Path("/run/netns/host").touch()
        run(["mount", "--bind", "/proc/1/ns/net", "/run/netns/host"])
        try:
            run(["rdma", "dev", "set", device, "netns", "host"], netns=pod.name)
        finally:
            run(["umount", "/run/netns/host"])
            Path("/run/netns/host").unlink()
    rig.delete(pod, **conf)
    rig.assert_as_before()


# ---- a caller with a /run of its own, such as the pod of a DRA driver


@SHARED
def test_a_caller_with_a_run_of_its_own(rig: Rig) -> None:
    """Its locks are not ours, but it sees who owns a VF: an attachment that is whole is safe from it."""
    pod, other = rig.pod(), rig.pod("other")
    rig.add(pod)
    usual = rig.cni.command
    private = f'mkdir -p {LOCKS} && mount -t tmpfs tmpfs {LOCKS} && exec "$@"'
    rig.cni.command = ["unshare", "--mount", "sh", "-c", private, "sh", *usual]
    try:
        refused = rig.call("ADD", other)
        assert refused.code == 101, refused
        assert f"VF {rig.hca.pci(0)} is in use by" in refused.out["msg"]
        rig.delete(other)
        assert pod.link() is not None
        rig.delete(pod)
    finally:
        rig.cni.command = usual
    rig.assert_as_before()
