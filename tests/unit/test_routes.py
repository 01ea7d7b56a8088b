"""ib_sriov_cni.core.routes: which routes an attachment gets, and how they get in beside others."""

from __future__ import annotations

import pytest

from ib_sriov_cni.core.routes import (
    MAX_METRIC,
    common_routes,
    effective_routes,
    is_default_route,
    normal_destination,
    plan_route,
)
from ib_sriov_cni.core.values import MAIN_TABLE, OWN_PROTOCOL, PodRoute
from ipam.protocol.result import Address, Result, Route
from ipam.protocol.value import replace
from tests.unit.test_plan_differences import RESULT

BOOT, KERNEL = 3, 2  # RTPROT_*: of Go's CNI plugins, and of the kernel itself
ETHER, INFINIBAND = 1, 32  # ARPHRD_*
LO, ETH0, NET1, NET2 = 1, 2, 3, 4
KINDS = {ETH0: ETHER, NET1: INFINIBAND, NET2: INFINIBAND}


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


def test_the_gateway_of_an_address_serves_its_own_family() -> None:
    """Whereabouts gives its one gateway to the addresses of both families."""
    result = Result(
        ips=(Address(address="fd00::5/64", gateway="10.0.0.1"), Address(address="10.0.0.5/24", gateway="10.0.0.1")),
        routes=(Route(dst="0.0.0.0/0"), Route(dst="::/0")),
    )
    assert [route.gw for route in effective_routes(result)] == ["10.0.0.1", None]


def test_a_route_of_link_scope_has_no_gateway_but_its_own() -> None:
    """The kernel refuses a gateway with the scope of the link (253) or the host (254)."""
    ips = (Address(address="10.0.0.5/24", gateway="10.0.0.1"),)
    routes = tuple([Route(dst="10.9.0.0/16", scope=scope) for scope in (None, 0, 200, 253, 254)])
    assert [route.gw for route in effective_routes(Result(ips=ips, routes=routes))] == ["10.0.0.1"] * 3 + [None] * 2


def test_default_routes() -> None:
    assert [is_default_route(Route(dst=dst)) for dst in ("0.0.0.0/0", "::/0", "0.0.0.0/1", "10.0.0.0/8")] == [
        *(True, True),
        *(False, False),
    ]


def test_common_routes() -> None:
    """Multus has taken one default route away and replaced the other."""
    made = [Route(dst="0.0.0.0/0"), Route(dst="::/0", gw="fd00::1"), Route(dst="10.9.1.1/16", gw="10.0.0.7")]
    cached = [Route(dst="::/0", gw="fd00::2"), Route(dst="10.9.0.0/16", gw="10.0.0.7", priority=5)]
    assert common_routes(made, cached) == made[2:]


# ---- plans


def path(
    dst: str, index: int, *, gw: str | None = None, metric: int | None = None, table: int = MAIN_TABLE, by: int = BOOT
) -> PodRoute:
    return PodRoute(route=Route(dst=dst, gw=gw, priority=metric, table=table), index=index, protocol=by)


DEFAULT = Route(dst="0.0.0.0/0", gw="10.56.0.1")
DEFAULT6 = Route(dst="::/0", gw="fd56::1")


def planned(wanted: Route, *present: PodRoute, index: int = NET1) -> tuple[int | None, bool] | None:
    """The metric, and whether it becomes a further path; None if there is nothing to do."""
    plan = plan_route(wanted, index, present, KINDS)
    if plan is None:
        return None
    assert plan.route == replace(wanted, priority=plan.route.priority)
    return plan.route.priority, plan.further_path


def test_a_route_that_nobody_has() -> None:
    assert planned(DEFAULT) == (None, False)
    assert planned(DEFAULT6) == (None, False)
    assert planned(replace(DEFAULT, priority=9)) == (9, False)
    assert planned(DEFAULT, path("10.0.0.0/8", ETH0)) == (None, False)
    assert planned(replace(DEFAULT, table=100), path("0.0.0.0/0", ETH0)) == (None, False)


@pytest.mark.parametrize(
    ("metrics", "wanted"), [((None,), 1), ((100,), 101), ((None, 100, 50), 101), ((MAX_METRIC - 1,), MAX_METRIC)]
)
def test_behind_the_default_route_of_another_interface(metrics: tuple[int | None, ...], wanted: int) -> None:
    present = [path("0.0.0.0/0", ETH0, gw="10.244.0.1", metric=metric) for metric in metrics]
    assert planned(DEFAULT, *present) == (wanted, False)


@pytest.mark.parametrize(("metric", "wanted"), [(1024, 1025), (2000, 2001), (256, None)])
def test_behind_an_ipv6_default_route(metric: int, wanted: int | None) -> None:
    """1024 is the kernel's default; what comes before it is before ours anyway."""
    assert planned(DEFAULT6, path("::/0", ETH0, gw="fe80::1", metric=metric)) == (wanted, False)


@pytest.mark.parametrize(("given", "wanted"), [(1, 1), (100, 101), (200, 200)])
def test_a_metric_that_was_given_is_kept_unless_it_is_taken(given: int, wanted: int) -> None:
    assert planned(replace(DEFAULT, priority=given), path("0.0.0.0/0", ETH0, metric=100)) == (wanted, False)


def test_the_rails_of_a_network_are_paths_of_one_route() -> None:
    rail = path("0.0.0.0/0", NET1, gw="10.56.0.1", by=OWN_PROTOCOL)
    assert planned(DEFAULT, rail, index=NET2) == (None, True)
    eth0, behind = path("0.0.0.0/0", ETH0), replace(rail, route=replace(rail.route, priority=1))
    assert planned(DEFAULT, eth0, behind, index=NET2) == (1, True)


def test_an_infiniband_interface_of_another_plugin_is_no_rail() -> None:
    """A cluster's own network may be IPoIB."""
    assert planned(DEFAULT, path("0.0.0.0/0", NET2)) == (1, False)
    assert planned(DEFAULT6, path("::/0", NET2, metric=1024)) == (1025, False)
    assert planned(Route(dst="10.56.0.0/24"), path("10.56.0.0/24", NET2, by=KERNEL)) == (1, False)


def test_a_route_that_is_there_already() -> None:
    assert planned(DEFAULT, path("0.0.0.0/0", NET1, gw=DEFAULT.gw)) is None
    assert planned(DEFAULT, path("0.0.0.0/0", ETH0), path("0.0.0.0/0", NET1, gw=DEFAULT.gw, metric=1)) is None
    assert planned(replace(DEFAULT, priority=7), path("0.0.0.0/0", NET1, gw=DEFAULT.gw)) == (7, False)
    assert planned(DEFAULT, path("0.0.0.0/0", NET1, gw="10.56.0.2")) == (None, True)
    assert planned(Route(dst="fd56::5/64"), path("fd56::/64", NET1, metric=256, by=KERNEL)) is None
