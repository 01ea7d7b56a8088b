"""`ib-sriov watch`: the node as it changes: a table that is redrawn on a terminal, otherwise one line per change."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING

import click

from ib_sriov_cni.cli.output import (
    EXIT_OK,
    Site,
    drop_columns,
    echo,
    exit_with,
    explain_unseen,
    make_table,
    open_console,
    output_option,
    pass_site,
    print_unseen,
    render_time,
    state_dir_option,
)
from ib_sriov_cni.cli.present import (
    COLUMNS,
    find_without_vf,
    make_tree,
    make_vf_document,
    make_vf_row,
    make_without_vf_row,
    read_guid,
    render_guid,
)
from ib_sriov_cni.kernel.netlink_socket import LinkEvents
from ib_sriov_cni.node.inventory import Inventory
from ib_sriov_cni.node.read_inventory import read_inventory

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ib_sriov_cni.attach.host import Host

SETTLE_SECONDS = 0.05  # an ADD causes a dozen events: read once they pause
DISPENSABLE = ("NETWORK", "IF", "PF", "SINCE", "GUID", "ADDRESS")  # dropped on a narrow terminal, in this order
EXAMPLES = """\
Examples:

\b
  ib-sriov watch
  ib-sriov watch --tree
  ib-sriov watch | logger -t ib-sriov
  ib-sriov watch -o json | jq .

^C ends it, with exit status 0.
"""


@click.command(epilog=EXAMPLES)
@click.option("--tree", is_flag=True, help="Draw a tree.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to read the node if the kernel reports no event; not every change causes one.",
)
@output_option
@state_dir_option
@pass_site
def command(site: Site, *, tree: bool, interval: float, output: str, state_dir: str) -> None:
    """Watch PFs, VFs and attachments as they change.

    On a terminal, the table is redrawn whenever a network device changes. If standard output is not a terminal, or with
    -o json, each change is one line, after one line per VF for its state at the start.
    """
    console = open_console()
    events = LinkEvents()
    # Like ^C, so that the terminal is restored.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with site.open_host(state_dir=state_dir) as host:
            if console.is_terminal and output != "json":
                _draw(host, events, interval, tree=tree)
            else:
                _print_changes(host, events, interval, as_json=output == "json")
    except KeyboardInterrupt:
        pass
    finally:
        events.close()
    exit_with(EXIT_OK)


def _wait(events: LinkEvents, interval: float) -> None:
    start = time.monotonic()
    events.wait(interval)
    if time.monotonic() - start < interval:
        time.sleep(SETTLE_SECONDS)


def _draw(host: Host, events: LinkEvents, interval: float, *, tree: bool) -> None:
    from rich.live import Live

    with Live(console=open_console(), auto_refresh=False, screen=True) as live:
        while True:
            inventory = read_inventory(host)
            live.update(_make_picture(inventory, live.console.width, tree=tree), refresh=True)
            _wait(events, interval)


def _make_picture(inventory: Inventory, width: int, *, tree: bool) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    now = time.time()
    head = Text(f"ib-sriov watch  {render_time(now)}  ^C to end", style="dim")
    if tree:
        body: RenderableType = make_tree(inventory, now)
    else:
        rows = [make_vf_row(pf, vf, now, wide=False) for pf in inventory.pfs for vf in pf.vfs]
        rows += [make_without_vf_row(attachment, now, wide=False) for attachment in find_without_vf(inventory)]
        body = make_table(*drop_columns(COLUMNS, rows, width, DISPENSABLE), fold=())
    unseen = [Text(f"could not read: {what}", style="yellow") for what in explain_unseen(inventory.unseen)]
    return Group(head, Text(), body, *unseen)


def _print_changes(host: Host, events: LinkEvents, interval: float, *, as_json: bool) -> None:
    before: dict[str, tuple[str, str]] = {}
    first = True
    while True:
        inventory = read_inventory(host)
        if first:
            print_unseen(inventory.unseen)
        now: dict[str, tuple[str, str]] = {}
        for pf in inventory.pfs:
            for vf in pf.vfs:
                attachment = vf.attachment
                who = (
                    f"{attachment.name} {attachment.key.ifname} {' '.join(attachment.addresses)}".strip()
                    if attachment
                    else ""
                )
                # A change is one of the state or of who holds the VF; the GUID is printed, but not a change by itself.
                now[vf.pci] = (vf.state, who)
                if before.get(vf.pci) == now[vf.pci]:
                    continue
                was = before.get(vf.pci, ("", ""))
                if as_json:
                    line = {"time": render_time(time.time()), "was": was[0] or None, **make_vf_document(vf)}
                    click.echo(json.dumps(line, default=str))
                else:
                    change = f"{was[0]} -> {vf.state}" if was[0] else vf.state
                    words = f"{render_time(time.time())} {vf.pci} {change} {who} {render_guid(read_guid(vf))}"
                    echo(" ".join(words.split()))
        for pci in before.keys() - now.keys():
            gone = {"time": render_time(time.time()), "pci": pci, "was": before[pci][0], "state": "gone"}
            echo(json.dumps(gone) if as_json else f"{gone['time']} {pci} {gone['was']} -> gone")
        before, first = now, False
        _wait(events, interval)
