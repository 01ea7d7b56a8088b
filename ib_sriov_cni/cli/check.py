"""`ib-sriov check`: are the attachments still what their ADD made? The same code as CHECK."""

from __future__ import annotations

import click

from ib_sriov_cni.cli.find import WAYS, attachment_argument, find_attachment, read_attachments
from ib_sriov_cni.cli.output import (
    FOUND,
    INCOMPLETE,
    OK,
    Site,
    finish,
    note,
    output_option,
    pass_site,
    print_json,
    print_table,
    state_dir_option,
    tell_unseen,
)
from ib_sriov_cni.core.errors import CniError
from ib_sriov_cni.node.live_state import differences

EXAMPLES = f"""\
ATTACHMENT is {WAYS}.

Examples:

\b
  ib-sriov check
  ib-sriov check worker-0 worker-1
  ib-sriov check --all -o json

The exit status is 0 if all are as they were made, 1 if one differs or is dead. `ib-sriov repair` puts right what can
be put right without touching traffic.
"""


@click.command(epilog=EXAMPLES)
@attachment_argument(required=False, many=True)
@click.option("--all", "everything", is_flag=True, help="All attachments of this node; so it is without a name, too.")
@output_option
@state_dir_option
@pass_site
def command(site: Site, *, names: tuple[str, ...], everything: bool, output: str, state_dir: str) -> None:
    """Check attachments: interface, addresses, routes, GUIDs, link state, RDMA device, reservation.

    What CHECK compares with the result of ADD is compared with the record of it here.
    """
    if names and everything:
        raise click.UsageError("either --all or names")
    with site.open_host(state_dir=state_dir) as host:
        inventory = read_attachments(host)
        chosen = [find_attachment(name, inventory.attachments) for name in names] or list(inventory.attachments)
        results = []
        unseen = list(inventory.unseen)
        for held in chosen:
            try:
                faults = differences(host, held)
            except CniError as fault:
                unseen.append(f"{held.name}: {fault}")
                continue
            results.append((held, faults))
    if output == "json":
        print_json(
            {
                "attachments": [
                    {
                        "id": held.key.path,
                        "pod": held.record.pod or None,
                        "pci": held.record.pci,
                        "ok": not faults,
                        "differences": [{"kind": fault.kind, "words": str(fault)} for fault in faults],
                    }
                    for held, faults in results
                ],
                "unseen": unseen,
            }
        )
    else:
        rows = []
        for held, faults in results:
            words = [str(fault) for fault in faults] or [" "]
            rows.append([held.name, held.key.ifname, held.record.pci, "fail" if faults else "ok", words[0]])
            rows += [[" ", " ", " ", " ", more] for more in words[1:]]
        if rows:
            print_table(("POD", "IF", "VF", "RESULT", "DIFFERENCE"), rows)
        elif not unseen:
            note("there are no attachments on this node")
        tell_unseen(unseen)
    finish(FOUND if any(faults for _, faults in results) else INCOMPLETE if unseen else OK)
