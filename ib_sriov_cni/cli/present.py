"""How `list`, `show` and `watch` present PFs, VFs and attachments: as text for people, as JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ib_sriov_cni.cli.output import explain_unseen, render_age, render_time, state_style
from ib_sriov_cni.core.values import Guid
from ib_sriov_cni.doctor.report import render_count
from ib_sriov_cni.node.inventory import STATES, UNKNOWN, Attachment, Inventory, PfEntry, VfEntry

if TYPE_CHECKING:
    from rich.tree import Tree

    from ib_sriov_cni.core.values import Port

COLUMNS = ("VF", "PF", "STATE", "POD", "NETWORK", "IF", "ADDRESS", "GUID", "SINCE")
WIDE_COLUMNS = (*COLUMNS, "DRIVER", "RDMA", "NETDEV", "LINK STATE")


def read_guid(vf: VfEntry) -> Guid | None:
    """Return a VF's port GUID: the VF's own if it can be read, or else that in its attachment's record or on its PF."""
    if vf.port_guid is not None:
        return vf.port_guid
    if vf.attachment is not None and vf.attachment.alive and vf.attachment.record.port_guid:
        return vf.attachment.record.port_guid
    return vf.config.port_guid if vf.config else None


def render_guid(guid: Guid | None) -> str:
    """Return a GUID as text: "none" for zero, "" if it is not known."""
    return "" if guid is None else str(guid) if guid else "none"


def pf_name(pf: PfEntry) -> str:
    """Return the name of a PF's netdev, or its PCI address without one; "none" for the VFs without a PF."""
    return pf.netdev or pf.pci or "none"


def describe_pf(pf: PfEntry) -> str:
    """Return a PF's devices, port and VFs in one line."""
    if pf.pci is None:
        return f"{render_count(pf.num_vfs, 'VF')} without a PF on this machine{_summarize_states(pf.vfs)}"
    words: list[str] = [pf.pci, pf.rdma or "no RDMA device"]
    if pf.port is not None and pf.port.state:
        words.append(f"port {pf.port.state}, LID {pf.port.lid}")
        words.append(pf.port.rate)
    if pf.link is not None and not pf.link.up:
        words.append("netdev down")
    words.append(f"{pf.num_vfs} of {render_count(pf.total_vfs, 'VF')}{_summarize_states(pf.vfs)}")
    return ", ".join([word for word in words if word])


def _summarize_states(vfs: Sequence[VfEntry]) -> str:
    counts = [(state, sum(vf.state == state for vf in vfs)) for state in STATES]
    words = ", ".join([f"{number} {state}" for state, number in counts if number])
    return f" ({words})" if words else ""


def make_vf_row(pf: PfEntry, vf: VfEntry, now: float, *, wide: bool) -> list[str]:
    """Return a VF's row of a table with COLUMNS, or with WIDE_COLUMNS."""
    attachment = vf.attachment
    row = [vf.pci, f"{pf_name(pf)}/{vf.function.index}" if pf.pci else "none", vf.state]
    if attachment is None:
        row += ["", "", "", "", render_guid(read_guid(vf)), ""]
    else:
        row += [
            attachment.name,
            attachment.key.network,
            attachment.key.ifname,
            " ".join(attachment.addresses),
            render_guid(read_guid(vf)),
            render_age(attachment.record.since, now),
        ]
    if wide:
        rdma = vf.rdma if vf.rdma_here or not vf.rdma else f"{vf.rdma} (in a pod)"
        row += [vf.function.driver, rdma, vf.netdev, vf.config.link_state if vf.config else ""]
    return row


def make_without_vf_row(attachment: Attachment, now: float, *, wide: bool) -> list[str]:
    """Return the row of an attachment that holds no VF of this node."""
    row = [
        attachment.record.pci,
        "",
        attachment.state,
        attachment.name,
        attachment.key.network,
        attachment.key.ifname,
        " ".join(attachment.addresses),
    ]
    row += [render_guid(attachment.record.port_guid), render_age(attachment.record.since, now)]
    return row + (["", "", "", ""] if wide else [])


def find_without_vf(inventory: Inventory) -> list[Attachment]:
    """Return the attachments that hold no VF of this node."""
    shown = {vf.attachment.key for vf in inventory.vfs if vf.attachment}
    return [attachment for attachment in inventory.attachments if attachment.key not in shown]


def make_tree(inventory: Inventory, now: float) -> Tree:
    """Return a tree of the PFs, their VFs, and the attachments that hold them."""
    from rich.text import Text
    from rich.tree import Tree

    root = Tree(Text(f"RDMA namespace mode {inventory.mode}" if inventory.mode else "InfiniBand", style="dim"))
    for pf in inventory.pfs:
        port = pf.port.state if pf.port else ""
        style = "bold green" if port == "ACTIVE" else "bold yellow"
        branch = root.add(Text.assemble((f"PF {pf_name(pf)}", style), f"  {describe_pf(pf)}"))
        for vf in pf.vfs:
            index = f"{vf.function.index:<3} " if pf.pci else ""
            leaf = branch.add(Text.assemble(f"VF {index}{vf.pci}  ", (vf.state, state_style(vf.state))))
            for line in _vf_lines(vf, now):
                leaf.add(Text(line))
    extra = find_without_vf(inventory)
    if extra:
        branch = root.add(Text("attachments without a VF here", style="bold yellow"))
        for attachment in extra:
            branch.add(Text(f"{attachment.name}  {attachment.record.pci}  {attachment.state}: {attachment.why}"))
    return root


