"""ib_sriov_cni.attach.configure_interface in a real pod: addresses that last, and routes beside those of eth0."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from ib_sriov_cni.attach.configure_interface import add_routes, configure
from ib_sriov_cni.attach.host import Host
from ib_sriov_cni.core.comparison import address_differences
from ib_sriov_cni.core.configuration import parse_netconf
from ib_sriov_cni.core.errors import KernelRefused
from ib_sriov_cni.core.routes import effective_routes
from ib_sriov_cni.core.values import Link
from ib_sriov_cni.telemetry.log import Log
from ipam.protocol.request import Request
from ipam.protocol.result import Address, Result, Route
from tests.netns.conftest import Sandbox

CONF = parse_netconf(
    Request(command="ADD", args={}, conf={"name": "n", "deviceID": "0000:3b:00.2"}, version="1.1.0", environ={})
)
CASES = [("-4", "0.0.0.0/0", 0), ("-6", "::/0", 1024), ("-4", "10.9.0.0/16", 0), ("-6", "fd09::/16", 1024)]


class Pod:
    """A pod with eth0, and net1 that is not configured yet."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.host = Host(log=Log(level="error"))
        self.rtnl = sandbox.rtnl()
        sandbox.ip("link", "set", "lo", "up")
        sandbox.add_link("eth0")
        sandbox.ip("addr", "add", "10.244.0.3/24", "dev", "eth0")
        sandbox.ip("addr", "add", "fd44::3/64", "dev", "eth0", "nodad")
        self.add_rail(1)

    def add_rail(self, number: int) -> None:
        self.sandbox.add_link(f"net{number}", up=False)

    def link(self, name: str = "net1") -> Link:
        link = self.rtnl.read_link(name)
        assert link is not None
        return link

    def configure(self, *routes: Route, number: int = 1) -> Result:
        """Configure a rail as ADD does, and verify it as ADD does."""
        addresses = (
            Address(address=f"10.{55 + number}.0.3/24", gateway=f"10.{55 + number}.0.1"),
            Address(address=f"fd5{number}::3/64", gateway=f"fd5{number}::1"),
        )
        with self.sandbox.open() as netns:
            wanted = Result(ips=addresses, routes=routes)
            made = configure(self.host, self.rtnl, netns, f"net{number}", conf=CONF, result=wanted)
        link = self.link(f"net{number}")
        assert address_differences(made, None, self.rtnl.read_addresses(link), self.rtnl.read_routes(link)) == []
        return made

    def sh(self, *command: str) -> str:
        done = subprocess.run(
            ["ip", "netns", "exec", self.sandbox.name, *command], check=True, stdout=subprocess.PIPE, text=True
        )
        return done.stdout.strip()

    def setting(self, ifname: str, name: str) -> str:
        return self.sh("cat", f"/proc/sys/net/ipv6/conf/{ifname}/{name}")

    def routes(self, family: str, dst: str) -> list[Any]:
        """Routes to that destination as iproute2 shows them, the first one first."""
        name = "default" if dst.endswith("/0") else dst
        return [route for route in self.sandbox.ip(family, "route", "show") if route["dst"] == name]

    def way_to(self, address: str) -> str:
        """The interface through which the pod reaches an address."""
        return str(self.sandbox.ip("route", "get", address)[0]["dev"])


@pytest.fixture
def pod(sandbox: Sandbox) -> Iterator[Pod]:
    made = Pod(sandbox)
    yield made
    made.rtnl.close()


def gateway(family: str, *, eth0: bool = False) -> str:
    if eth0:
        return "10.244.0.1" if family == "-4" else "fd44::1"
    return "10.56.0.1" if family == "-4" else "fd51::1"


# ---- routes that eth0 has already


