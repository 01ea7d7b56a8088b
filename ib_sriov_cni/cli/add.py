"""`ib-sriov add`: attach a VF to a namespace by hand, to try it out. Runs the same code as ADD."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from ib_sriov_cni.attach.add import add
from ib_sriov_cni.cli.byhand import (
    advise_root,
    find_netns,
    make_request,
    read_base,
    target_options,
    warn_without_root,
)
from ib_sriov_cni.cli.output import (
    Failure,
    Site,
    output_option,
    pass_site,
    print_json,
    print_note,
    print_table,
    state_dir_option,
    verbose_option,
)
from ib_sriov_cni.core.configuration import parse_netconf
from ib_sriov_cni.core.errors import CniError
from ib_sriov_cni.core.values import LINK_STATES
from ib_sriov_cni.delegation.ipam_plugin import BUNDLED
from ib_sriov_cni.kernel.syscalls import raise_on_sigterm
from ib_sriov_cni.state.node_defaults import apply_defaults, read_node_defaults
from ipam.host_local.config import parse_settings
from ipam.protocol.result import render_result
from ipam.protocol.versions import NEWEST

if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.configuration import NetConf
    from ipam.protocol.request import Request
    from ipam.protocol.result import Result

EXAMPLES = """\
To free the VF again, run `ib-sriov del` with the same --pid or --netns, or end the namespace and run `ib-sriov gc`.

Examples:

\b
  ip netns add try && ib-sriov add --device 0000:3b:00.2 --netns try
  ib-sriov add --device 0000:3b:00.2 --pid 1234 --ipam-subnet 172.16.0.0/24
  ib-sriov add --device 0000:3b:00.2 --netns try --ipam-subnet 172.16.0.0/24 --address 172.16.0.7 --isolate
  ib-sriov add --device 0000:3b:00.2 --pid 1234 --config fabric.yaml
  ib-sriov add --device 0000:3b:00.2 --netns try --guid 02:11:22:33:44:55:66:77 --dry-run
