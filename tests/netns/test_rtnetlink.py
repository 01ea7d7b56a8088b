"""ib_sriov_cni.kernel.rtnetlink in real namespaces, checked against iproute2."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from ib_sriov_cni.core.errors import KernelRefused
from ib_sriov_cni.core.values import Link, PciAddress, VfFunction
from ib_sriov_cni.kernel import netlink_messages as m
from ib_sriov_cni.kernel.netlink_socket import NETLINK_ROUTE, LinkEvents, NetlinkSocket
from ib_sriov_cni.kernel.netns import Inside
from ib_sriov_cni.kernel.rtnetlink import Rtnl
from ipam.protocol.result import Route
from tests.netns.conftest import Sandbox


def read(rtnl: Rtnl, which: str | int) -> Link:
    link = rtnl.read_link(which)
    assert link is not None
    return link


@pytest.fixture
def link(sandbox: Sandbox, pod: Rtnl) -> Link:
    """A veth v0 in the pod, up."""
    sandbox.add_link("v0")
    return read(pod, "v0")


@pytest.fixture
def host(new_sandbox: Callable[[], Sandbox]) -> Sandbox:
    """Another namespace, in the role of the host's."""
    return new_sandbox()


def refused(errno_wanted: int, act: Callable[[], object]) -> str:
    with pytest.raises(KernelRefused) as caught:
        act()
    assert caught.value.errno == errno_wanted, caught.value.msg
    assert caught.value.code == 102
    return caught.value.msg


# ---- links


def test_a_link_as_iproute2_sees_it(sandbox: Sandbox, pod: Rtnl, link: Link) -> None:
    (seen,) = sandbox.ip("link", "show", "v0")
    assert (link.index, link.name, link.mtu, link.mac) == (seen["ifindex"], "v0", seen["mtu"], seen["address"])
    assert link.up
    assert (link.kind, link.pci, link.port_guid) == (1, "", None)
    assert pod.read_link(link.index) == read(pod, "v0")


def test_all_links(sandbox: Sandbox, pod: Rtnl, link: Link) -> None:
    assert {item.name for item in pod.read_links()} == {item["ifname"] for item in sandbox.ip("link")}
    assert pod.find_link("0000:3b:00.2") is None


@pytest.mark.parametrize("which", ["nowhere", 12345678])
def test_a_link_that_is_not_there(pod: Rtnl, which: str | int) -> None:
    assert pod.read_link(which) is None


def test_more_links_than_fit_a_message(sandbox: Sandbox, pod: Rtnl) -> None:
    script = "".join(f"link add b{number} type bridge\n" for number in range(150))
    subprocess.run(["ip", "-n", sandbox.name, "-batch", "-"], input=script, text=True, check=True)
    assert len([item for item in pod.read_links() if item.name.startswith("b")]) == 150


def test_down_up_and_mtu(sandbox: Sandbox, pod: Rtnl, link: Link) -> None:
    pod.set_down(link)
    assert not read(pod, "v0").up
    pod.set_up(link)
    assert read(pod, "v0").up
    pod.set_mtu(link, 1400)
    assert read(pod, "v0").mtu == 1400
    assert sandbox.ip("link", "show", "v0")[0]["mtu"] == 1400


def test_a_refused_mtu_says_why(pod: Rtnl, link: Link) -> None:
    text = refused(errno.EINVAL, lambda: pod.set_mtu(link, 1 << 20))
    assert text == "set mtu 1048576 of netdev v0: Invalid argument (mtu greater than device maximum)"


def test_rename(pod: Rtnl, link: Link) -> None:
    pod.set_down(link)
    pod.set_name(link, "net1")
    assert read(pod, "net1").index == link.index
    assert pod.read_link("v0") is None


def test_a_name_that_is_taken(sandbox: Sandbox, pod: Rtnl, link: Link) -> None:
    sandbox.add_link("net1")
    pod.set_down(link)
    assert refused(errno.EEXIST, lambda: pod.set_name(link, "net1")).startswith("rename to net1 netdev v0: File exists")
    assert read(pod, "v0").index == link.index