@pytest.mark.parametrize(("family", "dst", "metric"), CASES)
def test_the_pods_traffic_stays_where_it_was(pod: Pod, family: str, dst: str, metric: int) -> None:
    pod.sandbox.ip(family, "route", "add", dst, "via", gateway(family, eth0=True), "dev", "eth0")
    (route,) = pod.configure(Route(dst=dst)).routes
    assert (route.gw, route.priority) == (None, metric + 1)  # as the IPAM plugin gave it, but for the metric
    first, second = pod.routes(family, dst)
    assert (first["dev"], first["gateway"]) == ("eth0", gateway(family, eth0=True))
    assert (second["dev"], second["gateway"], second["metric"]) == ("net1", gateway(family), metric + 1)
    inside = "10.9.9.9" if family == "-4" else "fd09::9"
    assert pod.way_to(inside) == "eth0"
    pod.sandbox.ip(family, "route", "del", dst, "dev", "eth0")
    assert pod.way_to(inside) == "net1"


@pytest.mark.parametrize(("family", "dst", "metric"), CASES[:2])
def test_eth0s_default_route_may_have_a_metric(pod: Pod, family: str, dst: str, metric: int) -> None:
    """The kernel would let ours in, and the pod's traffic would go with it."""
    eth0 = gateway(family, eth0=True)
    pod.sandbox.ip(family, "route", "add", dst, "via", eth0, "dev", "eth0", "metric", "3000")
    (route,) = pod.configure(Route(dst=dst)).routes
    assert route.priority == 3001
    assert [item["dev"] for item in pod.routes(family, dst)] == ["eth0", "net1"]


@pytest.mark.parametrize(("family", "dst", "metric"), CASES[:2])
def test_who_gives_a_metric_is_obeyed(pod: Pod, family: str, dst: str, metric: int) -> None:
    eth0 = gateway(family, eth0=True)
    pod.sandbox.ip(family, "route", "add", dst, "via", eth0, "dev", "eth0", "metric", "3000")
    made = pod.configure(Route(dst=dst, priority=7))
    assert made.routes == (Route(dst=dst, priority=7),)
    assert [item["dev"] for item in pod.routes(family, dst)] == ["net1", "eth0"]


@pytest.mark.parametrize(("family", "dst", "metric"), CASES[:2])
def test_without_a_default_route_ours_is_the_default(pod: Pod, family: str, dst: str, metric: int) -> None:
    """Multus has removed that of eth0."""
    assert pod.configure(Route(dst=dst)).routes == (Route(dst=dst),)
    (route,) = pod.routes(family, dst)
    assert (route["dev"], route.get("metric", 0)) == ("net1", metric)


@pytest.mark.parametrize(("family", "dst", "metric"), CASES)
def test_two_rails_behind_eth0(pod: Pod, family: str, dst: str, metric: int) -> None:
    """They share a metric, as they share one without eth0."""
    pod.sandbox.ip(family, "route", "add", dst, "via", gateway(family, eth0=True), "dev", "eth0")
    pod.add_rail(2)
    assert [pod.configure(Route(dst=dst), number=number).routes[0].priority for number in (1, 2)] == [metric + 1] * 2
    paths = [
        (path["dev"], item.get("metric", 0))
        for item in pod.routes(family, dst)
        for path in item.get("nexthops", [item])
    ]
    assert paths == [("eth0", 0 if family == "-4" else 1024), ("net1", metric + 1), ("net2", metric + 1)]


def test_fields_of_a_route(pod: Pod) -> None:
    made = pod.configure(
        Route(dst="10.9.0.0/16", table=100, mtu=1400, advmss=1300, priority=9), Route(dst="10.8.0.0/16", scope=253)
    )
    (route,) = pod.sandbox.ip("route", "show", "table", "100")
    metrics = route["metrics"][0]
    assert (route["dst"], route["gateway"], route["metric"]) == ("10.9.0.0/16", "10.56.0.1", 9)
    assert (metrics["mtu"], metrics["advmss"]) == (1400, 1300)
    (route,) = pod.routes("-4", "10.8.0.0/16")
    assert (route["scope"], "gateway" in route) == ("link", False)
    assert made.routes[0].priority == 9


def routes_added(pod: Pod, *routes: Route, ifname: str = "net1") -> list[Route]:
    return add_routes(pod.rtnl, pod.link(ifname), list(routes))


