"""What a pod with CAP_NET_ADMIN leaves behind or puts in our way, where names and indices do not show it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tests.lab.commands import read_json
from tests.lab.modes import SHARED
from tests.lab.races.test_at_once import held
from tests.lab.rig import Rig
from tests.security.netlink_attack import KINDS, NETLINK_RDMA, attack

# No GUID of its own, so that DEL moves the devices instead of rebinding the VF.


@SHARED
def test_a_child_hidden_in_a_nested_namespace(rig: Rig) -> None:
    """The pod never asked for a P_Key, and its child does not move with its parent: the kernel counts it."""
    pod, nested = rig.pod(), rig.pod("nested")
    rig.add(pod)
    pod.run(f"ip link add link net1 name mine type ipoib pkey 0x8001 && ip link set mine netns {nested.name}")
    assert [link["ifname"] for link in nested.links()] == ["lo", "mine"]
    rig.delete(pod)
    assert [link["ifname"] for link in nested.links()] == ["lo"]
    rig.assert_as_before()


@SHARED
def test_another_interface_in_the_netdevs_place(rig: Rig) -> None:
    """Between the look and the move the pod puts a dummy there, with the netdev's index: DEL sends it back."""
    pod, nested = rig.pod(), rig.pod("nested")
    rig.add(pod)
    with held(rig, "DEL", pod, 0, at="return_netdev") as call:
        link = pod.link("net1")
        assert link is not None
        index = link["ifindex"]
        pod.run(f"ip link set net1 netns {nested.name} && ip link add net1 index {index} type dummy")
        done = call.go_on()
    assert done.status == 0, done
    dummy = pod.link("net1")
    assert dummy is not None
    assert dummy["link_type"] == "ether"
    assert read_json(["ip", "-j", "link", "show", "type", "dummy"]) == []
    rig.assert_as_before()


@pytest.mark.parametrize(("asked", "takes"), [(False, "0"), (True, "1")])
def test_router_advertisements(rig: Rig, asked: bool, takes: str) -> None:
    """They would give the pod addresses and routes: taken only if the configuration asks."""
    pod = rig.pod()
    conf: dict[str, Any] = {"acceptRA": True} if asked else {}
    rig.add(pod, **conf)
    assert pod.run("cat /proc/sys/net/ipv6/conf/net1/accept_ra").stdout.strip() == takes
    rig.delete(pod, **conf)


ASK_RDMA = """
import sys, time
from ib_sriov_cni.kernel.netns import Inside, open_netns
from ib_sriov_cni.kernel.rdma_netlink import Rdma
with open_netns(sys.argv[1]) as netns:
    for _ in range(10):
        with Inside(netns):
            rdma = Rdma()
        # The attacker gets time to find the socket and to fill it.
        time.sleep(0.02)
        for _ in range(3):
            assert rdma.read_mode() == sys.argv[2]
            assert "forged" not in rdma.read_devices()
            assert sorted(rdma.read_devices()) == sys.argv[3:], rdma.read_devices()
        assert rdma.find_device("forged") is None
        rdma.close()
print("true")
"""


@pytest.mark.parametrize("kind", KINDS)
def test_forged_answers_of_rdma_netlink(rig: Rig, kind: str) -> None:
    """As in tests/security/test_netlink.py: the kernel's answers are the only ones that are read."""
    visible = sorted(read_json(["rdma", "-j", "dev", "show"]), key=lambda each: str(each["ifname"]))
    names = [str(each["ifname"]) for each in visible] if rig.mode == "shared" else []
    with attack(NETLINK_RDMA, kind) as attacker:
        done = subprocess.run(
            [sys.executable, "-c", ASK_RDMA, attacker.path, rig.mode, *names],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "true\n"), done.stderr[-2000:]
        assert attacker.process.poll() is None, "the attacker died: nothing was shown"