def _vf_lines(vf: VfEntry, now: float) -> list[str]:
    attachment = vf.attachment
    guid = render_guid(read_guid(vf))
    if attachment is None or attachment.alive is False:
        lines = [vf.note] if vf.note else []
        return lines + ([f"GUID {guid}"] if guid else [])
    where = f"network {attachment.key.network}, interface {attachment.key.ifname}"
    lines = [f"pod {attachment.name}  {where}, for {render_age(attachment.record.since, now)}"]
    rdma = f"RDMA device {vf.rdma}{'' if vf.rdma_here else ' (in the pod)'}" if vf.rdma else "no RDMA device"
    if vf.state == UNKNOWN and vf.note:
        lines.append(vf.note)
    return [*lines, ", ".join([*attachment.addresses, f"GUID {guid}", rdma])]


# ---- documents for -o json


def make_inventory_document(inventory: Inventory) -> dict[str, object]:
    """Return the document of the whole inventory."""
    return {
        "pfs": [make_pf_document(pf) for pf in inventory.pfs],
        "attachments": [make_attachment_document(attachment) for attachment in inventory.attachments],
        "damaged": [
            {"path": each.path, "words": each.words, "pci": each.pci, "since": _time_or_none(each.since)}
            for each in inventory.damaged
        ],
        "foreign": [
            {**each.__dict__, "since": _time_or_none(each.since), "of": "the Go ib-sriov-cni"}
            for each in inventory.foreign
        ],
        "rdmaNetnsMode": inventory.mode or None,
        "unseen": explain_unseen(inventory.unseen),
    }


def make_pf_document(pf: PfEntry) -> dict[str, object]:
    """Return the document of a PF and its VFs."""
    return {
        "pci": pf.pci,
        "driver": pf.driver,
        "netdev": pf.netdev or None,
        "up": pf.link.up if pf.link else None,
        "rdma": pf.rdma or None,
        "nodeGuid": guid_or_none(pf.node_guid),
        "portGuid": guid_or_none(pf.port_guid),
        "port": _make_port_document(pf.port) if pf.port else None,
        "numVfs": pf.num_vfs,
        "totalVfs": pf.total_vfs,
        "vfs": [make_vf_document(vf) for vf in pf.vfs],
    }


def _make_port_document(port: Port) -> dict[str, object]:
    return {
        "state": port.state or None,
        "physical": port.physical or None,
        "rate": port.rate or None,
        "linkLayer": port.link_layer or None,
        "lid": port.lid,
        "smLid": port.sm_lid,
    }


def make_vf_document(vf: VfEntry) -> dict[str, object]:
    """Return the document of a VF; its `attachment` is the `id` of the attachment that holds it."""
    return {
        "index": vf.function.index if vf.function.pf else None,
        "pci": vf.pci,
        "state": vf.state,
        "note": vf.note or None,
        "driver": vf.function.driver or None,
        "netdev": vf.netdev or None,
        "rdma": vf.rdma or None,
        "rdmaHere": vf.rdma_here,
        "nodeGuid": guid_or_none(vf.node_guid),
        "portGuid": guid_or_none(vf.port_guid),
        "pf": {
            "nodeGuid": guid_or_none(vf.config.node_guid),
            "portGuid": guid_or_none(vf.config.port_guid),
            "linkState": vf.config.link_state or None,
        }
        if vf.config
        else None,
        "attachment": vf.attachment.key.path if vf.attachment else None,
    }


def make_attachment_document(attachment: Attachment) -> dict[str, object]:
    """Return the document of an attachment."""
    record = attachment.record
    return {
        "id": attachment.key.path,
        "network": attachment.key.network,
        "containerID": attachment.key.container_id,
        "ifname": attachment.key.ifname,
        "pod": record.pod or None,
        "pci": record.pci,
        "state": attachment.state,
        "alive": attachment.alive,
        "why": attachment.why or None,
        "busy": attachment.busy or None,
        "owner": attachment.owner,
        "since": render_time(record.since),
        "netns": record.netns_path,
        "addresses": list(attachment.addresses),
        "guid": guid_or_none(record.port_guid),
        "nodeGuid": guid_or_none(record.node_guid),
        "rdmaIsolation": record.rdma_isolation,
        "pkey": f"{record.child_pkey:#06x}" if record.child_pkey else None,
    }


def guid_or_none(guid: Guid | None) -> str | None:
    """Return a GUID as text for a document, None if it is not known."""
    return None if guid is None else str(guid)


def _time_or_none(since: float) -> str | None:
    return render_time(since) if since else None
