"""`ib-sriov agent`: the node agent (docs/agent.md)."""

from __future__ import annotations

import os
from typing import Any

import click

from ib_sriov_cni.cli.output import Failure, Site, error_of, pass_site, state_dir_option
from ib_sriov_cni.telemetry.log import LEVELS

EXAMPLES = """\
Examples:

\b
  ib-sriov agent
  ib-sriov agent --grace 300 --log-file /var/log/ib-sriov.log
  ib-sriov agent --no-repair --listen :9743
"""
DEFAULT_CNI_PATH = "/opt/cni/bin"


@click.command(epilog=EXAMPLES)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default="127.0.0.1:9743",
    show_default=True,
    help="Where /metrics, /healthz and /readyz are; :PORT listens on all addresses.",
)
@click.option(
    "--grace",
    type=click.FloatRange(0, 86400),
    metavar="SECONDS",
    default=60.0,
    show_default=True,
    help="How long an attachment must have been dead, in this agent's eyes, before it is released.",
)
@click.option(
    "--interval",
    type=click.FloatRange(1, 3600),
    metavar="SECONDS",
    default=15.0,
    show_default=True,
    help="The longest time between two looks at the node; changes of netdevs bring one earlier.",
)
@click.option("--log-file", metavar="PATH", default="", help="The plugin's logFile, to count ADD and DEL from.")
@click.option(
    "--cri-socket",
    metavar="PATH",
    default="",
    help="Ask this container runtime (CRI) too which pods there are; nobody is asked otherwise.",
)
@click.option("--repair/--no-repair", default=True, show_default=True, help="Repair live attachments, or only tell.")
@click.option("--events/--no-events", default=True, show_default=True, help="Kubernetes events, in a cluster's pod.")
@click.option(
    "--log-level",
    type=click.Choice(list(LEVELS)),
    default="info",
    show_default=True,
    help="What the agent tells on standard error.",
)
@click.option(
    "--cni-path",
    metavar="FOLDERS",
    default="",
    help=f"Where IPAM plugins are, for releases.  [default: CNI_PATH, else {DEFAULT_CNI_PATH}]",
)
@state_dir_option
@pass_site
def command(site: Site, /, **given: Any) -> None:
    """Heal what no container runtime asks for.

    Releases the VFs and addresses of pods that ended without DEL, puts link states, addresses and routes of live pods
    back, tells Prometheus about the rest. Runs until SIGTERM, once on a node, as root: by the systemd unit in
    packaging/systemd or as a DaemonSet.
    """
    from ib_sriov_cni.agent.daemon import AgentSettings, Daemon
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.state.directory import DEFAULT_STATE_DIR
    from ib_sriov_cni.telemetry.log import Log

    os.environ["CNI_PATH"] = given["cni_path"] or os.environ.get("CNI_PATH") or DEFAULT_CNI_PATH
    host = Host(
        log=Log(level=given["log_level"], context={"cmd": "agent"}),
        state_dir=given["state_dir"] or site.path(DEFAULT_STATE_DIR),
        lock_dir=site.path("/run/ib-sriov"),
        sysfs_root=site.path("/sys"),
        proc_root=site.path("/proc"),
    )
    settings = AgentSettings(
        listen=given["listen"],
        grace=given["grace"],
        interval=given["interval"],
        mend=given["repair"],
        events=given["events"],
        log_file=given["log_file"],
        cri_socket=given["cri_socket"].removeprefix("unix://"),
        run_dir=site.path("/run/ib-sriov"),
        proc_root=site.path("/proc"),
    )
    with host:
        try:
            daemon = Daemon(host, settings, site.environ)
        except ValueError as fault:
            raise click.BadParameter(str(fault), param_hint="--listen") from None
        except OSError as fault:
            raise Failure(f"listen on {settings.listen}: {error_of(fault)}", "another address: --listen") from None
        daemon.run()
