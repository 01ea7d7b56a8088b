"""Routes of a pod that has eth0: its traffic stays where it was, and Multus may change the default routes (N1)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.command_line import cli
from tests.lab.modes import SHARED
from tests.lab.pod import Pod
from tests.lab.rig import Rig

BOTH = {
    "type": "host-local",
    "ranges": [[{"subnet": "10.56.0.0/24"}], [{"subnet": "fd56::/64"}]],
    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}, {"dst": "10.99.0.0/16"}],
}
CONF: dict[str, Any] = {"ipam": BOTH}


@pytest.fixture
def pod(rig: Rig) -> Pod:
    """A pod whose default routes go through eth0."""
    made = rig.pod("routed")
    made.run("ip link add eth0 type dummy && ip link set eth0 up && ip addr add 10.244.0.3/24 dev eth0")
    made.run("ip addr add fd44::3/64 dev eth0 nodad && ip -6 route add default via fd44::1")
    made.run("ip route add default via 10.244.0.1")
    return made


def defaults(pod: Pod) -> list[tuple[str, str, int]]:
    """Interface, gateway and metric of each default route; IPv4 first, each family in the kernel's order."""
    found = [route for route in pod.routes() if route["dst"] == "default"]
    return [(route["dev"], route["gateway"], route.get("metric", 0)) for route in found]


ETH0 = [("eth0", "10.244.0.1", 0), ("eth0", "fd44::1", 1024)]
NET1 = [("net1", "10.56.0.1", 1), ("net1", "fd56::1", 1025)]


@SHARED
def test_behind_the_default_routes_of_eth0(rig: Rig, pod: Pod) -> None:
    result = rig.add(pod, **CONF)
    assert [route.get("priority") for route in result["routes"]] == [1, 1025, None]
    assert sorted(defaults(pod)) == sorted(ETH0 + NET1)
    for address in ("192.0.2.1", "2001:db8::1"):
        assert " dev eth0 " in pod.run(["ip", "route", "get", address]).stdout
    assert rig.check(pod, result, **CONF).status == 0
    pod.run("ip route change default via 10.56.0.1 dev net1 metric 1 && ip -6 route del default dev net1")
    found = rig.check(pod, result, **CONF)
    assert (found.code, found.out["msg"].count("route ")) == (105, 1), found
    assert "route ::/0 via fd56::1 is gone" in found.out["msg"]
    rig.delete(pod, **CONF)
    assert defaults(pod) == ETH0
    rig.assert_as_before()


@SHARED
def test_after_multus_has_replaced_the_default_routes(rig: Rig, pod: Pod) -> None:
    pod.run("ip route del default && ip -6 route del default")
    result = rig.add(pod, **CONF)
    assert defaults(pod) == [("net1", "10.56.0.1", 0), ("net1", "fd56::1", 1024)]
    pod.run("ip route del default && ip -6 route del default && ip route add default via 10.56.0.99 dev net1")
    cached = {**result, "routes": [*result["routes"][2:], {"dst": "0.0.0.0/0", "gw": "10.56.0.99"}]}
    assert rig.check(pod, cached, **CONF).status == 0
    assert "route ::/0 via fd56::1 is gone" in rig.check(pod, result, **CONF).out["msg"]
    checked = cli("check", "-o", "json")
    assert checked.status == 0, checked
    repaired = cli("repair", "--dry-run", "-o", "json")
    assert repaired.doc["repairs"] == [], repaired
    pod.run("ip route del 10.99.0.0/16")
    assert cli("check").status != 0
    rig.delete(pod, **CONF)
    rig.assert_as_before()
