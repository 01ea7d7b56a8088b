"""What can be put right on this node without asking anybody, and what cannot.

`plan_repairs` reads and decides, `apply_repair` acts: under the VF's lock, after looking whether the reason is still
there. Both are shared by `ib-sriov repair`, the node agent and `ib-sriov doctor`.

A living pod's traffic comes first. Everything planned is harmless to it but what says otherwise (`harmless`): putting
back a link state that is `disable`. What would need a rebind under a living pod is not planned; it is among the
findings, with what a person can do.
"""

from __future__ import annotations

import time

from ib_sriov_cni.attach.check import record_differences
from ib_sriov_cni.core.errors import CniError
from ib_sriov_cni.core.record import describe_attachment
from ib_sriov_cni.node.inventory import BUSY, UNBOUND, UNMANAGED
from ib_sriov_cni.node.read_inventory import read_inventory
from ipam.protocol.result import Route
from ipam.protocol.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.comparison import Difference, DifferenceKind
    from ib_sriov_cni.core.record import AttachmentKey, Record
    from ib_sriov_cni.core.values import PciAddress
    from ib_sriov_cni.node.inventory import Attachment, Damaged, Inventory, VfEntry

# The kinds, in the order in which they are done: an owner is set right before a dead attachment of the same VF is
# released, an interface comes up before its addresses, and addresses come before routes.
OWNER, DISOWN, RELEASE, LINK_STATE, UP, ADDRESS, ROUTE, BIND, LEFTOVER = (
    *("owner", "disown", "release", "link-state", "up", "address", "route", "bind", "leftover"),
)
ORDER = (OWNER, DISOWN, RELEASE, LINK_STATE, UP, ADDRESS, ROUTE, BIND, LEFTOVER)
# Differences that a repair takes away, and which.
REPAIRABLE: dict[DifferenceKind, str] = {"link_state": LINK_STATE, "down": UP, "address": ADDRESS, "route": ROUTE}
HINTS: dict[DifferenceKind, str] = {
    "link_state": "set it on the PF: ip link set <PF> vf <index> state auto",
    "address": "delete the pod: the address is not reserved for it any more",
    "route": "delete the pod: the address it needs is not reserved for it any more",
    "owner": "two attachments claim one VF: delete the pod that came first",
    "vf": "delete the pod; were the VFs removed under it (sriov_numvfs)?",
    "driver": "delete the pod: binding the driver would take the VF out of it",
    "pf": "bring the PF's netdev back: is ib_ipoib loaded?",
    "config_guid": "delete the pod when it can be spared: the VF takes a GUID only when it is bound again",
    "interface": "delete the pod, or rename the interface back in it",
    "guid": "delete the pod",
    "mtu": "set it back in the pod: ip link set <interface> mtu <bytes>",
    "rdma": "delete the pod: its RDMA device was moved away",
    "reservation": "another pod may get the same address: delete this one",
}
KEEP_SECONDS = 7 * 86400.0  # for which damaged records are kept, to be looked at


class Repair(Value):
    """One thing that can be put right."""

    kind: str  # one of ORDER
    what: str  # will be done
    why: str
    harmless: bool  # to the traffic of living pods
    pci: PciAddress | None  # whose lock is taken; None for a leftover
    key: AttachmentKey | None  # of the attachment it is for
    pod: str  # that one's pod or container, for people
    about: object = None  # the address, the route, the file …


class Problem(Value):
    """One thing that is wrong and cannot be put right from here."""

    kind: str
    what: str
    hint: str
    pci: PciAddress | None
    key: AttachmentKey | None
    pod: str


class RepairPlan(Value):
    """What can be put right, in the order to do it, and what cannot."""

    repairs: tuple[Repair, ...]
    findings: tuple[Problem, ...]
    unseen: tuple[str, ...]


