"""ib_sriov_cni.core.plan: wanted and found, compared."""

from __future__ import annotations

import pytest

from ib_sriov_cni.core.comparison import (
    address_differences,
    effective_routes,
    identity_differences,
    link_differences,
    normal_destination,
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
    wrong = netdev(WANTED, flags=0, pci="0000:3b:00.7")
    assert differences(wrong, mtu=4092) == [
        "interface net1 is down",
        f"interface net1 is not the VF's: its PCI device is 0000:3b:00.7, not {PCI}",
        f"interface net1 has port GUID {WANTED}, not {HAS}",
        "interface net1 has mtu 2044, not 4092",
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
        Route(dst="10.9.0.0/16", gw="10.0.0.1"),
        Route(dst="fd09::/16", gw="fd00::9", priority=1024),
        Route(dst="10.8.0.0/16", gw="10.0.0.7", table=100),
        Route(dst="10.0.0.0/24"),
    ]
    assert address_differences(RESULT, 1, ["fd00::5/64", "10.0.0.5/24", "fe80::1/64"], routes) == []
    assert address_differences(RESULT, 1, ["10.0.0.5/25"], [*routes[1:3], Route(dst="10.9.0.0/16")]) == [
        "address 10.0.0.5/24 is gone",
        "address fd00::5/64 is gone",
        "route 10.9.0.1/16 via 10.0.0.1 is gone",
    ]


def test_a_route_without_gateway_takes_its_familys_first() -> None:
    assert [route.gw for route in effective_routes(RESULT)] == ["10.0.0.1", "fd00::9", "10.0.0.7"]
    bare = Result(ips=(Address(address="10.0.0.5/24"),), routes=(Route(dst="10.9.0.0/16"), Route(dst="::/0")))
    assert [route.gw for route in effective_routes(bare)] == [None, None]
    second = Result(
        ips=(Address(address="10.0.0.5/24"), Address(address="10.0.1.5/24", gateway="10.0.1.1")),
        routes=(Route(dst="0.0.0.0/0"),),
    )
    assert [route.gw for route in effective_routes(second)] == ["10.0.1.1"]
    both = replace(second, ips=(Address(address="10.0.0.5/24", gateway="10.0.0.1"), *second.ips))
    assert [route.gw for route in effective_routes(both)] == ["10.0.0.1"]


@pytest.mark.parametrize(
    ("cidr", "normal"),
    [
        ("10.9.8.7/16", "10.9.0.0/16"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("10.0.0.1/32", "10.0.0.1/32"),
        ("fd00::1/64", "fd00::/64"),
        ("::/0", "::/0"),
    ],
)
def test_destinations_as_the_kernel_shows_them(cidr: str, normal: str) -> None:
    assert normal_destination(cidr) == normal
