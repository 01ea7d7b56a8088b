"""The fixtures of this folder, and the comparison of the host before and after."""

from __future__ import annotations

import pytest

from tests.lab.commands import run
from tests.lab.emulated_hca import Hca
from tests.lab.hca.conftest import MakePod
from tests.lab.snapshot import assert_as_before, host_snapshot


def test_pod_and_snapshot(hca: Hca, pods: MakePod) -> None:
    before = host_snapshot(hca)
    assert_as_before(before)
    pod = pods("a")
    netdev = hca.netdev(0)
    run(["ip", "link", "set", "dev", netdev, "netns", "a", "name", "net1"])
    run("ip -n a link set net1 up; ip -n a addr add 10.1.2.3/24 dev net1")
    assert hca.netdevs(0, "a") == ["net1"]
    assert pod.addresses("net1") == ["10.1.2.3/24"]
    assert pod.routes()[0]["dst"] == "10.1.2.0/24"
    with pytest.raises(AssertionError, match=f"netdev {netdev}: down"):
        assert_as_before(before, timeout=0)
    run(["ip", "-n", "a", "link", "set", "dev", "net1", "down"])
    run(["ip", "-n", "a", "link", "set", "dev", "net1", "netns", "1", "name", netdev])
    assert_as_before(before)
    print(before.facts)
