"""What `list`, `show` and `watch` say of PFs, VFs and attachments: for people in words, for programs as documents."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ib_sriov_cni.cli.output import counted, since_words, style_of, time_words
from ib_sriov_cni.core.record import render_record
from ib_sriov_cni.core.values import Guid
from ib_sriov_cni.node.inventory import STATES, Attachment, Inventory, PfEntry, VfEntry

if TYPE_CHECKING:
    from rich.tree import Tree

    from ib_sriov_cni.core.values import Port

COLUMNS = ("VF", "PF", "STATE", "POD", "NETWORK", "IF", "ADDRESS", "GUID", "SINCE")
WIDE = (*COLUMNS, "DRIVER", "RDMA", "NETDEV", "LINK STATE")


def guid_of(vf: VfEntry) -> Guid | None:
    """Give the port GUID a VF has: its own word first, then its attachment's record, then what its PF says."""
    if vf.port_guid is not None:
        return vf.port_guid
    if vf.attachment is not None and vf.attachment.alive and vf.attachment.record.port_guid:
        return vf.attachment.record.port_guid
    return vf.config.port_guid if vf.config else None


def guid_words(guid: Guid | None) -> str:
    """Say a GUID; zero is none."""
    return "" if guid is None else str(guid) if guid else "none"


def pf_name(pf: PfEntry) -> str:
    """Say which PF: by its netdev where it has one."""
    return pf.netdev or pf.pci


def pf_words(pf: PfEntry) -> str:
    """Say what a PF is and how it does, in one line."""
    words = [pf.pci, pf.rdma or "no RDMA device"]
    if pf.port is not None and pf.port.state:
        words.append(f"port {pf.port.state}, LID {pf.port.lid}")
        words.append(pf.port.rate)
    if pf.link is not None and not pf.link.up:
        words.append("netdev down")
    words.append(f"{pf.num_vfs} of {counted(pf.total_vfs, 'VF')}{_summary(pf.vfs)}")
    return ", ".join([word for word in words if word])


def _summary(vfs: Sequence[VfEntry]) -> str:
    counts = [(state, sum(vf.state == state for vf in vfs)) for state in STATES]
    words = ", ".join([f"{number} {state}" for state, number in counts if number])
    return f" ({words})" if words else ""


def vf_row(pf: PfEntry, vf: VfEntry, now: float, *, wide: bool) -> list[str]:
    """Give a VF's row of COLUMNS or WIDE."""
    held = vf.attachment
    row = [vf.pci, f"{pf_name(pf)}/{vf.function.index}", vf.state]
    if held is None:
        row += ["", "", "", "", guid_words(guid_of(vf)), ""]
    else:
        row += [
            held.name,
            held.key.network,
            held.key.ifname,
            " ".join(held.addresses),
            guid_words(guid_of(vf)),
            since_words(held.record.since, now),
        ]
    if wide:
        rdma = vf.rdma if vf.rdma_here or not vf.rdma else f"{vf.rdma} (in a pod)"
        row += [vf.function.driver, rdma, vf.netdev, vf.config.link_state if vf.config else ""]
    return row


def stray_row(held: Attachment, now: float, *, wide: bool) -> list[str]:
    """Give the row of an attachment that holds no VF of this node."""
    row = [held.record.pci, "", held.state, held.name, held.key.network, held.key.ifname, " ".join(held.addresses)]
    row += [guid_words(held.record.port_guid), since_words(held.record.since, now)]
    return row + (["", "", "", ""] if wide else [])


def strays(inventory: Inventory) -> list[Attachment]:
    """Give the attachments that no VF of this node shows."""
    shown = {vf.attachment.key for vf in inventory.vfs if vf.attachment}
    return [held for held in inventory.attachments if held.key not in shown]


def make_tree(inventory: Inventory, now: float) -> Tree:
    """Make a tree: PFs, their VFs, what each holds."""
    from rich.text import Text
    from rich.tree import Tree

    root = Tree(Text(f"RDMA namespaces {inventory.mode}" if inventory.mode else "InfiniBand", style="dim"))
    for pf in inventory.pfs:
        port = pf.port.state if pf.port else ""
        style = "bold green" if port == "ACTIVE" else "bold yellow"
        branch = root.add(Text.assemble((f"PF {pf_name(pf)}", style), f"  {pf_words(pf)}"))
        for vf in pf.vfs:
            leaf = branch.add(Text.assemble(f"VF {vf.function.index:<3} {vf.pci}  ", (vf.state, style_of(vf.state))))
            for line in _vf_lines(vf, now):
                leaf.add(Text(line))
    extra = strays(inventory)
    if extra:
        branch = root.add(Text("attachments without a VF here", style="bold yellow"))
        for held in extra:
            branch.add(Text(f"{held.name}  {held.record.pci}  {held.state}: {held.why}"))
    return root