def test_altnames(sandbox: Sandbox, pod: Rtnl, link: Link) -> None:
    pod.add_altname(link, "first-very-long-alternative-name")
    pod.add_altname(link, "second")
    assert set(read(pod, "v0").altnames) == {"first-very-long-alternative-name", "second"}
    assert set(sandbox.ip("link", "show", "v0")[0]["altnames"]) == {"first-very-long-alternative-name", "second"}
    refused(errno.EEXIST, lambda: pod.add_altname(link, "second"))
    pod.remove_altname(link, "second")
    assert read(pod, "v0").altnames == ("first-very-long-alternative-name",)
    assert refused(errno.ENOENT, lambda: pod.remove_altname(link, "second")).startswith("remove altname second of ")


def test_c8_an_altname_is_a_name_that_is_taken(pod: Rtnl, link: Link) -> None:
    pod.add_altname(link, "net1")
    assert read(pod, "net1").index == link.index


def test_move_and_rename(sandbox: Sandbox, host: Sandbox, pod: Rtnl) -> None:
    host.add_link("v0")
    rtnl = host.rtnl()
    link = read(rtnl, "v0")
    rtnl.set_down(link)
    with sandbox.open() as netns:
        rtnl.move_link(link, netns.fd, "net1")
    assert rtnl.read_link("v0") is None
    assert read(pod, "net1").mac == link.mac
    rtnl.close()


def test_move_onto_a_name_that_is_taken(sandbox: Sandbox, host: Sandbox, pod: Rtnl) -> None:
    sandbox.add_link("net1")
    host.add_link("v0")
    rtnl = host.rtnl()
    link = read(rtnl, "v0")
    rtnl.set_down(link)
    with sandbox.open() as netns:
        text = refused(errno.EEXIST, lambda: rtnl.move_link(link, netns.fd, "net1"))
    assert text.startswith("move to another namespace as net1 netdev v0: File exists")
    # Whichever namespace it is in now, it exists exactly once.
    where = [item.mac for item in [*rtnl.read_links(), *pod.read_links()]].count(link.mac)
    assert where == 1
    rtnl.close()


def test_a_link_that_has_gone(sandbox: Sandbox, pod: Rtnl, link: Link) -> None:
    sandbox.ip("link", "del", "v0")
    assert refused(errno.ENODEV, lambda: pod.set_up(link)).startswith("bring up netdev v0: No such device")


def test_a_pf_that_is_none(pod: Rtnl, link: Link) -> None:
    assert pod.read_pf("v0") == (read(pod, "v0"), {})
    assert refused(errno.ENODEV, lambda: pod.read_pf("nowhere")).startswith("read VFs of PF nowhere: No such device")
    vf = VfFunction(
        pci=PciAddress("0000:3b:00.2"),
        pf=PciAddress("0000:3b:00.0"),
        index=3,
        driver="",
        pf_driver="",
        pf_netdev="v0",
        pf_index=link.index,
    )
    text = refused(errno.EOPNOTSUPP, lambda: pod.set_vf_link_state(vf, "enable"))
    assert text.startswith("set link state enable of VF 3 of PF v0: Operation not supported")


def test_a_pf_is_addressed_by_its_number(sandbox: Sandbox, pod: Rtnl, link: Link) -> None:
    """Its name may have changed since it was read."""
    sandbox.ip("link", "set", "v0", "name", "renamed")
    assert pod.read_pf("v0", link.index)[0].name == "renamed"
    assert refused(errno.ENODEV, lambda: pod.read_pf("v0")).startswith("read VFs of PF v0: No such device")


def test_events(sandbox: Sandbox) -> None:
    with sandbox.open() as netns, Inside(netns):
        events = LinkEvents()
    sandbox.add_link("v0")
    events.wait(60)  # returns at once; the time is not asserted, but a lost event would take the full minute
    events.wait(0)
    events.close()


def test_messages_are_traced(sandbox: Sandbox) -> None:
    told: list[str] = []
    with sandbox.open() as netns, Inside(netns):
        rtnl = Rtnl(trace=told.append)
    rtnl.read_link("lo")
    rtnl.close()
    assert told == ["linkmsg type=18 {} ['IFLA_EXT_MASK', 'IFLA_IFNAME']: 1 answers"]


# ---- addresses


