"""What pods do with their VF, beyond attach/test_del.py: whatever it is, DEL returns the VF as it was."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.commands import run, wait
from tests.lab.modes import EXCLUSIVE
from tests.lab.rig import Rig, device_held_open, guid_of

WITH_GUID: dict[str, Any] = {"guid": guid_of(1), "link_state": "enable"}
NOTHING_VALID: dict[str, Any] = {"cni.dev/valid-attachments": []}
# With a GUID of its own DEL binds the driver anew; without one it moves the devices back.
BOTH = pytest.mark.parametrize("conf", [WITH_GUID, {}], ids=["guid", "kept"])


@BOTH
def test_everything_at_once(rig: Rig, conf: dict[str, Any]) -> None:
    """Renamed, down, with addresses and altnames, its uverbs open, and an interface of another kind called net1."""
    pod = rig.pod()
    rig.add(pod, **conf)
    with device_held_open(pod, str(rig.hca.rdma_anywhere(0))) as holder:
        pod.run(
            "ip link set net1 down && ip link set net1 name mine && ip addr add 10.1.1.1/24 dev mine &&"
            " ip link property add dev mine altname one altname two && ip link set mine up &&"
            " ip route add 10.77.0.0/16 dev mine && ip link add net1 type dummy"
        )
        rig.delete(pod, **conf)
        rig.assert_as_before()
        assert holder.poll() is None
    assert [link["ifname"] for link in pod.links()] == ["lo", "net1"]
    rig.assert_as_before()


@BOTH
@EXCLUSIVE
def test_the_rdma_device_is_renamed(rig: Rig, conf: dict[str, Any]) -> None:
    pod = rig.pod()
    result = rig.add(pod, **conf)
    run(["rdma", "dev", "set", str(rig.hca.rdma_anywhere(0)), "name", "mine0"], netns=pod.name)
    assert rig.check(pod, result, **conf).status == 0
    rig.delete(pod, **conf)
    rig.assert_as_before()


@BOTH
def test_moved_on_and_the_pod_is_gone(rig: Rig, conf: dict[str, Any]) -> None:
    """Into a namespace inside the pod that outlives it: only DEL returns the VF from there."""
    pod, nested = rig.pod(), rig.pod("nested")
    rig.add(pod, **conf)
    if rig.exclusive:
        rdma = str(rig.hca.rdma_anywhere(0))
        run(["rdma", "dev", "set", rdma, "netns", nested.name], netns=pod.name)
        assert wait(lambda: rig.hca.netdevs(0) or rig.hca.netdevs(0, pod.name) or rig.hca.netdevs(0, nested.name))
        if rig.hca.netdevs(0):  # before 6.17 the netdev is made anew on the host
            run(["ip", "link", "set", rig.hca.netdev(0), "netns", nested.name])
    else:
        pod.run(f"ip link set net1 netns {nested.name}")
    assert rig.hca.netdevs(0, nested.name)
    pod.delete()
    rig.delete(pod, **conf)
    rig.assert_as_before()
    assert [link["ifname"] for link in nested.links()] == ["lo"]


@BOTH
def test_moved_on_it_still_serves_the_pod(rig: Rig, conf: dict[str, Any]) -> None:
    """Nobody else's ADD, and no GC, takes it for a dead one's."""
    pod, nested, thief = rig.pod(), rig.pod("nested"), rig.pod("thief")
    rig.add(pod, **conf)
    pod.run(f"ip link set net1 netns {nested.name}")
    refused = rig.call("ADD", thief, guid=guid_of(9))
    assert refused.code == 101, refused
    rig.delete(thief)
    assert rig.call("GC", thief, **NOTHING_VALID).status == 0
    assert nested.link() is not None
    rig.delete(pod, **conf)
    rig.assert_as_before()
