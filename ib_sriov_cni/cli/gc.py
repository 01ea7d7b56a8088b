"""`ib-sriov gc`: release what dead attachments hold. The same code as GC, and as the healing of the next ADD."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ib_sriov_cni.attach.heal import release_dead
from ib_sriov_cni.cli.facts import attachment_document
from ib_sriov_cni.cli.find import read_attachments
from ib_sriov_cni.cli.output import (
    FAILED,
    INCOMPLETE,
    OK,
    Site,
    counted,
    finish,
    note,
    output_option,
    pass_site,
    print_json,
    print_table,
    state_dir_option,
    tell_unseen,
    verbose_option,
)
from ib_sriov_cni.core.faults import FaultCollector

if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.node.inventory import Attachment

EXAMPLES = """\
Dead is an attachment whose ADD was never finished, that was made before the last boot, whose network namespace is gone,
or whose VF is at home again. Its VF is brought home and gets its GUIDs, link state and names back; its addresses are
released; its record goes. Nothing that serves a pod is touched: what decides is read again under the VF's lock.

Examples:

\b
  ib-sriov gc --dry-run
  ib-sriov gc
  ib-sriov gc --network fabric -v

The exit status is 0 if all that was dead is released (or would be), 4 if a release failed.
"""
WOULD, RELEASED, ALIVE, FAILURE = "would be released", "released", "alive or gone by now", "failed"


def _release(host: Host, held: Attachment, lock_timeout: float) -> tuple[str, list[str]]:
    """Release one attachment; gives the outcome and what failed."""
    collector = FaultCollector()
    released = False

    def release() -> None:
        nonlocal released
        released = release_dead(host, held.key, lock_timeout, collector)

    collector.attempt(release)
    faults = [str(fault) for fault in collector.faults]
    return (FAILURE if faults else RELEASED if released else ALIVE), faults


@click.command(epilog=EXAMPLES)
@click.option("--network", metavar="NAME", default="", help="The attachments of one network only.")
@click.option("--dry-run", is_flag=True, help="Say what would be released, and release nothing.")
@click.option(
    "--lock-timeout",
    metavar="SECONDS",
    type=click.FloatRange(0, 3600),
    default=10.0,
    show_default=True,
    help="How long to wait for a VF that somebody is at work on.",
)
@output_option
@verbose_option
@state_dir_option
@pass_site
def command(
    site: Site, *, network: str, dry_run: bool, lock_timeout: float, output: str, verbose: bool, state_dir: str
) -> None:
    """Release what dead attachments hold: VFs, addresses, records."""
    rows: list[tuple[dict[str, object], list[str]]] = []
    failed = False
    with site.open_host(state_dir=state_dir, verbose=verbose) as host:
        inventory = read_attachments(host)
        for held in inventory.attachments:
            if held.alive is not False or held.busy or (network and held.key.network != network):
                continue
            outcome, faults = (WOULD, []) if dry_run else _release(host, held, lock_timeout)
            failed = failed or bool(faults)
            document = {**attachment_document(held), "outcome": outcome, "faults": faults}
            row = [held.name, held.key.network, held.record.pci, " ".join(held.addresses), held.why, outcome]
            rows.append((document, row))
    if output == "json":
        print_json({"attachments": [document for document, _ in rows], "unseen": list(inventory.unseen)})
    else:
        if rows:
            print_table(("POD", "NETWORK", "VF", "ADDRESS", "WHY", "OUTCOME"), [row for _, row in rows], fold=("WHY",))
        else:
            alive = sum(held.alive is True for held in inventory.attachments)
            note(f"nothing to release ({counted(alive, 'living attachment')})")
        for document, _ in rows:
            for fault in document["faults"] if isinstance(document["faults"], list) else []:
                note(f"failed: {document['pod'] or document['containerID']}: {fault}")
        tell_unseen(inventory.unseen)
    finish(FAILED if failed else INCOMPLETE if inventory.unseen else OK)
