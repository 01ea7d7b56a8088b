"""What is wrong on this node: what can be repaired without asking anybody, and what only a person can.

plan_repairs reads and decides; node/apply_repair.py acts, under the VF's lock. `ib-sriov repair`, `ib-sriov doctor` and
the node agent share both.

Repairs must not disturb the traffic of live pods. The only planned one that does is setting the link state back to
`disable`; it is not marked `harmless`. What would need a rebind under a live pod is not planned: it is among the
findings, with a hint.
"""

from __future__ import annotations

import time

from ib_sriov_cni.core.values import LINK_STATES, render_bind_commands
from ib_sriov_cni.node.contain import describe_fault, name_attachment
from ib_sriov_cni.node.inventory import BUSY, UNBOUND, UNMANAGED
from ib_sriov_cni.node.live_state import settled_differences
from ib_sriov_cni.node.read_inventory import read_inventory
from ipam.protocol.bounds import LOG_VALUE_BYTES, shorten
from ipam.protocol.result import Route
from ipam.protocol.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.comparison import Difference, DifferenceKind
    from ib_sriov_cni.core.record import AttachmentKey, Record
    from ib_sriov_cni.core.values import PciAddress
    from ib_sriov_cni.node.inventory import Attachment, Damaged, Inventory, VfEntry

# The kinds, in the order in which they are carried out: the owner is corrected before a dead attachment of the same VF
# is released, an interface is brought up before addresses are added, and addresses come before routes.
OWNER, DISOWN, RELEASE, LINK_STATE, UP, ADDRESS, ROUTE, BIND, STRAY_FILE = (
    *("owner", "disown", "release", "link-state", "up", "address", "route", "bind", "stray-file"),
)
ORDER = (OWNER, DISOWN, RELEASE, LINK_STATE, UP, ADDRESS, ROUTE, BIND, STRAY_FILE)
# Differences that can be repaired, and the kind of repair.
REPAIRABLE: dict[DifferenceKind, str] = {"link_state": LINK_STATE, "down": UP, "address": ADDRESS, "route": ROUTE}
HINTS: dict[DifferenceKind, str] = {
    "link_state": "set it on the PF: ip link set <PF> vf <index> state auto",
    "address": "delete the pod: the address is no longer reserved for it",
    "route": "delete the pod: the address that the route needs is no longer reserved for it",
    "owner": "two attachments claim this VF: delete the older pod",
    "vf": "delete the pod; was sriov_numvfs changed while it was running?",
    "driver": "delete the pod: binding the driver would take the VF away from it",
    "pf": "bring the PF's netdev back: is ib_ipoib loaded?",
    "config_guid": "delete the pod when possible: the VF takes a GUID only at a rebind",
    "interface": "delete the pod, or rename the interface back in the pod",
    "guid": "delete the pod",
    "mtu": "set it back in the pod: ip link set <interface> mtu <bytes>",
    "rdma": "delete the pod: its RDMA device was moved away",
    "reservation": "another pod may get the same address: delete this one",
}
ADDRESSES_BYTES = 400  # of the addresses in the words of a repair
KEEP_SECONDS = 7 * 86400.0  # how long a damaged record is kept, for people to look at


class Repair(Value):
    """One thing that can be repaired."""

    kind: str  # one of ORDER
    what: str  # what will be done
    why: str
    harmless: bool  # to the traffic of live pods
    pci: PciAddress | None  # the VF whose lock is taken; None for a stray file
    key: AttachmentKey | None  # the attachment that it is for
    pod: str  # that attachment's pod or container, for people
    about: object = None  # the address, the route, the file …


class Problem(Value):
    """One thing that is wrong and takes a person to repair."""

    kind: str
    what: str
    hint: str
    pci: PciAddress | None
    key: AttachmentKey | None
    pod: str


class RepairPlan(Value):
    """What can be repaired, in the order to do it, and what cannot."""

    repairs: tuple[Repair, ...]
    findings: tuple[Problem, ...]
    unseen: tuple[str, ...]  # what could not be read, and why


