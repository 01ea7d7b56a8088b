"""`ib-sriov del`: undo what `ib-sriov add` did. The same code as DEL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ib_sriov_cni.attach.delete import delete
from ib_sriov_cni.attach.recorded_request import make_del_request
from ib_sriov_cni.cli.byhand import MARK, find_netns, target_options, warn_without_root
from ib_sriov_cni.cli.find import complete_attachment, find_attachment, read_attachments
from ib_sriov_cni.cli.output import (
    NO_SUCH,
    Failure,
    Site,
    note,
    output_option,
    pass_site,
    print_json,
    state_dir_option,
    verbose_option,
)
from ib_sriov_cni.core.configuration import parse_netconf
from ib_sriov_cni.core.record import AttachmentKey

if TYPE_CHECKING:
    from ib_sriov_cni.node.inventory import Attachment

EXAMPLES = """\
An attachment that a runtime made is the runtime's to delete: end the pod. --force deletes it all the same, and takes
the interface from a living pod.

Examples:

\b
  ib-sriov del --netns try
  ib-sriov del --pid 1234 --ifname net1
  ib-sriov del 0000:3b:00.2
"""


@click.command(epilog=EXAMPLES)
@click.argument("name", metavar="[ATTACHMENT]", required=False, shell_complete=complete_attachment)
@target_options
@click.option("--force", is_flag=True, help="Also what a runtime made.")
@output_option
@verbose_option
@state_dir_option
@pass_site
def command(
    site: Site, /, *, name: str | None, force: bool, output: str, verbose: bool, state_dir: str, **target: Any
) -> None:
    """Detach what was attached by hand: the VF comes home as it was.

    It may be named like any attachment, or by the --pid or --netns that it was added with. A namespace that is gone by
    now does not matter.
    """
    with site.open_host(state_dir=state_dir, verbose=verbose) as host:
        attachments = read_attachments(host).attachments
        if name is not None:
            if target["pid"] is not None or target["netns"] is not None:
                raise click.UsageError("give a name, or one of --pid and --netns")
            held = find_attachment(name, attachments)
        else:
            _, container_id = find_netns(site, target["pid"], target["netns"], gone=True)
            key = AttachmentKey(network=target["network"], container_id=container_id, ifname=target["ifname"])
            held = _find(key, attachments)
        if MARK not in held.record.args and not force:
            words = f"{held.name} was attached by a runtime, not by hand"
            raise Failure(words, "end the pod; --force takes its interface away all the same")
        warn_without_root()
        request = make_del_request(held.record)
        delete(host, request, parse_netconf(request, lenient=True))
    if output == "json":
        print_json({"id": held.key.path, "pci": held.record.pci, "outcome": "released"})
    else:
        note(f"{held.key.path}: released, VF {held.record.pci} is at home")


def _find(key: AttachmentKey, attachments: tuple[Attachment, ...]) -> Attachment:
    wanted = (key.container_id, key.ifname)
    there = [held for held in attachments if (held.key.container_id, held.key.ifname) == wanted]
    for held in there:
        # Of --config's network it may be: what is the only one is meant.
        if held.key == key or len(there) == 1:
            return held
    known = ", ".join([held.key.path for held in attachments if MARK in held.record.args]) or "none"
    words = f"{key.container_id}: nothing of network {key.network} is attached there as {key.ifname}"
    raise Failure(words, f"attached by hand: {known}", status=NO_SUCH)
