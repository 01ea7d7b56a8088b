"""A VF that has lost its netdev or RDMA device gets it back by a rebind, unless somebody has it."""

from __future__ import annotations

import subprocess
from typing import Any

from tests.lab.commands import run, wait
from tests.lab.modes import SHARED
from tests.lab.rig import Rig, guid_of

USE_A_DEVICE = """
import sys
from pyverbs.device import Context
from pyverbs.pd import PD
context = Context(name=sys.argv[1])
pd = PD(context)
print("used", flush=True)
sys.stdin.read()
"""


def lose_netdev(rig: Rig, vf: int = 0) -> None:
    rig.hca.knob("lose_netdev", 1 << vf)
    rig.hca.rebind(vf)
    assert wait(lambda: rig.hca.rdma(vf))
    assert rig.hca.netdevs(vf) == []


def test_the_netdev_is_lost(rig: Rig) -> None:
    lose_netdev(rig)
    confs: tuple[dict[str, Any], ...] = ({}, {"guid": guid_of(1)})
    for more in confs:
        pod = rig.pod()
        result = rig.add(pod, **more)
        assert rig.check(pod, result, **more).status == 0
        rig.delete(pod, **more)
    rig.assert_as_before()


def test_the_rdma_device_is_lost(rig: Rig) -> None:
    rig.hca.knob("lose_rdma", 1)
    rig.hca.rebind(0)
    assert rig.hca.rdma_anywhere(0) is None
    pod = rig.pod()
    result = rig.add(pod)
    assert rig.check(pod, result).status == 0
    rig.delete(pod)
    rig.assert_as_before()


def test_another_namespace_has_the_netdev(rig: Rig) -> None:
    """Nobody's record says so, as after another plugin's ADD; it is not torn out of there."""
    pod, other = rig.pod(), rig.pod("other")
    name = rig.hca.netdev(0)
    run(["ip", "link", "set", name, "netns", other.name])
    refused = rig.call("ADD", pod)
    assert refused.code == 101, refused
    assert "has no netdev on the host" in refused.out["msg"]
    assert rig.hca.netdevs(0, other.name) == [name]
    run(["ip", "-n", other.name, "link", "set", name, "netns", "1"])
    rig.assert_as_before()


@SHARED
def test_another_namespace_uses_the_rdma_device(rig: Rig) -> None:
    pod, other = rig.pod(), rig.pod("other")
    lose_netdev(rig)
    command = ["ip", "netns", "exec", other.name, "/usr/bin/python3", "-c", USE_A_DEVICE, str(rig.hca.rdma(0))]
    user = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert user.stdout is not None
        assert user.stdout.readline() == "used\n"
        refused = rig.call("ADD", pod)
        assert refused.code == 101, refused
        assert "unbind" not in refused.stderr
    finally:
        user.kill()
        user.communicate()
    rig.add(pod)
    rig.delete(pod)
    rig.assert_as_before()


def test_it_does_not_come_back(rig: Rig) -> None:
    lose_netdev(rig)
    rig.hca.knob("no_ipoib", 1)
    pod = rig.pod()
    failed = rig.call("ADD", pod)
    assert failed.code == 101, failed
    assert "its netdev (ib_ipoib) did not appear" in failed.out["msg"]
    assert rig.hca.driver(0)
    rig.delete(pod)
    rig.hca.knob("no_ipoib", 0)
    rig.add(pod)
    rig.delete(pod)
    rig.assert_as_before()
