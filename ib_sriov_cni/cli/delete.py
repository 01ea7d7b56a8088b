"""`ib-sriov del`: undo what `ib-sriov add` did. Runs the same code as DEL."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from ib_sriov_cni.attach.delete import delete
from ib_sriov_cni.attach.recorded_request import make_del_request
from ib_sriov_cni.cli.byhand import MARK, advise_root, find_netns, target_options, warn_without_root
from ib_sriov_cni.cli.find import complete_attachment, find_attachment, read_attachments
from ib_sriov_cni.cli.output import (
    EXIT_NOT_FOUND,
    Failure,
    Site,
    output_option,
    pass_site,
    print_json,
    print_note,
    state_dir_option,
    verbose_option,
)
from ib_sriov_cni.core.configuration import parse_netconf
from ib_sriov_cni.core.record import AttachmentKey

if TYPE_CHECKING:
    from ib_sriov_cni.node.inventory import Attachment

EXAMPLES = """\
An attachment that a runtime made is for the runtime to delete: end the pod. --force deletes it anyway, and takes the
interface away from a live pod.

Examples:

\b
  ib-sriov del --netns try
  ib-sriov del --pid 1234 --ifname net1
  ib-sriov del 0000:3b:00.2
"""


@click.command(epilog=EXAMPLES)
@click.argument("name", metavar="[ATTACHMENT]", required=False, shell_complete=complete_attachment)
@target_options
@click.option("--force", is_flag=True, help="Also delete what a runtime attached.")
@output_option
@verbose_option
@state_dir_option
@pass_site
def command(
    site: Site, /, *, name: str | None, force: bool, output: str, verbose: bool, state_dir: str, **target: Any
) -> None:
    """Detach what was attached by hand, and restore the VF.

    Name the attachment, or use the --pid or --netns that it was added with. The namespace need not exist any more.
    """
    if name is None and target["pid"] is None and target["netns"] is None:
        raise click.UsageError("name an ATTACHMENT, or set either --pid or --netns")
    with site.open_host(state_dir=state_dir, verbose=verbose) as host:
        attachments = read_attachments(host).attachments
        if name is not None:
            if target["pid"] is not None or target["netns"] is not None:
                raise click.UsageError("set only one of ATTACHMENT, --pid and --netns")
            attachment = find_attachment(name, attachments)
        else:
            _, container_id = find_netns(site, target["pid"], target["netns"], gone=True)
            key = AttachmentKey(network=target["network"], container_id=container_id, ifname=target["ifname"])
            attachment = _find(key, attachments)
        if MARK not in attachment.record.args and not force:
            message = f"{attachment.name} was attached by a runtime, not by hand"
            raise Failure(message, "end the pod; --force takes its interface away anyway")
        warn_without_root()
        request = make_del_request(attachment.record)
        with advise_root(root=os.geteuid() == 0):
            delete(host, request, parse_netconf(request, lenient=True))
    if output == "json":
        print_json({"id": attachment.key.path, "pci": attachment.record.pci, "outcome": "released"})
    else:
        print_note(f"{attachment.key.path}: released; VF {attachment.record.pci} is back on the host")


def _find(key: AttachmentKey, attachments: tuple[Attachment, ...]) -> Attachment:
    wanted = (key.container_id, key.ifname)
    matching = [
        attachment for attachment in attachments if (attachment.key.container_id, attachment.key.ifname) == wanted
    ]
    for attachment in matching:
        # With --config, `add` may have used another network name; a single match is what is meant.
        if attachment.key == key or len(matching) == 1:
            return attachment
    known = ", ".join([attachment.key.path for attachment in attachments if MARK in attachment.record.args]) or "none"
    message = f"{key.container_id}: no interface {key.ifname} of network {key.network} is attached there"
    raise Failure(message, f"attached by hand: {known}", status=EXIT_NOT_FOUND)
