"""`ib-sriov show`: one attachment in detail, its record next to the state in the kernel."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from ib_sriov_cni.cli.find import NAMES_OF_ATTACHMENT, attachment_argument, find_attachment, read_attachments
from ib_sriov_cni.cli.output import (
    EXIT_INCOMPLETE,
    EXIT_OK,
    EXIT_PROBLEM,
    Site,
    echo,
    exit_with,
    explain_unseen,
    output_option,
    pass_site,
    print_json,
    print_rich,
    print_unseen,
    render_age,
    render_time,
    state_dir_option,
    state_style,
)
from ib_sriov_cni.cli.present import guid_or_none, make_attachment_document, render_guid
from ib_sriov_cni.core.errors import CniError
from ib_sriov_cni.core.record import render_record
from ib_sriov_cni.core.values import is_pass_through
from ib_sriov_cni.doctor.report import render_count
from ib_sriov_cni.node.inventory import Attachment, Inventory
from ib_sriov_cni.node.live_state import Live, differences, read_live

if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.comparison import Difference
    from ib_sriov_cni.core.record import Record

EXAMPLES = f"""\
ATTACHMENT is {NAMES_OF_ATTACHMENT}.

Examples:

\b
  ib-sriov show worker-0
  ib-sriov show train/worker-0
  ib-sriov show 0000:3b:00.2
  ib-sriov show 4f5e6d -o json

The exit status is 0 if the attachment is alive and as its record says, 1 if not, 3 if no attachment matches.
"""


@click.command(epilog=EXAMPLES)
@attachment_argument()
@output_option
@state_dir_option
@pass_site
def command(site: Site, *, name: str, output: str, state_dir: str) -> None:
    """Show one attachment: its record, the state in the kernel, and any difference."""
    with site.open_host(state_dir=state_dir) as host:
        inventory = read_attachments(host)
        attachment = find_attachment(name, inventory.attachments)
        unseen, live, faults = _read_state(host, attachment, inventory)
        record_file = host.records.file_of(attachment.key)
    if output == "json":
        print_json(
            {
                "attachment": make_attachment_document(attachment),
                "recordFile": record_file,
                "record": render_record(attachment.record),
                "live": make_live_document(live) if live else None,
                "differences": [{"kind": fault.kind, "words": str(fault)} for fault in faults],
                "unseen": explain_unseen(unseen),
            }
        )
    else:
        _print_attachment(attachment, live, faults, record_file)
        print_unseen(unseen)
    exit_with(EXIT_PROBLEM if faults else EXIT_INCOMPLETE if unseen else EXIT_OK)


def _read_state(
    host: Host, attachment: Attachment, inventory: Inventory
) -> tuple[list[str], Live | None, list[Difference]]:
    try:
        read = inventory.read_config
        return [], read_live(host, attachment.record, read), differences(host, attachment, read)
    except CniError as fault:
        return [str(fault)], None, []


def make_live_document(live: Live) -> dict[str, object]:
    """Return the state in the kernel as a document."""
    link = live.link
    return {
        "interface": {
            "name": link.name,
            "index": link.index,
            "up": link.up,
            "operstate": link.operstate,
            "mtu": link.mtu,
            "mac": link.mac,
            "portGuid": guid_or_none(link.port_guid),
        }
        if link
        else None,
        "addresses": list(live.addresses),
        "routes": list(live.routes),
        "rdma": live.rdma or None,
        "rdmaInPod": live.rdma_in_pod,
        "driver": live.driver or None,
        "pf": {
            "nodeGuid": guid_or_none(live.config.node_guid),
            "portGuid": guid_or_none(live.config.port_guid),
            "linkState": live.config.link_state or None,
        }
        if live.config
        else None,
    }


def _print_attachment(attachment: Attachment, live: Live | None, faults: list[Difference], record_file: str) -> None:
    from rich.table import Table
    from rich.text import Text

    record = attachment.record
    grid = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, show_header=False)
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")

    def line(name: str, text: str, style: str = "") -> None:
        grid.add_row(name, Text(text, style=style) if text else Text("-", style="dim"))

    line("attachment", attachment.name)
    since = f"{render_time(record.since)}, {render_age(record.since, time.time())} ago"
    line("state", attachment.state + (f": {attachment.why}" if attachment.why else ""), state_style(attachment.state))
    if attachment.busy:
        line("busy", f"the VF's lock is held by {attachment.busy}")
    line("since", since)
    line("network", f"{attachment.key.network}, interface {attachment.key.ifname}")
    line("container", attachment.key.container_id)
    line("namespace", record.netns_path)
    line("VF", f"{record.pci}{'' if attachment.owner else ', which it does not own'}, driver {record.driver}")
    line("port GUID", f"{render_guid(record.port_guid)}{_describe_change(attachment)}")
    line("node GUID", render_guid(record.node_guid))
    line("addresses", ", ".join(attachment.addresses))
    line("link state", record.link_state or f"unchanged ({record.had_link_state or 'the PF does not report it'})")
    line("isolation", _describe_isolation(record))
    if record.child_pkey:
        line("P_Key", f"{record.child_pkey:#06x}, on a separate interface on top of the VF's")
    line("record", record_file)
    grid.add_row("", "")
    if live is not None:
        for name, text in describe_live(live):
            line(name, text)
    print_rich(grid)
    click.echo()
    if faults:
        print_rich(Text(f"{render_count(len(faults), 'difference')}:", style="bold red"))
        for fault in faults:
            echo(f"  {fault}")
    elif live is not None:
        print_rich(Text("Everything is as the record says.", style="green"))


def _describe_isolation(record: Record) -> str:
    if is_pass_through(record.driver):
        return "the whole device is for a virtual machine"
    return "the RDMA device is in the pod" if record.rdma_isolation else "the RDMA device stays on the host"


def _describe_change(attachment: Attachment) -> str:
    record = attachment.record
    if not record.sets_guid and not record.port_guid:
        return ", or not known: no PF here reports it" if is_pass_through(record.driver) else ""
    if not record.sets_guid:
        return ", which the VF already had"
    return f", set (before: {render_guid(record.had_port_guid) or 'unknown'})"


def describe_live(live: Live) -> list[tuple[str, str]]:
    """Return the state in the kernel as lines, each with its label."""
    link = live.link
    lines = []
    if is_pass_through(live.driver):
        return [("now", f"passed through to a virtual machine by {live.driver}"), *_describe_config(live)]
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
    return lines + _describe_config(live)


def _describe_config(live: Live) -> list[tuple[str, str]]:
    if live.config is None:
        return []
    state, guid = live.config.link_state or "not reported", render_guid(live.config.port_guid) or "not reported"
    return [("on the PF", f"link state {state}, port GUID {guid}")]
