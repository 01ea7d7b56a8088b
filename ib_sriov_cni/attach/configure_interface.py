"""Configuring the interface in the pod: MTU, IPv6, up, addresses, routes."""

from __future__ import annotations

import errno

from ib_sriov_cni.core.errors import KernelRefused, VerificationFailed
from ib_sriov_cni.core.routes import effective_routes, normal_destination, plan_route
from ipam.protocol.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.configuration import NetConf
    from ib_sriov_cni.core.values import Link, PodRoute
    from ib_sriov_cni.kernel.netns import Netns
    from ib_sriov_cni.kernel.rtnetlink import Rtnl
    from ipam.protocol.result import Result, Route


def configure(host: Host, pod: Rtnl, netns: Netns, name: str, *, conf: NetConf, result: Result) -> Result:
    """Configure interface `name` in the pod as `conf` and the IPAM plugin's `result` say. `pod` is a socket there.

    Returns the result with the metrics that its routes have got because the pod has other routes to their destinations.
    Raises VerificationFailed (103) if there is no such interface, KernelRefused (102).
    """
    link = pod.read_link(name)
    if link is None:
        raise VerificationFailed(f"interface {name} is not in {netns.path} after its move")
    with host.log.step("configure", ifname=name, mtu=conf.mtu):
        set_ipv6(host, netns, name, conf=conf, result=result)
        if conf.mtu:
            pod.set_mtu(link, conf.mtu)
        pod.set_up(link)
    with host.log.step("add_addresses", ifname=name) as step:
        for ip in result.ips:
            pod.add_address(link, ip.address)
        routes = add_routes(pod, link, effective_routes(result))
        made = [replace(given, priority=route.priority) for given, route in zip(result.routes, routes, strict=True)]
        behind = [f"{route.dst} metric {route.priority}" for route in made if route not in result.routes]
        step.note(behind_other_routes=", ".join(behind))
    return replace(result, routes=tuple(made))


def add_routes(pod: Rtnl, link: Link, routes: list[Route]) -> list[Route]:
    """Add routes through the link, as `plan_route` decides. Returns them with the metrics that they have got.

    Raises KernelRefused (102).
    """
    if not routes:
        return []
    destinations = {normal_destination(route.dst) for route in routes}
    present = pod.read_routes_to(destinations)
    made = []
    for route in routes:
        try:
            made.append(_add_route(pod, link, route, present))
        except KernelRefused as refusal:
            if refusal.errno != errno.EEXIST:
                raise
            # One of ours has the same destination, or another ADD of this pod was faster.
            present = pod.read_routes_to(destinations)
            made.append(_add_route(pod, link, route, present))
    return made


def _add_route(pod: Rtnl, link: Link, route: Route, present: list[PodRoute]) -> Route:
    """Add one route, unless it is there. `present`: what the pod has for its destination."""
    kinds = {}
    if {path.index for path in present} - {link.index}:
        kinds = {other.index: other.kind for other in pod.read_links()}
    plan = plan_route(route, link.index, present, kinds)
    if plan is None:
        return route
    try:
        pod.add_route(link, plan.route, further_path=plan.further_path)
    except KernelRefused as refusal:
        refusal.details = "is the gateway inside the subnet? does the pod have a route that blocks this one?"
        raise
    return plan.route


def set_ipv6(host: Host, netns: Netns, name: str, *, conf: NetConf, result: Result) -> None:
    """Turn IPv6 on if there is an address for it. Take router advertisements only if asked.

    They come from whoever sends them on the fabric, and would give the pod addresses and routes nobody planned.
    """
    if not conf.accept_ra:
        host.set_ipv6(netns, name, accept_ra="0")
    if any(":" in ip.address for ip in result.ips):
        enable_ipv6(host, netns, name)


def enable_ipv6(host: Host, netns: Netns, name: str) -> None:
    """Make IPv6 addresses of interface `name` possible and lasting.

    Some runtimes turn IPv6 off. The loopback interface needs it too: what the pod sends to its own addresses goes
    through it. Without keep_addr_on_down the addresses are lost when somebody takes the interface down.
    """
    host.set_ipv6(netns, name, disable_ipv6="0", keep_addr_on_down="1")
    host.set_ipv6(netns, "lo", disable_ipv6="0")