def test_a_route_the_kernel_made_with_the_address_is_there_already(pod: Pod) -> None:
    pod.configure(Route(dst="10.56.0.0/24", gw=None, scope=253), Route(dst="10.56.0.9/24", scope=253))
    assert len(pod.routes("-4", "10.56.0.0/24")) == 1


@pytest.mark.parametrize("gateways", [("10.56.0.1", "10.56.0.2"), ("fd51::1", "fd51::2")])
def test_one_destination_by_two_gateways(pod: Pod, gateways: tuple[str, str]) -> None:
    dst = "fd09::/16" if ":" in gateways[0] else "10.9.0.0/16"
    wanted = [Route(dst=dst, gw=gw) for gw in (*gateways, gateways[0])]
    pod.configure(*wanted)
    assert sorted(str(item.gw) for item in pod.rtnl.read_routes(pod.link()) if item.dst == dst) == [*gateways]


@pytest.mark.parametrize("with_gateway", [True, False])
@pytest.mark.parametrize(("family", "dst"), [("-4", "10.9.0.0/16"), ("-6", "fd09::/16")])
def test_a_route_of_a_pods_other_rail_gets_a_further_path(pod: Pod, family: str, dst: str, with_gateway: bool) -> None:
    """Several interfaces on one network have the same routes (Go: netlink.RouteAddEcmp)."""
    wanted = {}
    for number in (1, 2, 3):
        if number > 1:
            pod.add_rail(number)
        ips = pod.configure(number=number).ips
        (route,) = effective_routes(Result(ips=ips, routes=(Route(dst=dst, scope=None if with_gateway else 253),)))
        wanted[f"net{number}"] = route
    for name, route in wanted.items():
        assert routes_added(pod, route, ifname=name) == [route]
        assert routes_added(pod, route, ifname=name) == [route]  # again: it exists already
    for name, route in wanted.items():
        assert [item.gw for item in pod.rtnl.read_routes(pod.link(name)) if item.dst == dst] == [route.gw]
    seen = pod.routes(family, dst)
    paths = [path for item in seen for path in item.get("nexthops", [item])]
    assert sorted((path["dev"], path.get("gateway")) for path in paths) == [
        (name, route.gw) for name, route in wanted.items()
    ]
    if family == "-4":
        assert paths[0]["dev"] == "net1"  # the first path stays first


@pytest.mark.parametrize("dst", ["10.9.0.0/16", "fd09::/64"])
def test_a_route_that_throws_packets_away_is_left_alone(pod: Pod, dst: str) -> None:
    pod.sandbox.ip("route", "add", "blackhole", dst)
    pod.configure()
    with pytest.raises(KernelRefused) as caught:
        routes_added(pod, Route(dst=dst))
    assert caught.value.errno == errno.EEXIST
    assert caught.value.msg.startswith(f"add route {dst} via link on netdev net1: File exists")
    assert "does the pod have a route that blocks this one?" in caught.value.details


# ---- IPv6


def test_addresses_outlast_the_link(pod: Pod) -> None:
    pod.configure()
    for state in ("down", "up"):
        pod.sandbox.ip("link", "set", "net1", state)
        assert {"10.56.0.3/24", "fd51::3/64"} <= set(pod.rtnl.read_addresses(pod.link()))
    (seen,) = [item for item in pod.sandbox.ip("addr", "show", "net1")[0]["addr_info"] if item["local"] == "fd51::3"]
    assert "tentative" not in seen  # it can be used at once, now as before


def test_a_pod_whose_runtime_has_turned_ipv6_off_reaches_itself(pod: Pod) -> None:
    for name in ("all", "default"):
        pod.sh("sh", "-c", f"echo 1 >/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
    pod.configure()
    assert (pod.setting("net1", "disable_ipv6"), pod.setting("net1", "keep_addr_on_down")) == ("0", "1")
    assert pod.setting("eth0", "disable_ipv6") == "1"  # not ours
    pod.sh("ping", "-c", "1", "-W", "5", "fd51::3")
