"""Which attachment a person means: by pod, container, PCI address, namespace, or whatever else names one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ib_sriov_cni.cli.output import NO_SUCH, Failure, Site, counted
from ib_sriov_cni.node.read_inventory import read_inventory

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.node.inventory import Attachment, Inventory

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
WAYS = "a pod (namespace/name or name), the beginning of a container ID, a VF's PCI address, or a network namespace"


def find_attachment(name: str, attachments: Iterable[Attachment]) -> Attachment:
    """Give the one attachment that `name` means; Failure (exit status 3) if there is none, or more than one."""
    attachments = list(attachments)
    for match in (_is_exactly, _is_nearly):
        found = [held for held in attachments if match(name, held)]
        if len(found) == 1:
            return found[0]
        if found:
            # A pod may have several interfaces, and a VF may have had several pods: the living one is meant.
            alive = [held for held in found if held.alive]
            if len(alive) == 1:
                return alive[0]
            listed = "; ".join([held.key.path for held in found])
            words = f"{name} could be any of {counted(len(found), 'attachment')}"
            raise Failure(words, f"one of: {listed}", status=NO_SUCH)
    known = ", ".join([held.name for held in attachments][:10]) or "none"
    hint = f"it may be named by {WAYS}. Known here: {known}"
    raise Failure(f"{name}: there is no such attachment", hint, status=NO_SUCH)


def read_attachments(host: Host) -> Inventory:
    """Read the node for a command that is about attachments. Failure if the records cannot be read."""
    inventory = read_inventory(host)
    if inventory.unreadable_records:
        words = f"who holds which VF cannot be seen: {inventory.unreadable_records}"
        raise Failure(words, "run it as root" if os.geteuid() else "look at the state directory (--state-dir)")
    return inventory


def _is_exactly(name: str, held: Attachment) -> bool:
    record = held.record
    names = {held.key.path, record.pod, held.key.container_id, str(record.pci), record.netns_path}
    names.add(f"{held.key.container_id}:{held.key.ifname}")
    return name in names


def _is_nearly(name: str, held: Attachment) -> bool:
    record = held.record
    return (
        name == record.pod.rpartition("/")[2] != ""
        or name.lower() == record.pci
        or (len(name) >= 4 and held.key.container_id.startswith(name))
        or name == os.path.basename(record.netns_path)
    )


def complete_attachment(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the names of the attachments to the shell; none where they cannot be read."""
    from click.shell_completion import CompletionItem

    site = context.find_object(Site) or Site()
    records = site.open_host(state_dir=context.params.get("state_dir") or "").records
    names: dict[str, str] = {}
    for key in records.read_keys():
        try:
            record = records.inspect(key)
        except Exception:  # noqa: BLE001, S112  # a shell waits: what cannot be read is not offered
            continue
        if record is not None:
            names[record.pod or key.container_id] = f"{record.pci} {key.network} {key.ifname}"
    return [CompletionItem(name, help=words) for name, words in names.items() if name.startswith(incomplete)]


def attachment_argument(*, required: bool = True, many: bool = False) -> Callable[[Decorated], Decorated]:
    """Declare the argument ATTACHMENT."""
    return click.argument(
        "names" if many else "name",
        metavar="[ATTACHMENT]..." if many else "ATTACHMENT",
        required=required,
        nargs=-1 if many else 1,
        shell_complete=complete_attachment,
    )