def plan_repairs(
    host: Host,
    inventory: Inventory | None = None,
    *,
    reservations: bool = True,
    keep_damaged: float = KEEP_SECONDS,
    now: float | None = None,
) -> RepairPlan:
    """Read everything (or take what was read) and say what can be put right. Nothing is changed.

    `reservations`: ask the IPAM plugins too, which may mean to execute them. `keep_damaged`: seconds for which a
    damaged record is left to be looked at. `now`: Unix time, of the clock unless given.
    """
    inventory = inventory or read_inventory(host)
    now = time.time() if now is None else now
    repairs: list[Repair] = []
    findings: list[Problem] = []
    unseen = list(inventory.unseen)
    for attachment in inventory.attachments:
        if attachment.busy or attachment.alive is None:
            continue  # somebody is at work on it, or it could not be seen
        if not attachment.alive:
            repairs.append(_release(attachment))
            continue
        try:
            faults = record_differences(host, attachment.record, reservation=reservations)
        except CniError as refusal:
            unseen.append(f"{describe_attachment(attachment.record)}: {refusal}")
            continue
        for fault in faults:
            _sort_difference(attachment, fault, faults, inventory, repairs, findings)
    for vf in inventory.vfs:
        _sort_vf(host, vf, repairs, findings)
    for damaged in inventory.damaged:
        _sort_damaged(damaged, inventory, now - keep_damaged, repairs, findings)
    repairs.sort(key=lambda repair: ORDER.index(repair.kind))
    return RepairPlan(repairs=tuple(repairs), findings=tuple(findings), unseen=tuple(dict.fromkeys(unseen)))


def _release(attachment: Attachment) -> Repair:
    record = attachment.record
    return Repair(
        kind=RELEASE,
        what=f"release {_release_words(attachment)}",
        why=attachment.why,
        harmless=True,
        pci=record.pci,
        key=record.key,
        pod=attachment.name,
    )


def _release_words(attachment: Attachment) -> str:
    addresses = f" and {', '.join(attachment.addresses)}" if attachment.addresses else ""
    return f"VF {attachment.record.pci}{addresses}" if attachment.owner else f"the record{addresses}"


def _sort_difference(
    attachment: Attachment,
    fault: Difference,
    faults: list[Difference],
    inventory: Inventory,
    repairs: list[Repair],
    findings: list[Problem],
) -> None:
    """Put one difference of a living attachment among what can be repaired, or among what cannot."""
    record = attachment.record
    kind = REPAIRABLE.get(fault.kind, "")
    there = {other.kind for other in faults}
    if "reservation" in there and (kind == ADDRESS or (kind == ROUTE and ADDRESS in there)):
        kind = ""  # the address may be another pod's by now, and without it there is no way to the gateway
    if kind == LINK_STATE and not fault.about:
        kind = ""  # the PF did not tell what it was
    if fault.kind == OWNER and not _has_living_rival(attachment, inventory):
        kind = OWNER
    if not kind:
        findings.append(
            Problem(
                kind=fault.kind,
                what=str(fault),
                hint=HINTS.get(fault.kind, "delete the pod"),
                pci=record.pci,
                key=record.key,
                pod=attachment.name,
            )
        )
        return
    repairs.append(
        Repair(
            kind=kind,
            what=_words(kind, record, fault.about),
            why=str(fault),
            harmless=not (kind == LINK_STATE and fault.about == "disable"),
            pci=record.pci,
            key=record.key,
            pod=attachment.name,
            about=fault.about,
        )
    )


def _words(kind: str, record: Record, about: object) -> str:
    if kind == LINK_STATE:
        return f"set link state {about} of VF {record.pci} on its PF"
    if kind == UP:
        return f"bring up interface {about} in the pod"
    if kind == ADDRESS:
        return f"add address {about} to {record.key.ifname} in the pod"
    if kind == ROUTE and isinstance(about, Route):
        return f"add route {about.dst} via {about.gw or 'link'} on {record.key.ifname} in the pod"
    return f"make it the owner of VF {record.pci}"


def _has_living_rival(attachment: Attachment, inventory: Inventory) -> bool:
    pci = attachment.record.pci
    return any(
        other.record.pci == pci and other.key != attachment.key and other.alive is not False
        for other in inventory.attachments
    )