def _vf_lines(vf: VfEntry, now: float) -> list[str]:
    held = vf.attachment
    guid = guid_words(guid_of(vf))
    if held is None or held.alive is False:
        lines = [vf.note] if vf.note else []
        return lines + ([f"GUID {guid}"] if guid else [])
    where = f"network {held.key.network}, interface {held.key.ifname}"
    lines = [f"pod {held.name}  {where}, for {since_words(held.record.since, now)}"]
    rdma = f"RDMA device {vf.rdma}{'' if vf.rdma_here else ' (in the pod)'}" if vf.rdma else "no RDMA device"
    return [*lines, ", ".join([*held.addresses, f"GUID {guid}", rdma])]


# ---- for programs


def inventory_document(inventory: Inventory) -> dict[str, object]:
    """Give everything, for `-o json`."""
    return {
        "pfs": [pf_document(pf) for pf in inventory.pfs],
        "attachments": [attachment_document(held) for held in inventory.attachments],
        "damaged": [
            {"path": each.path, "words": each.words, "pci": each.pci, "since": _time(each.since)}
            for each in inventory.damaged
        ],
        "foreign": [
            {**each.__dict__, "since": _time(each.since), "of": "the Go ib-sriov-cni"} for each in inventory.foreign
        ],
        "rdmaNetnsMode": inventory.mode or None,
        "unseen": list(inventory.unseen),
    }


def pf_document(pf: PfEntry) -> dict[str, object]:
    """Give a PF and its VFs."""
    return {
        "pci": pf.pci,
        "driver": pf.driver,
        "netdev": pf.netdev or None,
        "up": pf.link.up if pf.link else None,
        "rdma": pf.rdma or None,
        "nodeGuid": _guid(pf.node_guid),
        "portGuid": _guid(pf.port_guid),
        "port": _port(pf.port) if pf.port else None,
        "numVfs": pf.num_vfs,
        "totalVfs": pf.total_vfs,
        "vfs": [vf_document(vf) for vf in pf.vfs],
    }


def _port(port: Port) -> dict[str, object]:
    return {
        "state": port.state or None,
        "physical": port.physical or None,
        "rate": port.rate or None,
        "linkLayer": port.link_layer or None,
        "lid": port.lid,
        "smLid": port.sm_lid,
    }


def vf_document(vf: VfEntry) -> dict[str, object]:
    """Give a VF; `attachment` names the one of "attachments" that holds it."""
    return {
        "index": vf.function.index,
        "pci": vf.pci,
        "state": vf.state,
        "note": vf.note or None,
        "driver": vf.function.driver or None,
        "netdev": vf.netdev or None,
        "rdma": vf.rdma or None,
        "rdmaHere": vf.rdma_here,
        "nodeGuid": _guid(vf.node_guid),
        "portGuid": _guid(vf.port_guid),
        "pf": {
            "nodeGuid": _guid(vf.config.node_guid),
            "portGuid": _guid(vf.config.port_guid),
            "linkState": vf.config.link_state or None,
        }
        if vf.config
        else None,
        "attachment": vf.attachment.key.path if vf.attachment else None,
    }


def attachment_document(held: Attachment) -> dict[str, object]:
    """Give an attachment."""
    record = held.record
    return {
        "id": held.key.path,
        "network": held.key.network,
        "containerID": held.key.container_id,
        "ifname": held.key.ifname,
        "pod": record.pod or None,
        "pci": record.pci,
        "state": held.state,
        "alive": held.alive,
        "why": held.why or None,
        "busy": held.busy or None,
        "owner": held.owner,
        "since": time_words(record.since),
        "netns": record.netns_path,
        "addresses": list(held.addresses),
        "guid": _guid(record.port_guid),
        "nodeGuid": _guid(record.node_guid),
        "rdmaIsolation": record.rdma_isolation,
        "pkey": f"{record.child_pkey:#06x}" if record.child_pkey else None,
    }


def record_document(held: Attachment) -> dict[str, object]:
    """Give the whole record, as it lies on disk."""
    return render_record(held.record)


def _guid(guid: Guid | None) -> str | None:
    return None if guid is None else str(guid)


def _time(since: float) -> str | None:
    return time_words(since) if since else None


def clock() -> float:
    """Give the time, for how long ago things were."""
    return time.time()