def ping(sandbox: Sandbox, address: str) -> None:
    subprocess.run(
        ["ip", "netns", "exec", sandbox.name, "ping", "-c", "1", "-W", "5", address],
        check=True,
        stdout=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(
    ("cidr", "broadcast"),
    [
        ("10.1.2.3/24", "10.1.2.255"),
        ("10.1.2.3/8", "10.255.255.255"),
        ("10.1.2.3/30", "10.1.2.3"),
        ("10.1.2.3/31", None),
        ("10.1.2.3/32", None),
    ],
)
def test_an_ipv4_address(sandbox: Sandbox, pod: Rtnl, link: Link, cidr: str, broadcast: str | None) -> None:
    pod.add_address(link, cidr)
    assert cidr in pod.read_addresses(link)
    (seen,) = [item for item in sandbox.ip("addr", "show", "v0")[0]["addr_info"] if item["family"] == "inet"]
    assert f"{seen['local']}/{seen['prefixlen']}" == cidr
    assert seen.get("broadcast") == broadcast
    refused(errno.EEXIST, lambda: pod.add_address(link, cidr))


@pytest.mark.parametrize("cidr", ["fd00::3/64", "fd00::3/127", "fd00::3/128"])
def test_an_ipv6_address_can_be_used_at_once(sandbox: Sandbox, pod: Rtnl, link: Link, cidr: str) -> None:
    pod.add_address(link, cidr)
    (seen,) = [item for item in sandbox.ip("addr", "show", "v0")[0]["addr_info"] if item["scope"] == "global"]
    assert f"{seen['local']}/{seen['prefixlen']}" == cidr
    assert "tentative" not in seen
    assert cidr in pod.read_addresses(link)
    assert refused(errno.EEXIST, lambda: pod.add_address(link, cidr)).startswith(f"add address {cidr} to netdev v0: ")


def test_addresses_are_the_links_own(sandbox: Sandbox, pod: Rtnl, link: Link) -> None:
    peer = sandbox.add_link("v1")
    pod.add_address(read(pod, "v1"), "10.9.9.9/24")
    pod.add_address(read(pod, peer), "fd09::9/64")
    pod.add_address(link, "10.1.2.3/24")
    assert [item for item in pod.read_addresses(link) if not item.startswith("fe80")] == ["10.1.2.3/24"]


def test_two_pods_reach_each_other(sandbox: Sandbox, host: Sandbox, pod: Rtnl) -> None:
    peer = sandbox.add_link("v0")
    rtnl = host.rtnl()
    with host.open() as netns:
        pod.move_link(read(pod, peer), netns.fd, "v1")
    other = read(rtnl, "v1")
    rtnl.set_up(other)
    pod.set_up(read(pod, "v0"))
    for ours, theirs in (("10.1.2.3", "10.1.2.4"), ("fd00::3", "fd00::4")):
        prefix = 64 if ":" in ours else 24
        pod.add_address(read(pod, "v0"), f"{ours}/{prefix}")
        rtnl.add_address(other, f"{theirs}/{prefix}")
        ping(sandbox, theirs)
    rtnl.close()


# ---- routes


@pytest.fixture
def routed(sandbox: Sandbox, pod: Rtnl, link: Link) -> Link:
    pod.add_address(link, "10.1.2.3/24")
    pod.add_address(link, "fd00::3/64")
    return link


def seen_routes(sandbox: Sandbox, family: str = "-4", table: str = "main") -> dict[str, Any]:
    return {item["dst"]: item for item in sandbox.ip(family, "route", "show", "table", table)}


@pytest.mark.parametrize(
    ("route", "family", "dst"),
    [
        (Route(dst="10.9.0.0/16", gw="10.1.2.1"), "-4", "10.9.0.0/16"),
        (Route(dst="10.9.0.0/16"), "-4", "10.9.0.0/16"),
        (Route(dst="0.0.0.0/0", gw="10.1.2.1"), "-4", "default"),
        (Route(dst="10.9.9.9/32", gw="10.1.2.1", priority=77), "-4", "10.9.9.9"),
        (Route(dst="10.9.0.0/16", gw="10.1.2.1", mtu=1400, advmss=1300), "-4", "10.9.0.0/16"),
        (Route(dst="fd09::/16", gw="fd00::1"), "-6", "fd09::/16"),
        (Route(dst="fd09::/16"), "-6", "fd09::/16"),
        (Route(dst="::/0", gw="fd00::1", priority=77, mtu=1400), "-6", "default"),
    ],
)
def test_a_route(sandbox: Sandbox, pod: Rtnl, routed: Link, route: Route, family: str, dst: str) -> None:
    pod.add_route(routed, route)
    seen = seen_routes(sandbox, family)[dst]
    assert (seen["dev"], seen.get("gateway"), seen["protocol"]) == ("v0", route.gw, "static")
    if route.priority:
        assert seen["metric"] == route.priority
    metrics = (seen.get("metrics") or [{}])[0]
    assert (metrics.get("mtu"), metrics.get("advmss")) == (route.mtu, route.advmss)
    (found,) = [item for item in pod.read_routes(routed) if item.dst == route.dst]
    assert (found.gw, found.table, found.mtu) == (route.gw, 254, route.mtu)
    refused(errno.EEXIST, lambda: pod.add_route(routed, route))


@pytest.mark.parametrize("table", [100, 255 + 100, 1 << 31])
def test_a_route_of_another_table(sandbox: Sandbox, pod: Rtnl, routed: Link, table: int) -> None:
    pod.add_route(routed, Route(dst="10.9.0.0/16", gw="10.1.2.1", table=table))
    assert list(seen_routes(sandbox, table=str(table))) == ["10.9.0.0/16"]
    assert "10.9.0.0/16" not in seen_routes(sandbox)
    assert [item.table for item in pod.read_routes(routed) if item.dst == "10.9.0.0/16"] == [table]


def test_host_bits_of_a_destination_are_cleared(pod: Rtnl, routed: Link) -> None:
    pod.add_route(routed, Route(dst="10.9.8.7/16"))  # the kernel would refuse them
    assert "10.9.0.0/16" in [item.dst for item in pod.read_routes(routed)]


@pytest.mark.parametrize(("dst", "gateways"), [("10.9.0.0/16", ["10.1.2.1", None]), ("fd09::/16", ["fd00::1", None])])
def test_routes_of_all_links_to_a_destination(
    sandbox: Sandbox, pod: Rtnl, routed: Link, dst: str, gateways: list[str | None]
) -> None:
    sandbox.add_link("v1")
    other = read(pod, "v1")
    pod.add_route(routed, Route(dst=dst, gw=gateways[0], priority=7))
    pod.add_route(other, Route(dst=dst, gw=gateways[1], table=100))
    sandbox.ip("route", "add", "10.8.0.0/16", "dev", "v1")
    found = pod.read_routes_to({dst})
    assert sorted((item.index, item.route.gw, item.route.table, item.protocol) for item in found) == [
        (routed.index, gateways[0], 254, 4),
        (other.index, gateways[1], 100, 4),
    ]
    (boot,) = pod.read_routes_to({"10.8.0.0/16", "fd08::/16"})
    assert (boot.index, boot.route.dst, boot.route.priority, boot.protocol) == (other.index, "10.8.0.0/16", None, 3)
    assert pod.read_routes_to(set()) == []


@pytest.mark.parametrize("dst", ["10.9.0.0/16", "fd09::/64"])
def test_a_route_that_throws_packets_away_is_left_alone(sandbox: Sandbox, pod: Rtnl, routed: Link, dst: str) -> None:
    sandbox.ip("route", "add", "blackhole", dst)
    refused(errno.EEXIST, lambda: pod.add_route(routed, Route(dst=dst)))
    assert [item for item in pod.read_routes(routed) if item.dst == dst] == []


def test_a_gateway_nobody_can_reach(pod: Rtnl, routed: Link) -> None:
    text = refused(errno.ENETUNREACH, lambda: pod.add_route(routed, Route(dst="10.9.0.0/16", gw="10.8.0.1")))
    assert text == (
        "add route 10.9.0.0/16 via 10.8.0.1 on netdev v0: Network is unreachable (Nexthop has invalid gateway)"
    )


def test_a_route_out_of_an_interface_that_is_down(pod: Rtnl, routed: Link) -> None:
    pod.set_down(routed)
    refused(errno.ENETDOWN, lambda: pod.add_route(routed, Route(dst="10.9.0.0/16")))


def test_nothing_stays_open(sandbox: Sandbox) -> None:
    before = os.listdir("/proc/self/fd")
    sandbox.rtnl().close()
    assert os.listdir("/proc/self/fd") == before


class SlowKernel(NetlinkSocket):
    """The kernel executes a request inside send(), which may take longer than the timeout for an answer."""

    _seconds = 0.1

    def _send(self, *request: Any) -> None:
        time.sleep(0.3)
        super()._send(*request)


def test_a_request_that_takes_long_is_answered_all_the_same() -> None:
    slow = SlowKernel(NETLINK_ROUTE)
    assert len(slow.ask(m.linkmsg, m.RTM_GETLINK, attrs=[("IFLA_IFNAME", "lo")])) == 1
    slow.close()
