"""Finds the attachment that a command-line argument names: by pod, container, PCI address or namespace."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click

from ib_sriov_cni.cli.output import EXIT_NOT_FOUND, Failure, Function, Site
from ib_sriov_cni.doctor.report import render_count
from ib_sriov_cni.node.read_inventory import read_inventory

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.node.inventory import Attachment, Inventory

NAMES_OF_ATTACHMENT = (
    "a pod (namespace/name or name), the beginning of a container ID, a VF's PCI address, or a network namespace"
)


def find_attachment(name: str, attachments: Iterable[Attachment]) -> Attachment:
    """Return the attachment that `name` means. Failure (exit status 3) if there is none, or more than one."""
    attachments = list(attachments)
    for match in (_is_exactly, _is_nearly):
        found = [attachment for attachment in attachments if match(name, attachment)]
        if len(found) == 1:
            return found[0]
        if found:
            # A pod may have several interfaces, and a VF may have had several pods: prefer the live attachment.
            alive = [attachment for attachment in found if attachment.alive]
            if len(alive) == 1:
                return alive[0]
            listed = "; ".join([attachment.key.path for attachment in found])
            message = f"{name} matches {render_count(len(found), 'attachment')}"
            raise Failure(message, f"use one of: {listed}", status=EXIT_NOT_FOUND)
    known = ", ".join([attachment.name for attachment in attachments][:10]) or "none"
    hint = f"name it by {NAMES_OF_ATTACHMENT}. Known here: {known}"
    raise Failure(f"no attachment matches {name!r}", hint, status=EXIT_NOT_FOUND)


def read_attachments(host: Host) -> Inventory:
    """Return the inventory for a command that needs the attachments. Failure if the records cannot be read."""
    inventory = read_inventory(host)
    if inventory.unreadable_records:
        message = f"cannot read the records of attachments: {inventory.unreadable_records}"
        raise Failure(message, "run it as root" if os.geteuid() else "check the state directory (--state-dir)")
    return inventory


def _is_exactly(name: str, attachment: Attachment) -> bool:
    record = attachment.record
    names = {attachment.key.path, record.pod, attachment.key.container_id, str(record.pci), record.netns_path}
    names.add(f"{attachment.key.container_id}:{attachment.key.ifname}")
    return name in names


def _is_nearly(name: str, attachment: Attachment) -> bool:
    record = attachment.record
    return (
        name == record.pod.rpartition("/")[2] != ""
        or name.lower() == record.pci
        or (len(name) >= 4 and attachment.key.container_id.startswith(name))
        or name == os.path.basename(record.netns_path)
    )


def complete_attachment(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the names of attachments for shell completion; none if they cannot be read."""
    from click.shell_completion import CompletionItem

    site = context.find_object(Site) or Site()
    records = site.open_host(state_dir=context.params.get("state_dir") or "").records
    names: dict[str, str] = {}
    for key in records.read_keys():
        try:
            record = records.inspect(key)
        except Exception:  # noqa: BLE001, S112  # a record that cannot be read is not offered
            continue
        if record is not None:
            names[record.pod or key.container_id] = f"{record.pci} {key.network} {key.ifname}"
    return [CompletionItem(name, help=text) for name, text in names.items() if name.startswith(incomplete)]


def attachment_argument(*, required: bool = True, many: bool = False) -> Callable[[Function], Function]:
    """Return a decorator that adds the argument ATTACHMENT to a command."""
    return click.argument(
        "names" if many else "name",
        metavar="[ATTACHMENT]..." if many else "ATTACHMENT",
        required=required,
        nargs=-1 if many else 1,
        shell_complete=complete_attachment,
    )
