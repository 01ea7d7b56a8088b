"""Routes: which ones an attachment gets, and with which metric beside those that the pod has already. No I/O."""

from __future__ import annotations

from ib_sriov_cni.core.values import MAIN_TABLE, OWN_PROTOCOL
from ipam.protocol.address import parse_cidr, render_cidr
from ipam.protocol.value import Value, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ib_sriov_cni.core.values import PodRoute
    from ipam.protocol.result import Result, Route

LINK_SCOPE = 253  # RT_SCOPE_LINK; this one and greater ones have no gateway
DEFAULT_METRICS = {False: 0, True: 1024}  # of IPv4; of IPv6 (IP6_RT_PRIO_USER in include/net/ip6_fib.h)
MAX_METRIC = 0xFFFFFFFF


class RoutePlan(Value):
    """How a route gets in. `further_path`: beside one with the same destination and metric, of another of our links."""

    route: Route
    further_path: bool


def normal_destination(cidr: str) -> str:
    """Return a destination with its host bits cleared, as the kernel shows it."""
    (bits, number), prefix = parse_cidr(cidr)
    host = (1 << (bits - prefix)) - 1
    return render_cidr((bits, number & ~host), prefix)


def is_default_route(route: Route) -> bool:
    """Return whether it is a default route, of IPv4 or IPv6."""
    return route.dst.endswith("/0")


def common_routes(routes: Sequence[Route], others: Sequence[Route]) -> list[Route]:
    """Return those of `routes` that are among the others too, with the same destination and gateway."""
    known = {(normal_destination(route.dst), route.gw) for route in others}
    return [route for route in routes if (normal_destination(route.dst), route.gw) in known]


def effective_routes(result: Result) -> list[Route]:
    """Return the result's routes with their gateways: a route's own, else the first one of its family among the `ips`.

    A route whose scope is the link has none but its own.
    """
    gateways: dict[bool, str] = {}
    for ip in result.ips:
        if ip.gateway:
            gateways.setdefault(":" in ip.gateway, ip.gateway)
    return [
        route if route.gw or (route.scope or 0) >= LINK_SCOPE else replace(route, gw=gateways.get(":" in route.dst))
        for route in result.routes
    ]


def plan_route(wanted: Route, index: int, present: Sequence[PodRoute], kinds: Mapping[int, int]) -> RoutePlan | None:
    """Return how a route through link `index` gets in; None if it is there already.

    `present`: what the pod has for this destination, at least. `kinds`: the ARPHRD_* of each link that has one of them.

    The pod's traffic stays where it is: if another interface has a route to this destination, such as the default route
    of eth0, ours gets a greater metric, unless it has been given a metric that differs from theirs. Our routes through
    several interfaces of one kind (the rails of a network) are paths of one route, like those of Go's RouteAddEcmp.
    """
    dst, table = normal_destination(wanted.dst), wanted.table or MAIN_TABLE
    default = DEFAULT_METRICS[":" in dst]
    same = [(path.route.priority or 0, path) for path in present if (path.route.dst, path.route.table) == (dst, table)]
    for metric, path in same:
        if path.index == index and path.route.gw == wanted.gw and wanted.priority in (None, metric):
            return None
    others = {
        metric
        for metric, path in same
        if path.index != index and (path.protocol != OWN_PROTOCOL or kinds.get(path.index) != kinds.get(index))
    }
    metric = wanted.priority or default
    if wanted.priority is None and others:
        metric = max(metric, max(others) + 1)
    while metric in others:
        metric += 1
    metric = min(metric, MAX_METRIC)
    return RoutePlan(
        route=wanted if metric == (wanted.priority or default) else replace(wanted, priority=metric),
        further_path=metric in [taken for taken, _ in same],
    )
