"""`ib-sriov gc`: release what dead attachments hold. Runs the same code as GC, and as the next ADD of the VF."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ib_sriov_cni.attach.heal import release_dead
from ib_sriov_cni.cli.find import read_attachments
from ib_sriov_cni.cli.output import (
    EXIT_FAILED,
    EXIT_INCOMPLETE,
    EXIT_OK,
    OUTCOME_FAILED,
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
    verbose_option,
)
from ib_sriov_cni.cli.present import make_attachment_document
from ib_sriov_cni.core.fault_collector import FaultCollector
from ib_sriov_cni.doctor.report import render_count

if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.node.inventory import Attachment

EXAMPLES = """\
An attachment is dead if its ADD never finished, if it was made before the last boot, or if its VF is already back on
the host, as when its network namespace has ended; one whose namespace cannot be seen is not. gc returns the VF to the
host, restores its GUIDs, link state and names, releases the addresses, and removes the record. Live attachments are not
touched: gc decides again under the VF's lock.

Examples:

\b
  ib-sriov gc --dry-run
  ib-sriov gc
  ib-sriov gc --network fabric -v

The exit status is 0 if all dead attachments are released (or would be), 4 if a release failed.
"""
WOULD_RELEASE, RELEASED, NOT_DEAD = "would be released", "released", "alive or gone by now"


def _release(host: Host, attachment: Attachment, lock_timeout: float) -> tuple[str, list[str]]:
    """Release one attachment; return the outcome and what failed."""
    collector = FaultCollector()
    released = False

    def release() -> None:
        nonlocal released
        released = release_dead(host, attachment.key, lock_timeout, collector)

    collector.attempt(release)
    faults = [str(fault) for fault in collector.faults]
    return (OUTCOME_FAILED if faults else RELEASED if released else NOT_DEAD), faults


@click.command(epilog=EXAMPLES)
@click.option("--network", metavar="NAME", default="", help="Only attachments of this network.")
@click.option("--dry-run", is_flag=True, help="Print what would be released, and release nothing.")
@click.option(
    "--lock-timeout",
    metavar="SECONDS",
    type=click.FloatRange(0, 3600),
    default=10.0,
    show_default=True,
    help="How long to wait for a VF that another call is working on.",
)
@output_option
@verbose_option
@state_dir_option
@pass_site
def command(
    site: Site, *, network: str, dry_run: bool, lock_timeout: float, output: str, verbose: bool, state_dir: str
) -> None:
    """Release what dead attachments still hold: VFs, addresses, records."""
    rows: list[tuple[dict[str, object], list[str]]] = []
    failed = False
    with site.open_host(state_dir=state_dir, verbose=verbose) as host:
        inventory = read_attachments(host)
        for attachment in inventory.attachments:
            if attachment.alive is not False or attachment.busy or (network and attachment.key.network != network):
                continue
            outcome, faults = (WOULD_RELEASE, []) if dry_run else _release(host, attachment, lock_timeout)
            failed = failed or bool(faults)
            document = {**make_attachment_document(attachment), "outcome": outcome, "faults": faults}
            row = [
                attachment.name,
                attachment.key.network,
                attachment.record.pci,
                " ".join(attachment.addresses),
                attachment.why,
                outcome,
            ]
            rows.append((document, row))
    if output == "json":
        print_json({"attachments": [document for document, _ in rows], "unseen": explain_unseen(inventory.unseen)})
    else:
        if rows:
            print_table(("POD", "NETWORK", "VF", "ADDRESS", "WHY", "OUTCOME"), [row for _, row in rows], fold=("WHY",))
        else:
            networks = sorted({attachment.key.network for attachment in inventory.attachments})
            if network and network not in networks:
                print_note(f"no attachment is of network {network}; networks here: {', '.join(networks) or 'none'}")
            alive = sum(attachment.alive is True for attachment in inventory.attachments)
            print_note(f"nothing to release ({render_count(alive, 'live attachment')})")
        for document, _ in rows:
            for fault in document["faults"] if isinstance(document["faults"], list) else []:
                print_note(f"failed: {document['pod'] or document['containerID']}: {fault}")
        print_unseen(inventory.unseen)
    exit_with(EXIT_FAILED if failed else EXIT_INCOMPLETE if inventory.unseen else EXIT_OK)
