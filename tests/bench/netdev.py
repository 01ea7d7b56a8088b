"""host-device made of the plugin's own modules, for the benchmark: a named netdev into the pod and back, nothing else.

    python -I -S netdev.py FOLDER...     as a CNI plugin; the folders hold ib_sriov_cni, ipam and pyroute2

It has no lock, no record and no verification: what is left is start-up, the messages to the kernel, and host-local.
"""

from __future__ import annotations

import sys

sys.path[:0] = sys.argv[1:]

from ib_sriov_cni.attach.configure_interface import add_routes  # noqa: E402  # found by the line above
from ib_sriov_cni.attach.host import Host  # noqa: E402  # likewise
from ib_sriov_cni.core.routes import effective_routes  # noqa: E402  # likewise
from ib_sriov_cni.kernel.netns import open_netns, open_own  # noqa: E402  # likewise
from ib_sriov_cni.telemetry.log import Log  # noqa: E402  # likewise
from ipam.protocol.edge import serve  # noqa: E402  # likewise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipam.protocol.request import Request
    from ipam.protocol.result import Result


def add(request: Request) -> Result:
    from ipam.host_local.plugin import add as reserve
    from ipam.protocol.result import Interface
    from ipam.protocol.value import replace

    host = Host(log=Log(path="/dev/null"))
    name = str(request.conf["device"])
    with open_netns(request.netns) as netns:
        pod = host.open_rtnl(netns)
        result = reserve(request)
        link = host.rtnl.read_link(name)
        if link is None:
            raise OSError(f"there is no {name}")
        host.rtnl.move_link(link, netns.fd, request.ifname)
        link = pod.read_link(request.ifname)
        if link is None:
            raise OSError(f"{name} has not come")
        pod.set_up(link)
        for ip in result.ips:
            pod.add_address(link, ip.address)
        add_routes(pod, link, effective_routes(result))
        return replace(result, interfaces=(Interface(name=link.name, mac=link.mac, sandbox=netns.path),))


def delete(request: Request) -> None:
    from ipam.host_local.plugin import delete as release

    host = Host(log=Log(path="/dev/null"))
    with open_netns(request.netns) as netns, open_own() as home:
        pod = host.open_rtnl(netns)
        link = pod.read_link(request.ifname)
        if link is not None:
            pod.move_link(link, home.fd, str(request.conf["device"]))
    release(request)


def main() -> int:
    import os

    return serve(
        {"ADD": add, "DEL": delete},
        known_args=frozenset(),
        environ=os.environ,
        stdin=sys.stdin.buffer,
        stdout=sys.stdout.buffer,
    )


def run() -> None:
    """Be the program, as the packed one calls it (packaging/program/_ib_sriov_start.py)."""
    import os

    status = main()
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    run()
