"""Configuring the interface in the pod: MTU, IPv6, up, addresses, routes."""

from __future__ import annotations

from ib_sriov_cni.core.comparison import effective_routes
from ib_sriov_cni.core.errors import KernelRefused, VerificationFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.configuration import NetConf
    from ib_sriov_cni.core.values import Link
    from ib_sriov_cni.kernel.netns import Netns
    from ib_sriov_cni.kernel.rtnetlink import Rtnl
    from ipam.protocol.result import Result, Route


def configure(host: Host, pod: Rtnl, netns: Netns, name: str, *, conf: NetConf, result: Result) -> None:
    """Configure interface `name` in the pod as `conf` and the IPAM plugin's `result` say. `pod` is a socket there.

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
    with host.log.step("add_addresses", ifname=name):
        for ip in result.ips:
            pod.add_address(link, ip.address)
        for route in effective_routes(result):
            _add_route(pod, link, route)


def set_ipv6(host: Host, netns: Netns, name: str, *, conf: NetConf, result: Result) -> None:
    """Turn IPv6 on if there is an address for it: some runtimes turn it off. Take router advertisements if asked.

    They come from whoever sends them on the fabric, and would give the pod addresses and routes nobody planned.
    """
    settings = {} if conf.accept_ra else {"accept_ra": "0"}
    if any(":" in ip.address for ip in result.ips):
        settings["disable_ipv6"] = "0"
    if settings:
        host.set_ipv6(netns, name, **settings)


def _add_route(pod: Rtnl, link: Link, route: Route) -> None:
    try:
        pod.add_route(link, route)
    except KernelRefused as refusal:
        refusal.details = "is the gateway inside the subnet? does another interface have this route already?"
        raise
