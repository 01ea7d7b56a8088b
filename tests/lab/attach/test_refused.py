"""What ADD refuses before it touches anything, and who wins a VF that two want (C8, C21)."""

from __future__ import annotations

from functools import partial

from tests.lab.commands import run, wait
from tests.lab.modes import SHARED
from tests.lab.rig import Rig, answers, at_once, connected, end, guid_of, leases, state_of


def test_race_for_one_vf(rig: Rig) -> None:
    """One wins whole, the other's namespace is untouched."""
    pods = [rig.pod("racer"), rig.pod("racer")]
    runs = at_once(partial(rig.call, "ADD", pod, guid=guid_of(number)) for number, pod in enumerate(pods))
    (winner,) = [number for number, found in enumerate(runs) if found.status == 0]
    loser = 1 - winner
    assert runs[loser].code == 101, runs[loser]
    assert pods[winner].container_id[:12] in runs[loser].out["msg"]
    assert [link["ifname"] for link in pods[loser].links()] == ["lo"]
    check = rig.check(pods[winner], runs[winner].out, guid=guid_of(winner))
    assert check.status == 0, check.stdout
    rig.delete(pods[loser])
    assert len(leases()) == 1
    assert rig.check(pods[winner], runs[winner].out, guid=guid_of(winner)).status == 0
    rig.delete(pods[winner])
    rig.assert_as_before()


def test_vf_in_use_is_refused_and_its_pod_unharmed(rig: Rig) -> None:
    first, peer, thief = rig.pod("first"), rig.pod("peer"), rig.pod("thief")
    rig.add(first, 0)
    rig.add(peer, 1)
    assert connected(first)
    assert connected(peer)
    assert answers(peer, first.addresses()[0].partition("/")[0])
    address = peer.addresses()[0].partition("/")[0]
    pinging = first.run(f"ping -i 0.2 -w 600 {address} > /tmp/pings 2>&1 & echo $!").stdout.strip()
    refused = rig.call("ADD", thief, 0, guid=guid_of(9))
    assert refused.code == 101
    assert "is in use by" in refused.out["msg"]
    assert [link["ifname"] for link in thief.links()] == ["lo"]
    rig.delete(thief, 0)
    run(["kill", "-INT", pinging])
    assert wait(lambda: " received" in run("cat /tmp/pings").stdout)
    assert " 0% packet loss" in run("cat /tmp/pings").stdout
    rig.delete(first, 0)
    rig.delete(peer, 1)
    rig.assert_as_before()


def test_name_is_taken_in_the_pod(rig: Rig) -> None:
    """C8: whatever has it, nothing is touched and it stays."""
    pod = rig.pod()
    run(f"ip -n {pod.name} link add net1 type dummy")
    refused = rig.call("ADD", pod, guid=guid_of(1))
    assert refused.code == 4
    assert "net1" in refused.out["msg"]
    link = pod.link()
    assert link is not None
    assert link["linkinfo"]["info_kind"] == "dummy"
    rig.assert_as_before()
    rig.delete(pod)
    assert pod.link() is not None
    rig.assert_as_before()


def test_add_twice(rig: Rig) -> None:
    """The second one is refused (C8) and leaves the first one's attachment whole."""
    pod = rig.pod()
    result = rig.add(pod, guid=guid_of(1))
    again = rig.call("ADD", pod, guid=guid_of(1))
    assert again.code == 4
    assert rig.check(pod, result, guid=guid_of(1)).status == 0
    pod.run("ip link set net1 down && ip link set net1 name mine")
    again = rig.call("ADD", pod, guid=guid_of(1))
    assert again.code == 101
    assert "this attachment exists already" in again.out["details"]
    assert pod.link("mine") is not None
    rig.delete(pod)
    rig.assert_as_before()


@SHARED
def test_isolation_in_shared_mode(rig: Rig) -> None:
    """Code 2, and what to set where; nothing is touched."""
    pod = rig.pod()
    refused = rig.call("ADD", pod, rdmaIsolation=True, guid=guid_of(1), link_state="enable")
    assert refused.code == 2
    assert "netns_mode=0" in refused.out["details"]
    assert [link["ifname"] for link in pod.links()] == ["lo"]
    rig.assert_as_before()


@SHARED
def test_devices_that_are_no_vf(rig: Rig) -> None:
    pod = rig.pod()
    for device, code, words in (
        (rig.hca.pf, 101, "is a physical function, not a VF"),
        ("0009:00:00.1", 101, "there is no such PCI device"),
        ("../0001:00:00.1", 7, "must be a PCI address"),
        ("mlx5_0", 7, "must be a PCI address"),
    ):
        refused = rig.cni("ADD", pod, rig.conf(None, deviceID=device))
        assert (refused.code, words in refused.out["msg"]) == (code, True), refused
    rig.assert_as_before()


@SHARED
def test_own_namespace(rig: Rig) -> None:
    """C20: code 8, tested before anything is touched."""
    pod = rig.pod()
    refused = rig.cni("ADD", pod, rig.conf(), env={"CNI_NETNS": "/proc/self/ns/net"})
    assert refused.code == 8
    rig.assert_as_before()


@SHARED
def test_namespace_that_is_none(rig: Rig) -> None:
    pod = rig.pod()
    for path, code in (("/run/netns/none", 3), ("/etc/passwd", 4), ("/proc/self/ns/mnt", 4)):
        assert rig.cni("ADD", pod, rig.conf(), env={"CNI_NETNS": path}).code == code
    rig.assert_as_before()


@SHARED
def test_stopped_add_delays_its_own_vf_only(rig: Rig) -> None:
    """C21: code 11 past the deadline, with who holds the lock; another VF is served meanwhile."""
    stuck, waiting, other = rig.pod("stuck"), rig.pod("waiting"), rig.pod("other")
    process = rig.start("ADD", stuck, 0, trace="read_facts=stop")
    try:
        assert wait(lambda: state_of(process.pid) == "T")
        refused = rig.call("ADD", waiting, 0, lockTimeout=0.5)
        assert refused.code == 11
        assert f"process {process.pid} (container {stuck.container_id}, net1" in refused.out["msg"]
        rig.add(other, 1)
        rig.delete(other, 1)
    finally:
        run(["kill", "-CONT", str(process.pid)])
    done = end(process)
    assert done.status == 0, done
    rig.delete(stuck, 0)
    rig.assert_as_before()