def _sort_vf(host: Host, vf: VfEntry, repairs: list[Repair], findings: list[Problem]) -> None:
    """What a VF needs that no attachment explains."""
    pci = vf.pci
    if vf.state == BUSY:
        return
    owner = host.ownership.read_owner(pci)
    lost = owner is not None and (vf.attachment is None or owner != vf.attachment.key)
    if lost and owner is not None and not is_recorded(host, owner) and vf.state != UNMANAGED and not _lives(vf):
        repairs.append(
            Repair(
                kind=DISOWN,
                what=f"remove the owner of VF {pci}",
                why=f"attachment {owner.path} has no record any more",
                harmless=True,
                pci=pci,
                key=None,
                pod="",
                about=owner,
            )
        )
    if vf.state == UNBOUND:
        driver = vf.function.pf_driver
        why_not = _why_not_bind(host, vf)
        if why_not:
            findings.append(Problem(kind=BIND, what=f"VF {pci} has no driver", hint=why_not, pci=pci, key=None, pod=""))
        else:
            repairs.append(
                Repair(
                    kind=BIND,
                    what=f"bind VF {pci} to {driver}",
                    why="it has no driver",
                    harmless=True,
                    pci=pci,
                    key=None,
                    pod="",
                    about=driver,
                )
            )
    if vf.state == UNMANAGED:
        findings.append(
            Problem(
                kind=UNMANAGED,
                what=f"VF {pci} is in a network namespace, and no record tells whose",
                hint="end what holds it; or take it back, which cuts that one off: echo "
                f"{pci} > /sys/bus/pci/drivers/{vf.function.driver}/unbind, then the same into …/bind",
                pci=pci,
                key=None,
                pod="",
            )
        )


def _lives(vf: VfEntry) -> bool:
    return vf.attachment is not None and vf.attachment.alive is not False


def is_recorded(host: Host, key: AttachmentKey) -> bool:
    try:
        return host.records.inspect(key) is not None
    except (ValueError, CniError):
        return True  # there is a file, whatever is in it


def _why_not_bind(host: Host, vf: VfEntry) -> str:
    """Somebody may want it without driver; then it stays so, with words about it."""
    driver, override = vf.function.pf_driver, host.sysfs.read_override(vf.pci)
    if not driver:
        return f"its PF {vf.function.pf} has none either: load the driver of the HCA"
    if override and override != driver:
        return f"driver_override says {override}: bind it to that, or clear driver_override"
    if not host.sysfs.probes_automatically(vf.function.pf):
        by_hand = f"echo {vf.pci} > /sys/bus/pci/drivers/{driver}/bind"
        return f"sriov_drivers_autoprobe of its PF is 0: somebody wants it so; otherwise: {by_hand}"
    return ""


def _sort_damaged(
    damaged: Damaged, inventory: Inventory, before: float, repairs: list[Repair], findings: list[Problem]
) -> None:
    held = next((vf for vf in inventory.vfs if vf.pci == damaged.pci), None) if damaged.pci else None
    # The name of the file may be all that tells whose a VF is that is still away.
    away = held is not None and held.state == UNMANAGED
    if damaged.since and damaged.since < before and not away:
        repairs.append(
            Repair(
                kind=LEFTOVER,
                what=f"remove {damaged.path}",
                why=damaged.words,
                harmless=True,
                pci=None,
                key=damaged.key,
                pod="",
                about=damaged.path,
            )
        )
    elif not damaged.path.endswith(".new"):
        findings.append(
            Problem(
                kind="damaged",
                what=f"{damaged.path}: {damaged.words}",
                hint="its pod's DEL releases the addresses only; " + _damaged_hint(damaged, away=away),
                pci=damaged.pci,
                key=damaged.key,
                pod=damaged.key.container_id if damaged.key else "",
            )
        )


def _damaged_hint(damaged: Damaged, *, away: bool) -> str:
    if away:
        return f"VF {damaged.pci} comes home when that pod's namespace ends"
    return "the file is kept for a week, to be looked at, then repair removes it"