def plan_repairs(
    host: Host,
    inventory: Inventory | None = None,
    *,
    reservations: bool = True,
    keep_damaged: float = KEEP_SECONDS,
    now: float | None = None,
    progress: Callable[[], None] = lambda: None,
) -> RepairPlan:
    """Return what can be repaired and what is wrong beyond that. Changes nothing.

    What goes wrong with one attachment, VF or file is in `unseen`, and the others are planned. `inventory` is read if
    it is not given. `reservations`: ask the IPAM plugins too, which may mean executing them. `keep_damaged`: how many
    seconds a damaged record is kept. `now`: Unix time, by default the clock's. `progress` is called before each
    attachment: reading one that its pod has filled may take seconds.
    """
    inventory = inventory or read_inventory(host)
    now = time.time() if now is None else now
    repairs: list[Repair] = []
    findings: list[Problem] = []
    unseen = list(inventory.unseen)
    for attachment in inventory.attachments:
        progress()
        try:
            _sort_attachment(host, attachment, inventory, repairs, findings, reservations=reservations)
        except Exception as fault:  # noqa: BLE001  # see node/contain.py
            unseen.append(f"{name_attachment(attachment.record)}: {describe_fault(fault)}")
    for vf in inventory.vfs:
        try:
            _sort_vf(host, vf, repairs, findings)
        except Exception as fault:  # noqa: BLE001  # see node/contain.py
            unseen.append(f"VF {vf.pci}: {describe_fault(fault)}")
    for damaged in inventory.damaged:
        try:
            _sort_damaged(damaged, inventory, now - keep_damaged, repairs, findings)
        except Exception as fault:  # noqa: BLE001  # see node/contain.py
            unseen.append(f"{damaged.path}: {describe_fault(fault)}")
    repairs.sort(key=lambda repair: ORDER.index(repair.kind))
    return RepairPlan(repairs=tuple(repairs), findings=tuple(findings), unseen=tuple(dict.fromkeys(unseen)))


def _sort_attachment(
    host: Host,
    attachment: Attachment,
    inventory: Inventory,
    repairs: list[Repair],
    findings: list[Problem],
    *,
    reservations: bool,
) -> None:
    """Add what is wrong with an attachment: that it is dead, or its differences from its record."""
    if attachment.busy or attachment.alive is None:
        return  # a call is working on it, or its state could not be read
    if not attachment.alive:
        repairs.append(_release(attachment))
        return
    faults = settled_differences(host, attachment.record, reservation=reservations, read=inventory.read_config)
    if faults is None:
        return
    kinds = frozenset([fault.kind for fault in faults])
    for fault in faults:
        _sort_difference(attachment, fault, kinds, inventory, repairs, findings)


def _release(attachment: Attachment) -> Repair:
    record = attachment.record
    return Repair(
        kind=RELEASE,
        what=f"release {_describe_release(attachment)}",
        why=attachment.why,
        harmless=True,
        pci=record.pci,
        key=record.key,
        pod=attachment.name,
    )


def _describe_release(attachment: Attachment) -> str:
    addresses = f" and {shorten(', '.join(attachment.addresses), ADDRESSES_BYTES)}" if attachment.addresses else ""
    return f"VF {attachment.record.pci}{addresses}" if attachment.owner else f"the record{addresses}"


def _sort_difference(
    attachment: Attachment,
    fault: Difference,
    kinds: frozenset[DifferenceKind],
    inventory: Inventory,
    repairs: list[Repair],
    findings: list[Problem],
) -> None:
    """Add one difference of a live attachment to the repairs if it can be repaired, else to the findings."""
    record = attachment.record
    kind = REPAIRABLE.get(fault.kind, "")
    if "reservation" in kinds and (kind == ADDRESS or (kind == ROUTE and ADDRESS in kinds)):
        kind = ""  # another pod may have the address by now, and without it the gateway is unreachable
    if kind == LINK_STATE and fault.about not in LINK_STATES:
        kind = ""  # the PF did not say what it was before the ADD
    if fault.kind == OWNER and not _has_live_rival(attachment, inventory):
        kind = OWNER
    if not kind:
        findings.append(
            Problem(
                kind=fault.kind,
                what=shorten(str(fault), LOG_VALUE_BYTES),
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
            what=_describe(kind, record, fault.about),
            why=shorten(str(fault), LOG_VALUE_BYTES),
            harmless=not (kind == LINK_STATE and fault.about == "disable"),
            pci=record.pci,
            key=record.key,
            pod=attachment.name,
            about=fault.about,
        )
    )


