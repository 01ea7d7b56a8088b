"""`ib-sriov watch`: the node as it changes; redrawn on a terminal, a line a change everywhere else."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING

import click

from ib_sriov_cni.cli.facts import COLUMNS, guid_of, guid_words, make_tree, stray_row, strays, vf_document, vf_row
from ib_sriov_cni.cli.output import (
    OK,
    Site,
    drop_columns,
    finish,
    make_table,
    open_console,
    output_option,
    pass_site,
    state_dir_option,
    tell_unseen,
    time_words,
)
from ib_sriov_cni.kernel.netlink_socket import LinkEvents
from ib_sriov_cni.node.inventory import Inventory
from ib_sriov_cni.node.read_inventory import read_inventory

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ib_sriov_cni.attach.host import Host

SETTLE_SECONDS = 0.05  # an attachment is a dozen events: look once they pause
DISPENSABLE = ("NETWORK", "IF", "PF", "SINCE", "GUID", "ADDRESS")  # on a narrow terminal, in this order
EXAMPLES = """\
Examples:

\b
  ib-sriov watch
  ib-sriov watch --tree
  ib-sriov watch | logger -t ib-sriov
  ib-sriov watch -o json | jq .

It ends with ^C, with status 0.
"""


@click.command(epilog=EXAMPLES)
@click.option("--tree", is_flag=True, help="As a tree.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to look when the kernel tells of no event: not everything has one.",
)
@output_option
@state_dir_option
@pass_site
def command(site: Site, *, tree: bool, interval: float, output: str, state_dir: str) -> None:
    """Watch PFs, VFs and attachments as they change.

    On a terminal the table is drawn anew whenever a network device changes. When standard output is no terminal, or
    with -o json, each change is a line: the states at the start first.
    """
    console = open_console()
    events = LinkEvents()
    # As ^C does: the terminal is to be given back as it was.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with site.open_host(state_dir=state_dir) as host:
            if console.is_terminal and output != "json":
                _draw(host, events, interval, tree=tree)
            else:
                _tell(host, events, interval, as_json=output == "json")
    except KeyboardInterrupt:
        pass
    finally:
        events.close()
    finish(OK)


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
            live.update(_picture(inventory, live.console.width, tree=tree), refresh=True)
            _wait(events, interval)


def _picture(inventory: Inventory, width: int, *, tree: bool) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    now = time.time()
    head = Text(f"ib-sriov watch  {time_words(now)}  ^C ends", style="dim")
    if tree:
        body: RenderableType = make_tree(inventory, now)
    else:
        rows = [vf_row(pf, vf, now, wide=False) for pf in inventory.pfs for vf in pf.vfs]
        rows += [stray_row(held, now, wide=False) for held in strays(inventory)]
        body = make_table(*drop_columns(COLUMNS, rows, width, DISPENSABLE), fold=())
    unseen = [Text(f"not seen: {what}", style="yellow") for what in inventory.unseen]
    return Group(head, Text(), body, *unseen)


def _tell(host: Host, events: LinkEvents, interval: float, *, as_json: bool) -> None:
    before: dict[str, tuple[str, str]] = {}
    first = True
    while True:
        inventory = read_inventory(host)
        if first:
            tell_unseen(inventory.unseen)
        now: dict[str, tuple[str, str]] = {}
        for pf in inventory.pfs:
            for vf in pf.vfs:
                held = vf.attachment
                who = f"{held.name} {held.key.ifname} {' '.join(held.addresses)}".strip() if held else ""
                # Whose it is counts only while it is somebody's; the GUID is told, and no change of its own.
                now[vf.pci] = (vf.state, who)
                if before.get(vf.pci) == now[vf.pci]:
                    continue
                was = before.get(vf.pci, ("", ""))
                if as_json:
                    line = {"time": time_words(time.time()), "was": was[0] or None, **vf_document(vf)}
                    click.echo(json.dumps(line, default=str))
                else:
                    change = f"{was[0]} -> {vf.state}" if was[0] else vf.state
                    words = f"{time_words(time.time())} {vf.pci} {change} {who} {guid_words(guid_of(vf))}"
                    click.echo(" ".join(words.split()))
        for pci in before.keys() - now.keys():
            gone = {"time": time_words(time.time()), "pci": pci, "was": before[pci][0], "state": "gone"}
            click.echo(json.dumps(gone) if as_json else f"{gone['time']} {pci} {gone['was']} -> gone")
        before, first = now, False
        _wait(events, interval)