"""


@click.command(epilog=EXAMPLES)
@click.option("--device", metavar="PCI", help="The VF's PCI address; `ib-sriov list --state free` lists free ones.")
@target_options
@click.option(
    "--config", "config_file", metavar="FILE", help="Start from the configuration in this file, JSON or YAML."
)
@click.option("--ipam-subnet", metavar="CIDR", help="Take an address from this subnet, with the bundled host-local.")
@click.option("--gateway", metavar="ADDRESS", help="The subnet's gateway.  [default: its first address]")
@click.option("--address", metavar="ADDRESS", help="Take this address of the subnet.")
@click.option("--route", "routes", metavar="CIDR[,GATEWAY]", multiple=True, help="Add a route; repeatable.")
@click.option("--guid", metavar="GUID", help="The VF's GUID.  [default: the one it has, or a derived one]")
@click.option("--isolate", is_flag=True, help="Also move the RDMA device (needs the RDMA namespace mode exclusive).")
@click.option("--link-state", type=click.Choice(list(LINK_STATES)), help="Set the VF's link state on the PF.")
@click.option("--pkey", metavar="P_KEY", help="The partition, such as 0x8001.")
@click.option("--mtu", type=int, metavar="BYTES", help="The interface's MTU.")
@click.option("--port-timeout", type=float, metavar="SECONDS", help="How long to wait for the port to be ACTIVE.")
@click.option("--dry-run", is_flag=True, help="Print the configuration that would be used, and change nothing.")
@output_option
@verbose_option
@state_dir_option
@pass_site
def command(
    site: Site, /, *, pid: int | None, netns: str | None, output: str, verbose: bool, **options: object
) -> None:
    """Attach a VF to a network namespace or a running container.

    Does everything that a runtime's ADD does: the result is verified in the namespace, and if anything fails, the
    previous state is restored. Kubernetes does not know about the attachment.
    """
    if pid is None and netns is None and not options["device"] and not options["config_file"]:
        raise click.UsageError("set --device, and either --pid or --netns")
    path, container_id = find_netns(site, pid, netns)
    conf = make_configuration(options)
    request = make_request("ADD", conf, netns=path, container_id=container_id, ifname=str(options["ifname"]))
    request = apply_defaults(request, read_node_defaults())
    parsed = _parse(request)
    if options["dry_run"]:
        print_json(conf)
        return
    warn_without_root()
    raise_on_sigterm()  # otherwise what is half done would be left to the next DEL or gc; ^C undoes it too
    with site.open_host(state_dir=parsed.state_dir, verbose=verbose, log_file=parsed.log_file) as host:
        if not parsed.rdma_isolation and _is_exclusive(host):
            print_note(
                "RDMA namespace mode exclusive: no program in the namespace can open the RDMA device; add --isolate"
            )
        with advise_root(root=os.geteuid() == 0):
            result = add(host, request, parsed)
    if output == "json":
        print_json(render_result(result, request.version))
    else:
        _print_result(result, container_id, str(parsed.device))


def _parse(request: Request) -> NetConf:
    """Return the parsed configuration; Failure, with advice about --device, if it or its host-local part is wrong."""
    try:
        parsed = parse_netconf(request)
    except CniError as fault:
        if "deviceID must be" not in fault.msg:
            raise
        hint = "pass --device with a VF's PCI address; `ib-sriov list --state free` shows free VFs"
        raise Failure(fault.msg, hint, code=fault.code) from None
    if parsed.ipam_type == BUNDLED:
        parse_settings(request)
    return parsed


def _is_exclusive(host: Host) -> bool:
    try:
        return host.rdma.read_mode() == "exclusive"
    except CniError:
        return False  # there is no RDMA at all; the ADD reports that


def make_configuration(options: dict[str, object]) -> dict[str, object]:
    """Return the network configuration: that of --config, changed as the other options say."""
    base = read_base(str(options["config_file"])) if options["config_file"] else {"cniVersion": NEWEST}
    conf: dict[str, object] = {**base, "type": "ib-sriov"}
    if not options["config_file"] or not conf.get("name"):
        conf["name"] = options["network"]
    simple = {
        "deviceID": options["device"],
        "guid": options["guid"],
        "link_state": options["link_state"],
        "pkey": options["pkey"],
        "mtu": options["mtu"],
        "portTimeout": options["port_timeout"],
        "stateDir": options["state_dir"] or None,
        "rdmaIsolation": True if options["isolate"] else None,
    }
    conf |= {key: item for key, item in simple.items() if item is not None}
    routes = [_route(str(text)) for text in options["routes"]] if isinstance(options["routes"], tuple) else []
    if options["ipam_subnet"]:
        one = {"subnet": options["ipam_subnet"], **({"gateway": options["gateway"]} if options["gateway"] else {})}
        conf["ipam"] = {"type": "host-local", "ranges": [[one]]}
    ipam = conf.get("ipam")
    if (routes or options["address"]) and not isinstance(ipam, dict):
        raise click.UsageError("--address and --route need --ipam-subnet, or ipam in --config")
    if routes and isinstance(ipam, dict):
        conf["ipam"] = {**ipam, "routes": routes}
    if options["address"]:
        conf["runtimeConfig"] = {"ips": [options["address"]]}
    return conf


def _route(text: str) -> dict[str, object]:
    destination, _, gateway = text.partition(",")
    return {"dst": destination, **({"gw": gateway} if gateway else {})}


def _print_result(result: Result, container_id: str, device: str) -> None:
    ours = next((each for each in result.interfaces if each.pci_id == device), None)
    if ours is None:
        raise Failure(f"VF {device} is attached, but the result names no interface")
    if not ours.mac:
        print_note(f"VF {device} is bound to a pass-through driver: the namespace has no interface of that name")
    addresses = [ip.address for ip in result.ips]
    routes = [f"{route.dst} via {route.gw}" if route.gw else route.dst for route in result.routes]
    rows = [
        ("interface", ours.name),
        ("namespace", ours.sandbox),
        ("VF", device),
        ("hardware address", ours.mac),
        ("GUID", ours.mac[-23:]),
        ("mtu", str(ours.mtu or "")),
        ("addresses", ", ".join(addresses)),
        ("routes", ", ".join(routes)),
        ("container ID", container_id),
    ]
    print_table(("ATTACHED", ""), rows)
