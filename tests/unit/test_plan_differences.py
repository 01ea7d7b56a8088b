"""ib_sriov_cni.core.plan: wanted and found, compared."""

from __future__ import annotations

from ib_sriov_cni.core.comparison import (
    address_differences,
    identity_differences,
    link_differences,
)
from ib_sriov_cni.core.values import Link
from ipam.protocol.result import Address, Result, Route
from ipam.protocol.value import replace
from tests.unit.test_plan import FACTS, HAS, PCI, WANTED, ZERO, netdev, rdma


def test_identity_differences() -> None:
    assert identity_differences(HAS, HAS, FACTS) == []
    assert identity_differences(WANTED, ZERO, FACTS) == [
        f"port GUID is {HAS}, not {WANTED}",
        f"node GUID is {HAS}, not {ZERO}",
    ]
    assert identity_differences(WANTED, WANTED, replace(FACTS, rdma=rdma(None, None), netdev=None)) == []


def test_link_differences() -> None:
    def differences(link: Link | None, mtu: int | None = 2044) -> list[str]:
        return [*link_differences(link, name="net1", guid=HAS, mtu=mtu, pci=PCI)]

    assert differences(netdev()) == []
    assert differences(netdev(pci=""), mtu=None) == []  # kernels before 5.14 do not report it
    assert differences(None) == ["interface net1 is gone"]
    wrong = replace(netdev(WANTED, flags=0, pci="0000:3b:00.7"), mtu=1500)
    assert differences(replace(netdev(), mtu=2044), mtu=4092) == []  # the broadcast group's
    assert differences(replace(netdev(), mtu=4092), mtu=2044) == ["interface net1 has mtu 4092, not 2044"]
    assert differences(wrong, mtu=4092) == [
        "interface net1 is down",
        f"interface net1 is not the VF's: its PCI device is 0000:3b:00.7, not {PCI}",
        f"interface net1 has port GUID {WANTED}, not {HAS}",
        "interface net1 has mtu 1500, not 4092",
    ]


RESULT = Result(
    ips=(
        Address(address="10.0.0.5/24", gateway="10.0.0.1", interface=1),
        Address(address="fd00::5/64", gateway="fd00::1", interface=1),
        Address(address="192.168.7.7/32", interface=0),
    ),
    routes=(Route(dst="10.9.0.1/16"), Route(dst="fd09::/16", gw="fd00::9"), Route(dst="10.8.0.0/16", gw="10.0.0.7")),
)


def test_address_differences() -> None:
    routes = [
        Route(dst="10.9.0.0/16", gw="10.0.0.1", table=254),
        Route(dst="fd09::/16", gw="fd00::9", priority=1024, table=254),
        Route(dst="10.8.0.0/16", gw="10.0.0.7", table=254),
        Route(dst="10.0.0.0/24", table=254),
    ]
    assert address_differences(RESULT, 1, ["fd00::5/64", "10.0.0.5/24", "fe80::1/64"], routes) == []
    assert address_differences(RESULT, 1, ["10.0.0.5/25"], [*routes[1:3], Route(dst="10.9.0.0/16", table=254)]) == [
        "address 10.0.0.5/24 is gone",
        "address fd00::5/64 is gone",
        "route 10.9.0.1/16 via 10.0.0.1 is gone",
    ]


def test_table_and_metric_of_a_route_count_if_they_were_given() -> None:
    def missing(wanted: Route, present: Route) -> list[str]:
        return [*address_differences(Result(routes=(wanted,)), 0, [], [present])]

    there = Route(dst="10.9.0.0/16", table=254, priority=7)
    gone = ["route 10.9.0.0/16 via link is gone"]
    assert missing(Route(dst="10.9.0.0/16"), there) == []
    assert missing(Route(dst="10.9.0.0/16", priority=7, table=254), there) == []
    assert missing(Route(dst="10.9.0.0/16", priority=8), there) == gone
    assert missing(Route(dst="10.9.0.0/16", table=100), there) == gone