def _describe(kind: str, record: Record, about: object) -> str:
    if kind == LINK_STATE:
        return f"set the link state of VF {record.pci} to {about} on its PF"
    if kind == UP:
        return f"bring up interface {about} in the pod"
    if kind == ADDRESS:
        return f"add address {about} to {record.key.ifname} in the pod"
    if kind == ROUTE and isinstance(about, Route):
        return f"add route {about.dst} via {about.gw or 'link'} on {record.key.ifname} in the pod"
    return f"make it the owner of VF {record.pci}"


def _has_live_rival(attachment: Attachment, inventory: Inventory) -> bool:
    pci = attachment.record.pci
    return any(
        other.record.pci == pci and other.key != attachment.key and other.alive is not False
        for other in inventory.attachments
    )


def _sort_vf(host: Host, vf: VfEntry, repairs: list[Repair], findings: list[Problem]) -> None:
    """Add what is wrong with a VF apart from its attachment: an owner without record, no driver, unknown namespace."""
    pci = vf.pci
    if vf.state == BUSY:
        return
    owner = host.ownership.read_owner(pci)
    lost = owner is not None and (vf.attachment is None or owner != vf.attachment.key)
    if lost and owner is not None and not is_recorded(host, owner) and vf.state != UNMANAGED and not _is_live(vf):
        repairs.append(
            Repair(
                kind=DISOWN,
                what=f"remove the owner entry of VF {pci}",
                why=f"its owner {owner.path} has no record",
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
                what=f"VF {pci} is in another network namespace, and no record says whose it is",
                hint="end what uses it; or rebind it, which takes it away from there: echo "
                f"{pci} > /sys/bus/pci/drivers/{vf.function.driver}/unbind; "
                + render_bind_commands(pci, vf.function.driver),
                pci=pci,
                key=None,
                pod="",
            )
        )


def _is_live(vf: VfEntry) -> bool:
    return vf.attachment is not None and vf.attachment.alive is not False


def is_recorded(host: Host, key: AttachmentKey) -> bool:
    """Return whether the attachment has a record; a damaged or unreadable one counts."""
    try:
        return host.records.inspect(key) is not None
    except Exception:  # noqa: BLE001  # there is a file, whatever is wrong with it
        return True


def _why_not_bind(host: Host, vf: VfEntry) -> str:
    """Return why the VF must not be bound to its PF's driver, "" if it may be: somebody may want it without one."""
    driver, override = vf.function.pf_driver, host.sysfs.read_override(vf.pci)
    if vf.function.pf is None:
        return f"bind it: echo {vf.pci} > /sys/bus/pci/drivers_probe"
    if not driver:
        return f"its PF {vf.function.pf} has no driver either: load the driver of the HCA"
    if host.sysfs.is_bindable(vf.pci, driver):
        return ""
    reason = f"driver_override says {override}" if override else "sriov_drivers_autoprobe of its PF is 0"
    return f"{reason}, so it is left alone; to bind it to {driver}: {render_bind_commands(vf.pci, driver)}"


def _sort_damaged(
    damaged: Damaged, inventory: Inventory, before: float, repairs: list[Repair], findings: list[Problem]
) -> None:
    held = next((vf for vf in inventory.vfs if vf.pci == damaged.pci), None) if damaged.pci else None
    # If the VF is still in another namespace, the file's name may be all that says whose it is.
    away = held is not None and held.state == UNMANAGED
    if damaged.since and damaged.since < before and not away:
        repairs.append(
            Repair(
                kind=STRAY_FILE,
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
                hint="the DEL of its pod releases only the addresses; " + _damaged_hint(damaged, away=away),
                pci=damaged.pci,
                key=damaged.key,
                pod=damaged.key.container_id if damaged.key else "",
            )
        )


def _damaged_hint(damaged: Damaged, *, away: bool) -> str:
    if away:
        return f"VF {damaged.pci} returns to the host when that pod's namespace ends"
    return "the file is kept for a week so that you can look at it, then repair removes it"
