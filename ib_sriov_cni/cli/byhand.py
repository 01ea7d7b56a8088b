"""What `add` and `del` share: a network configuration and a Request from options, in place of a runtime's."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ib_sriov_cni.cli.output import Failure
from ib_sriov_cni.core.errors import TryAgainLater
from ipam.protocol.request import parse_request

if TYPE_CHECKING:
    from ib_sriov_cni.cli.output import Site
    from ipam.protocol.request import Request

NETWORK = "by-hand"
MARK = "IB_SRIOV_BY_HAND"  # in CNI_ARGS, and so in the record: what was added by hand may be deleted by hand
VERSION = "1.1.0"
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def target_options(function: Decorated) -> Decorated:
    """Declare --pid, --netns, --ifname and --network."""
    options = (
        click.option("--pid", type=click.IntRange(1), help="A process in the container, for its network namespace."),
        click.option("--netns", metavar="NAME|PATH", help="A network namespace: a name of `ip netns`, or a path."),
        click.option("--ifname", default="net1", show_default=True, help="The interface's name in the namespace."),
        click.option("--network", default=NETWORK, show_default=True, help="The name of the network it is kept under."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def find_netns(site: Site, pid: int | None, netns: str | None, *, gone: bool = False) -> tuple[str, str]:
    """Give (path of the namespace, containerID to use for it). Failure if there is none, unless it may be `gone`."""
    if (pid is None) == (netns is None):
        raise click.UsageError("give one of --pid and --netns")
    if pid is not None:
        path = f"/proc/{pid}/ns/net"
        if not gone and not os.path.exists(site.path(f"/proc/{pid}")):
            raise Failure(f"process {pid}: there is none", "crictl inspect, or podman inspect, tells a container's pid")
        return path, f"pid-{pid}"
    name = str(netns)
    if "/" in name:
        return name, _container_id(os.path.basename(name.rstrip("/")))
    path = f"/run/netns/{name}"
    if not gone and not os.path.exists(path):
        raise Failure(f"network namespace {name}: there is none of that name", "`ip netns list` lists them")
    return path, _container_id(name)


def _container_id(name: str) -> str:
    """Make a containerID (C3) of a name."""
    allowed = [letter if (letter.isalnum() and letter.isascii()) or letter in "_.-" else "-" for letter in name]
    return f"netns-{''.join(allowed)}"


def make_request(command: str, conf: dict[str, object], *, netns: str, container_id: str, ifname: str) -> Request:
    """Make the Request that a runtime would have caused, through the parser that reads a runtime's."""
    environ = {name: item for name, item in os.environ.items() if not name.startswith("CNI_")}
    environ |= {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container_id,
        "CNI_NETNS": netns,
        "CNI_IFNAME": ifname,
        "CNI_PATH": os.environ.get("CNI_PATH", "/opt/cni/bin"),
        "CNI_ARGS": f"IgnoreUnknown=1;{MARK}=1",
    }
    return parse_request(environ, json.dumps(conf).encode(), known_args=frozenset())


def read_base(path: str) -> dict[str, object]:
    """Read the one configuration of type ib-sriov in a file."""
    from ib_sriov_cni.cli.config import read_text
    from ib_sriov_cni.cli.documents import read_configurations

    found = read_configurations(read_text(path), path)
    ours = [each for each in found if each.ours]
    if len(ours) != 1:
        faults = "; ".join([fault for each in found for fault in each.faults])
        words = f"{path}: {len(ours)} configurations of type ib-sriov in it, one is wanted"
        raise Failure(words + (f" ({faults})" if faults else ""), f"`ib-sriov config validate {path}` tells more")
    return ours[0].conf


def undo_when_terminated() -> None:
    """Make SIGTERM undo what is half done, as ^C does; without it the next DEL or gc would have to."""

    def interrupt(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise TryAgainLater("interrupted by SIGTERM and undone")

    signal.signal(signal.SIGTERM, interrupt)


def warn_without_root() -> None:
    """Say beforehand what the kernel's refusal would say less clearly."""
    if os.geteuid() != 0:
        sys.stderr.write("not root: the kernel will hardly allow it\n")
