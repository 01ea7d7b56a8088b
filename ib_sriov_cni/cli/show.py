"""`ib-sriov show`: one attachment from near, its record beside what the kernel has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ib_sriov_cni.cli.facts import attachment_document, clock, guid_words, record_document
from ib_sriov_cni.cli.find import WAYS, attachment_argument, find_attachment, read_attachments
from ib_sriov_cni.cli.output import (
    FOUND,
    INCOMPLETE,
    OK,
    Site,
    finish,
    output_option,
    pass_site,
    print_json,
    show,
    since_words,
    state_dir_option,
    style_of,
    tell_unseen,
    time_words,
)
from ib_sriov_cni.core.errors import CniError
from ib_sriov_cni.node.inventory import Attachment
from ib_sriov_cni.node.live_state import Live, differences, read_live

if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.comparison import Difference

EXAMPLES = f"""\
ATTACHMENT is {WAYS}.

Examples:

\b
  ib-sriov show worker-0
  ib-sriov show train/worker-0
  ib-sriov show 0000:3b:00.2
  ib-sriov show 4f5e6d -o json

The exit status is 0 if the attachment is alive and as its record says, 1 if not, 3 if there is none of that name.
"""


@click.command(epilog=EXAMPLES)
@attachment_argument()
@output_option
@state_dir_option
@pass_site
def command(site: Site, *, name: str, output: str, state_dir: str) -> None:
    """Show one attachment: its record, what the kernel has, and any difference."""
    with site.open_host(state_dir=state_dir) as host:
        inventory = read_attachments(host)
        held = find_attachment(name, inventory.attachments)
        unseen, live, faults = _look(host, held)
        record_file = host.records.file_of(held.key)
    if output == "json":
        print_json(
            {
                "attachment": attachment_document(held),
                "recordFile": record_file,
                "record": record_document(held),
                "live": live_document(live) if live else None,
                "differences": [{"kind": fault.kind, "words": str(fault)} for fault in faults],
                "unseen": unseen,
            }
        )
    else:
        _print(held, live, faults, record_file)
        tell_unseen(unseen)
    finish(FOUND if faults else INCOMPLETE if unseen else OK)


def _look(host: Host, held: Attachment) -> tuple[list[str], Live | None, list[Difference]]:
    try:
        return [], read_live(host, held.record), differences(host, held)
    except CniError as fault:
        return [str(fault)], None, []


def live_document(live: Live) -> dict[str, object]:
    """Give what the kernel has."""
    link = live.link
    return {
        "interface": {
            "name": link.name,
            "index": link.index,
            "up": link.up,
            "operstate": link.operstate,
            "mtu": link.mtu,
            "mac": link.mac,
            "portGuid": str(link.port_guid) if link.port_guid is not None else None,
        }
        if link
        else None,
        "addresses": list(live.addresses),
        "routes": list(live.routes),
        "rdma": live.rdma or None,
        "rdmaInPod": live.rdma_in_pod,
        "driver": live.driver or None,
        "pf": {
            "nodeGuid": str(live.config.node_guid),
            "portGuid": str(live.config.port_guid),
            "linkState": live.config.link_state or None,
        }
        if live.config
        else None,
    }


def _print(held: Attachment, live: Live | None, faults: list[Difference], record_file: str) -> None:
    from rich.table import Table
    from rich.text import Text

    record = held.record
    grid = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, show_header=False)
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")

    def line(name: str, words: str, style: str = "") -> None:
        grid.add_row(name, Text(words, style=style) if words else Text("-", style="dim"))

    line("attachment", held.name)
    since = f"{time_words(record.since)}, {since_words(record.since, clock())} ago"
    line("state", held.state + (f": {held.why}" if held.why else ""), style_of(held.state))
    if held.busy:
        line("busy", f"the VF's lock is held by {held.busy}")
    line("since", since)
    line("network", f"{held.key.network}, interface {held.key.ifname}")
    line("container", held.key.container_id)
    line("namespace", record.netns_path)
    line("VF", f"{record.pci}{'' if held.owner else ', which it does not own'}, driver {record.driver}")
    line("port GUID", f"{guid_words(record.port_guid)}{_before(held)}")
    line("node GUID", guid_words(record.node_guid))
    line("addresses", ", ".join(held.addresses))
    line("link state", record.link_state or f"left alone ({record.had_link_state or 'the PF does not tell'})")
    line("isolation", "the RDMA device is in the pod" if record.rdma_isolation else "the RDMA device stays on the host")
    if record.child_pkey:
        line("P_Key", f"{record.child_pkey:#06x}, an interface of its own beside the VF's")
    line("record", record_file)
    grid.add_row("", "")
    if live is not None:
        for name, words in live_lines(live):
            line(name, words)
    show(grid)
    click.echo()
    if faults:
        show(Text(f"{len(faults)} difference{'s' if len(faults) > 1 else ''}:", style="bold red"))
        for fault in faults:
            click.echo(f"  {fault}")
    elif live is not None:
        show(Text("Everything is as the record says.", style="green"))


def _before(held: Attachment) -> str:
    record = held.record
    if not record.sets_guid:
        return ", as the VF had it"
    return f", set (before: {guid_words(record.had_port_guid) or 'not known'})"


def live_lines(live: Live) -> list[tuple[str, str]]:
    """Say what the kernel has."""
    link = live.link
    lines = []
    if link is None:
        lines.append(("now", "no interface in the pod"))
    else:
        state = f"{'up' if link.up else 'down'}, {link.operstate}"
        lines.append(("now", f"{link.name} (index {link.index}) {state}, mtu {link.mtu}"))
        lines.append(("", f"hardware address {link.mac}"))
        lines += [("", f"address {address}") for address in live.addresses]
        lines += [("", f"route {route}") for route in live.routes]
    where = "in the pod" if live.rdma_in_pod else "on the host"
    lines.append(("", f"RDMA device {live.rdma}, {where}" if live.rdma else "no RDMA device"))
    lines.append(("", f"driver {live.driver or 'none'}"))
    if live.config is not None:
        config = live.config
        lines.append(("on the PF", f"link state {config.link_state or 'not told'}, port GUID {config.port_guid}"))
    return lines
