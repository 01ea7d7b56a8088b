"""Turn what a pass found into samples of the metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping

from ib_sriov_cni.agent.leases import read_usage
from ib_sriov_cni.agent.liveness import Verdict
from ib_sriov_cni.agent.metrics import Samples
from ib_sriov_cni.attach.host import Host
from ib_sriov_cni.attach.liveness import DEAD, HIDDEN
from ib_sriov_cni.attach.pod_namespace import open_sandbox
from ib_sriov_cni.core import values as model
from ib_sriov_cni.core.errors import CniError
from ib_sriov_cni.core.record import AttachmentKey, Record
from ib_sriov_cni.node import inventory as inv
from ib_sriov_cni.node.inventory import Inventory, PfEntry, VfEntry

PORT_STATES = {name: number for number, name in model.PORT_STATES.items() if 1 <= number <= 4}
# The inventory's states of VFs, as the label values of ib_sriov_vfs.
VF_STATES = {inv.FREE: "free", inv.IN_USE: "in_use", inv.BUSY: "busy", inv.FOREIGN: "in_use", inv.LEFTOVER: "leftover"}
VF_LABELS = ("free", "in_use", "busy", "leftover", "unhealthy")
ATTACHMENT_LABELS = ("live", "adding", "dead", "hidden")

Rows = list[tuple[tuple[str, ...], float]]
OnFault = Callable[[str, Exception], None]


def read_samples(
    host: Host,
    inventory: Inventory,
    verdicts: Mapping[AttachmentKey, Verdict],
    newest: Mapping[str, Record],
    differing: Collection[AttachmentKey],
    *,
    on_fault: OnFault,
) -> Samples:
    """Return the samples of all metrics of kind fact.

    `newest` has the newest record of each network, `differing` the attachments with a finding. What cannot be read (a
    port, a lease folder) is left out; `on_fault` gets any other exception, with the path of the attachment.
    """
    samples: dict[str, Rows] = {
        "ib_sriov_pf_info": [((pf.pci, pf.netdev, pf.rdma, pf.driver), 1.0) for pf in inventory.pfs if pf.pci],
        "ib_sriov_vfs": [],
        "ib_sriov_port_state": [],
        "ib_sriov_attachments": [],
        "ib_sriov_attachments_differing": [],
        "ib_sriov_damaged_records": [((), float(len(inventory.damaged)))],
        "ib_sriov_leases": read_lease_rows(newest, on_fault),
    }
    for pf in inventory.pfs:
        counts = Counter(vf_label(vf, verdicts) for vf in pf.vfs)
        samples["ib_sriov_vfs"] += [((pf.pci or "", label), float(counts[label])) for label in VF_LABELS]
        samples["ib_sriov_port_state"] += read_port_rows(host, pf, on_fault)
    for network in sorted({key.network for key in verdicts} | set(newest)):
        states = Counter(verdict.state for key, verdict in verdicts.items() if key.network == network)
        samples["ib_sriov_attachments"] += [((network, label), float(states[label])) for label in ATTACHMENT_LABELS]
        number = sum(key.network == network for key in differing)
        samples["ib_sriov_attachments_differing"].append(((network,), float(number)))
    return samples


def vf_label(vf: VfEntry, verdicts: Mapping[AttachmentKey, Verdict]) -> str:
    """Return the state of a VF. One whose attachment is hidden is in use: nothing proves that its pod is gone."""
    verdict = verdicts.get(vf.attachment.key) if vf.attachment is not None else None
    if verdict is not None and verdict.state == HIDDEN and vf.state in (inv.LEFTOVER, inv.UNKNOWN):
        return "in_use"
    if vf.state == inv.LEFTOVER and verdict is not None and verdict.state != DEAD:
        return "unhealthy"
    return VF_STATES.get(vf.state, "unhealthy")


def read_port_rows(host: Host, pf: PfEntry, on_fault: OnFault) -> Rows:
    """Return the port states of a PF and its VFs, wherever their RDMA devices are."""
    rows: Rows = []
    if pf.pci and pf.port is not None and pf.port.state in PORT_STATES:
        rows.append(((pf.pci, pf.pci, "pf", pf.rdma), float(PORT_STATES[pf.port.state])))
    for vf in pf.vfs:
        try:
            state = host.sysfs.read_port_state(vf.rdma) if vf.rdma_here else read_port_state_in_pod(host, vf)
        except CniError:
            continue  # the pod is being deleted
        except Exception as fault:  # noqa: BLE001  # the other ports are reported
            on_fault(vf.attachment.key.path if vf.attachment else str(vf.pci), fault)
            continue
        if state in PORT_STATES:
            rows.append(((pf.pci or "", vf.pci, "vf", vf.rdma), float(PORT_STATES[state])))
    return rows


def read_port_state_in_pod(host: Host, vf: VfEntry) -> str:
    """Read a port state in the pod's namespace, the only one where an isolated device is visible; "" if it is gone.

    Raises CniError if the namespace cannot be entered or read.
    """
    record = vf.attachment.record if vf.attachment is not None else None
    if record is None or not record.rdma_isolation or not vf.rdma:
        return ""
    netns = open_sandbox(record)
    if netns is None:
        return ""
    with netns:
        inside = host.open_rdma(netns)
        try:
            return inside.read_port_state(vf.rdma)
        finally:
            inside.close()


def read_lease_rows(newest: Mapping[str, Record], on_fault: OnFault) -> Rows:
    """Return used and free addresses of each network that the bundled host-local serves."""
    rows: Rows = []
    for record in newest.values():
        try:
            usages = read_usage(record)
        except (CniError, OSError):
            continue  # an unknown slice, an unreadable folder: no number is better than a wrong one
        except Exception as fault:  # noqa: BLE001  # the other networks are reported
            on_fault(record.key.path, fault)
            continue
        for usage in usages:
            rows.append(((usage.network, usage.range_set, "used"), float(usage.used)))
            rows.append(((usage.network, usage.range_set, "free"), float(usage.free)))
    return rows
