"""What `add` and `del` share: they make the configuration and the request that a runtime would send."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING

import click

from ib_sriov_cni.cli.output import NO_RDMA_NETLINK, Failure, Function
from ib_sriov_cni.core.errors import KernelRefused, StateFailure
from ib_sriov_cni.core.known_keys import KNOWN
from ib_sriov_cni.doctor.facts import DEFAULT_CNI_PATH
from ipam.protocol.request import parse_request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ib_sriov_cni.cli.output import Site
    from ipam.protocol.request import Request

NETWORK = "by-hand"
MARK = "IB_SRIOV_BY_HAND"  # in CNI_ARGS, and so in the record: `del` may delete what `add` made


def target_options(function: Function) -> Function:
    """Add the options --pid, --netns, --ifname and --network to a command."""
    options = (
        click.option(
            "--pid", type=click.IntRange(1), help="A process in the container, whose network namespace is used."
        ),
        click.option("--netns", metavar="NAME|PATH", help="A network namespace: its name in `ip netns`, or a path."),
        click.option("--ifname", default="net1", show_default=True, help="The interface's name in the namespace."),
        click.option(
            "--network", default=NETWORK, show_default=True, help="The network name to record the attachment under."
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def find_netns(site: Site, pid: int | None, netns: str | None, *, gone: bool = False) -> tuple[str, str]:
    """Return (path of the namespace, container ID to use for it). Failure if it does not exist, except with `gone`."""
    if pid is None and netns is None:
        raise click.UsageError("set either --pid or --netns")
    if pid is not None and netns is not None:
        raise click.UsageError("set --pid or --netns, not both")
    if pid is not None:
        path = f"/proc/{pid}/ns/net"
        if not gone and not os.path.exists(site.path(f"/proc/{pid}")):
            raise Failure(f"there is no process {pid}", "crictl inspect or podman inspect shows a container's pid")
        return path, f"pid-{pid}"
    name = str(netns)
    if "/" in name:
        return os.path.abspath(name), _container_id(os.path.basename(name.rstrip("/")))
    path = f"/run/netns/{name}"
    if not gone and not os.path.exists(path):
        raise Failure(f"there is no network namespace {name}", "`ip netns list` lists them")
    return path, _container_id(name)


def _container_id(name: str) -> str:
    """Return a valid container ID (C3) that contains the name."""
    allowed = [letter if (letter.isalnum() and letter.isascii()) or letter in "_.-" else "-" for letter in name]
    return f"netns-{''.join(allowed)}"


def make_request(command: str, conf: dict[str, object], *, netns: str, container_id: str, ifname: str) -> Request:
    """Return the request that a runtime would send, from the parser that reads a runtime's."""
    environ = {name: item for name, item in os.environ.items() if not name.startswith("CNI_")}
    environ |= {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container_id,
        "CNI_NETNS": netns,
        "CNI_IFNAME": ifname,
        "CNI_PATH": os.environ.get("CNI_PATH", DEFAULT_CNI_PATH),
        "CNI_ARGS": f"IgnoreUnknown=1;{MARK}=1",
    }
    return parse_request(environ, json.dumps(conf).encode(), known_args=frozenset(), names=KNOWN)


def read_base(path: str) -> dict[str, object]:
    """Return the only configuration of type ib-sriov in a file. Failure if there is none, or more than one."""
    from ib_sriov_cni.cli.config import read_text
    from ib_sriov_cni.cli.documents import read_configurations

    found = read_configurations(read_text(path), path)
    ours = [each for each in found if each.ours]
    if len(ours) != 1:
        faults = "; ".join([fault for each in found for fault in each.faults])
        message = f"{path} must contain one configuration of type ib-sriov (it contains {len(ours)})"
        raise Failure(message + (f": {faults}" if faults else ""), f"see `ib-sriov config validate {path}`")
    return ours[0].conf


@contextlib.contextmanager
def advise_root(*, root: bool) -> Iterator[None]:
    """Turn what the kernel refuses to a process that is not `root` into a Failure that says to run it as root."""
    try:
        yield
    except (KernelRefused, StateFailure) as fault:
        if root or NO_RDMA_NETLINK in fault.msg:
            raise
        raise Failure(fault.msg, "run as root", code=fault.code) from None


def warn_without_root() -> None:
    """Warn in advance; the kernel's own error would be less clear."""
    if os.geteuid() != 0:
        sys.stderr.write("not running as root: the kernel will probably refuse this\n")
