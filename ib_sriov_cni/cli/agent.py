"""`ib-sriov agent`: the node agent (docs/agent.md)."""

from __future__ import annotations

import os
from typing import Any

import click

from ib_sriov_cni.cli.output import Failure, Site, describe_os_error, pass_site, state_dir_option
from ib_sriov_cni.doctor.facts import DEFAULT_CNI_PATH, LOCK_FOLDER
from ib_sriov_cni.telemetry.log import LEVELS
from ipam.protocol.address import parse_cidr

EXAMPLES = """\
Examples:

\b
  ib-sriov agent
  ib-sriov agent --grace 300 --log-file /var/log/ib-sriov.log
  ib-sriov agent --no-repair --listen :9743
"""


@click.command(epilog=EXAMPLES)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default="127.0.0.1:9743",
    show_default=True,
    help="Where to serve /metrics, /healthz and /readyz; :PORT listens on all addresses.",
)
@click.option(
    "--grace",
    type=click.FloatRange(0, 86400),
    metavar="SECONDS",
    default=60.0,
    show_default=True,
    help="How long this agent must have seen an attachment dead before it releases it.",
)
@click.option(
    "--interval",
    type=click.FloatRange(1, 3600),
    metavar="SECONDS",
    default=15.0,
    show_default=True,
    help="The longest time between two passes over the node; a change of a netdev starts one earlier.",
)
@click.option("--log-file", metavar="PATH", default="", help="The plugin's logFile, to count ADD and DEL from.")
@click.option(
    "--cri-socket",
    metavar="PATH",
    default="",
    help="Also ask this container runtime (CRI) which pods exist; by default no runtime is asked.",
)
@click.option(
    "--cluster-cidr",
    metavar="CIDR",
    default="",
    help=f"The cluster's pod CIDR: write this node's number in it to {LOCK_FOLDER}/node-index, for slices.",
)
@click.option("--repair/--no-repair", default=True, show_default=True, help="Repair live attachments, or only report.")
@click.option("--events/--no-events", default=True, show_default=True, help="Create Kubernetes events if run as a pod.")
@click.option(
    "--log-level",
    type=click.Choice(list(LEVELS)),
    default="info",
    show_default=True,
    help="What the agent logs to standard error.",
)
@click.option(
    "--cni-path",
    metavar="FOLDERS",
    default="",
    help=f"Where IPAM plugins are, to release addresses.  [default: CNI_PATH, or {DEFAULT_CNI_PATH}]",
)
@state_dir_option
@pass_site
def command(site: Site, /, **given: Any) -> None:
    """Run the node agent, which releases dead attachments and repairs live ones.

    It releases the VFs and addresses of pods that ended without a DEL, restores link states, addresses and routes of
    live pods, and reports everything else to Prometheus. It runs as root until SIGTERM, once per node: from the systemd
    unit in packaging/systemd or as a DaemonSet.
    """
    from ib_sriov_cni.agent.daemon import AgentSettings, Daemon
    from ib_sriov_cni.telemetry.log import Log

    os.environ["CNI_PATH"] = given["cni_path"] or os.environ.get("CNI_PATH") or DEFAULT_CNI_PATH
    log = Log(level=given["log_level"], context={"cmd": "agent"})
    host = site.open_host_with(log, state_dir=given["state_dir"])
    if given["cluster_cidr"]:
        try:
            parse_cidr(given["cluster_cidr"])
        except ValueError as fault:
            raise click.BadParameter(str(fault), param_hint="--cluster-cidr") from None
    settings = AgentSettings(
        listen=given["listen"],
        grace=given["grace"],
        interval=given["interval"],
        mend=given["repair"],
        events=given["events"],
        log_file=given["log_file"],
        cri_socket=given["cri_socket"].removeprefix("unix://"),
        cluster_cidr=given["cluster_cidr"],
        run_dir=site.path(LOCK_FOLDER),
    )
    with host:
        try:
            daemon = Daemon(host, settings, site.environ)
        except ValueError as fault:
            raise click.BadParameter(str(fault), param_hint="--listen") from None
        except OSError as fault:
            raise Failure(f"listen on {settings.listen}: {describe_os_error(fault)}", "use another --listen") from None
        daemon.run()
