"""`ib-sriov check`: are the attachments still as ADD made them? Runs the same code as CHECK."""

from __future__ import annotations

import click

from ib_sriov_cni.cli.find import NAMES_OF_ATTACHMENT, attachment_argument, find_attachment, read_attachments
from ib_sriov_cni.cli.output import (
    EXIT_INCOMPLETE,
    EXIT_OK,
    EXIT_PROBLEM,
    Site,
    exit_with,
    explain_unseen,
    output_option,
    pass_site,
    print_json,
    print_note,
    print_table,
    print_unseen,
    state_dir_option,
)
from ib_sriov_cni.core.errors import CniError
from ib_sriov_cni.node.live_state import differences

EXAMPLES = f"""\
ATTACHMENT is {NAMES_OF_ATTACHMENT}.

Examples:

\b
  ib-sriov check
  ib-sriov check worker-0 worker-1
  ib-sriov check --all -o json

The exit status is 0 if all are as ADD made them, 1 if one differs or is dead. `ib-sriov repair` repairs what can be
repaired without disturbing traffic.
"""


@click.command(epilog=EXAMPLES)
@attachment_argument(required=False, many=True)
@click.option("--all", "everything", is_flag=True, help="All attachments on this node; the default without a name.")
@output_option
@state_dir_option
@pass_site
def command(site: Site, *, names: tuple[str, ...], everything: bool, output: str, state_dir: str) -> None:
    """Check attachments: interface, addresses, routes, GUIDs, link state, RDMA device, reservation.

    CHECK compares with the result of ADD; this command makes the same comparisons with the record.
    """
    if names and everything:
        raise click.UsageError("set either --all or ATTACHMENT")
    with site.open_host(state_dir=state_dir) as host:
        inventory = read_attachments(host)
        chosen = [find_attachment(name, inventory.attachments) for name in names] or list(inventory.attachments)
        results = []
        unseen = list(inventory.unseen)
        for attachment in chosen:
            try:
                faults = differences(host, attachment, inventory.read_config)
            except CniError as fault:
                unseen.append(f"{attachment.name}: {fault}")
                continue
            results.append((attachment, faults))
    if output == "json":
        print_json(
            {
                "attachments": [
                    {
                        "id": attachment.key.path,
                        "pod": attachment.record.pod or None,
                        "pci": attachment.record.pci,
                        "ok": not faults,
                        "differences": [{"kind": fault.kind, "words": str(fault)} for fault in faults],
                    }
                    for attachment, faults in results
                ],
                "unseen": explain_unseen(unseen),
            }
        )
    else:
        rows = []
        for attachment, faults in results:
            words = [str(fault) for fault in faults] or [" "]
            rows.append(
                [attachment.name, attachment.key.ifname, attachment.record.pci, "fail" if faults else "ok", words[0]]
            )
            rows += [[" ", " ", " ", " ", more] for more in words[1:]]
        if rows:
            print_table(("POD", "IF", "VF", "RESULT", "DIFFERENCE"), rows)
        elif not unseen:
            print_note("there are no attachments on this node")
        print_unseen(unseen)
    exit_with(EXIT_PROBLEM if any(faults for _, faults in results) else EXIT_INCOMPLETE if unseen else EXIT_OK)
