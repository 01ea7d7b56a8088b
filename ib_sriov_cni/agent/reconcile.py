"""One pass over the node: look, tell, release what is dead, repair what can be repaired.

Everything that is done is done under the VF's lock, after looking again, by the code that DEL, GC and `ib-sriov repair`
run; a pass that is killed anywhere leaves what they can finish. A lock that somebody holds is not waited for.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeVar

from ib_sriov_cni.agent.cri import list_pods
from ib_sriov_cni.agent.judge import ADDING, DEAD, LIVE, Processes, Verdict, Witness, judge
from ib_sriov_cni.agent.kube import Events, PodRef
from ib_sriov_cni.agent.leases import unreserved
from ib_sriov_cni.agent.metrics import Metrics
from ib_sriov_cni.agent.samples import facts_of
from ib_sriov_cni.agent.watch import Watch
from ib_sriov_cni.attach.host import Host
from ib_sriov_cni.attach.release import release_recorded
from ib_sriov_cni.core.errors import CniError, TryAgainLater
from ib_sriov_cni.core.faults import FaultCollector
from ib_sriov_cni.core.record import AttachmentKey, Record
from ib_sriov_cni.node import repair as repairs
from ib_sriov_cni.node.apply_repair import apply_repair
from ib_sriov_cni.node.inventory import Inventory
from ib_sriov_cni.node.read_inventory import read_inventory
from ib_sriov_cni.node.repair import Repair, RepairPlan, plan_repairs
from ipam.protocol.request import parse_args

T = TypeVar("T")
Findings = dict[Hashable, tuple[AttachmentKey | None, str]]
"""What is wrong: a name for it, whose it is, and the words."""

SETTLE = 5.0  # seconds for which a difference must last: later plugins of a chain, or a person, may be at work
# What touches no traffic. That an interface is down in a pod may be the pod's own will, so it is only told.
MENDED = frozenset((repairs.OWNER, repairs.LINK_STATE, repairs.ADDRESS, repairs.ROUTE, repairs.LEFTOVER))


@dataclass(frozen=True, kw_only=True)
class Care:
    """What the agent may do."""

    grace: float  # seconds from the first sight of a dead attachment to its release
    mend: bool = True  # repair live ones
    cri_socket: str = ""  # of the runtime that is asked which pods there are; "": nobody is asked
    proc_root: str = "/proc"


class Reconciler:
    """The agent's work, pass by pass."""

    def __init__(
        self,
        host: Host,
        metrics: Metrics,
        events: Events,
        care: Care,
        *,
        stopping: Callable[[], bool] = lambda: False,
        alive: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`stopping` is asked before each act, `alive` told before and after it."""
        self._host, self._metrics, self._events, self._care = host, metrics, events, care
        self._stopping, self._alive, self._clock = stopping, alive, clock
        self._dead = Watch()
        self._amiss = Watch()
        self._told: set[Hashable] = set()  # findings that were reported, while they last
        self._faults: set[tuple[str, str]] = set()  # of this pass, by part and words
        self._faults_before: set[tuple[str, str]] = set()  # of the one before
        self._newest: dict[str, Record] = {}  # of each network ever seen, for its ranges
        self.status = ""

    def turn(self) -> float:
        """Make one pass; give the seconds until something is due, or infinity."""
        begun = self._clock()
        self._host.log.steps.clear()
        self._faults, self._faults_before = set(), self._faults
        try:
            inventory = self._try("inventory", lambda: read_inventory(self._host))
            due = float("inf")
            if inventory is not None:
                self._note_networks(inventory)
                verdicts = self._judge(inventory)
                acted, due = self._act(inventory, verdicts)
                if acted:
                    inventory = self._try("inventory", lambda: read_inventory(self._host)) or inventory
                    verdicts = self._judge(inventory)
                self._show(inventory, verdicts)
            return max(0.0, due - self._clock())
        finally:
            self._metrics.pass_seconds.observe(self._clock() - begun)
            self._metrics.last_pass.set(time.time())

    # ---- looking

    def _judge(self, inventory: Inventory) -> dict[AttachmentKey, Verdict]:
        witness = self._witness()
        verdicts = {}
        for held in inventory.attachments:
            verdict = self._try("judge", lambda held=held: judge(self._host, held.record, witness))  # type: ignore[misc]  # bound per turn
            verdicts[held.key] = verdict or Verdict(state=ADDING, why="it could not be seen")
        return verdicts

    def _note_networks(self, inventory: Inventory) -> None:
        """Remember each network's newest record: its ranges have figures also when its last attachment has gone."""
        for held in inventory.attachments:
            known = self._newest.get(held.key.network)
            if known is None or known.since <= held.record.since:
                self._newest[held.key.network] = held.record

    def _witness(self) -> Witness:
        pods = self._try("cri", lambda: list_pods(self._care.cri_socket)) if self._care.cri_socket else None
        return Witness(processes=Processes(self._care.proc_root), pods=pods)

    def _show(self, inventory: Inventory, verdicts: dict[AttachmentKey, Verdict]) -> None:
        differing = {key for kind, key in self._told_keys() if kind == "differs"}
        samples = self._try("metrics", lambda: facts_of(self._host, inventory, verdicts, self._newest, differing))
        if samples is not None:
            self._metrics.show(samples)
        counts = [sum(verdict.state == state for verdict in verdicts.values()) for state in (LIVE, DEAD)]
        self.status = f"{counts[0]} live attachments, {counts[1]} dead, {len(differing)} not as they should be"

    def _told_keys(self) -> list[tuple[str, AttachmentKey]]:
        return [
            (thing[0], thing[1])
            for thing in self._told
            if isinstance(thing, tuple) and isinstance(thing[1], AttachmentKey)
        ]

    # ---- acting

    def _act(self, inventory: Inventory, verdicts: dict[AttachmentKey, Verdict]) -> tuple[bool, float]:
        """Do what is due; tell whether anything was done, and when the next thing will be due."""
        now = self._clock()
        dead = [held.record for held in inventory.attachments if verdicts[held.key].state == DEAD]
        grace = {key: max(self._care.grace, verdict.grace) for key, verdict in verdicts.items()}
        plan = self._try("plan", lambda: plan_repairs(self._host, inventory, reservations=False))
        planned = self._ours(plan, verdicts) if plan else []
        orphans = [each for each in plan.repairs if each.kind == repairs.DISOWN] if plan else []
        self._dead.see([*map(_identity, dead), *map(_thing, orphans)], now)
        self._amiss.see(map(_thing, planned), now)
        findings = self._findings(inventory, verdicts, plan, planned)
        self._report(findings)
        acts: list[tuple[float, Callable[[], bool]]] = [
            (self._dead.due(_identity(record), grace[record.key]), lambda record=record: self._release(record))  # type: ignore[misc]  # bound per turn
            for record in dead
        ]
        acts += [
            (self._dead.due(_thing(each), self._care.grace), lambda each=each: self._repair(each, self._dead))  # type: ignore[misc]  # as above
            for each in orphans
        ]
        acts += [
            (self._amiss.due(_thing(each), SETTLE), lambda each=each: self._repair(each, self._amiss))  # type: ignore[misc]  # as above
            for each in planned
            if not self._amiss.is_undone_again(_thing(each), now)
        ]
        acted = False
        later = float("inf")
        for due, act in acts:
            if due > self._clock():
                later = min(later, due)
            elif not self._stopping():
                self._alive()
                acted = bool(self._try("act", act)) or acted
                self._alive()
        return acted, later

    def _ours(self, plan: RepairPlan, verdicts: dict[AttachmentKey, Verdict]) -> list[Repair]:
        """Choose what the agent does without being asked."""
        down = {each.key for each in plan.repairs if each.kind == repairs.UP}  # it takes no route
        ours = [each for each in plan.repairs if self._is_ours(each, verdicts)]
        return [each for each in ours if not (each.kind == repairs.ROUTE and each.key in down)]

    def _is_ours(self, repair: Repair, verdicts: dict[AttachmentKey, Verdict]) -> bool:
        if not self._care.mend or repair.kind not in MENDED or not repair.harmless:
            return False
        return repair.key is None or repair.key not in verdicts or verdicts[repair.key].state == LIVE

    def _release(self, seen: Record) -> bool:
        """Release a dead attachment, if it still is the one that was seen, and still dead."""
        host, key = self._host, seen.key
        now = self._clock()
        try:
            lock = host.locks.take(seen.pci, key.holder, 0)
        except TryAgainLater:
            return False  # somebody is at work on the VF
        try:
            with lock:
                why = self._release_locked(seen)
        except CniError as fault:
            self._dead.fail(_identity(seen), now)
            self._metrics.release_failures.labels(str(fault.code)).inc()
            host.log.warning("releasing failed, trying again later", attachment=key.path, error=fault)
            words = f"releasing VF {seen.pci} failed: {fault}"
            self._post(record_pod(seen), "InfiniBandReleaseFailed", words, bad=True)
            return True  # some of it may be done
        if not why:
            return False
        self._metrics.releases.labels(key.network).inc()
        words = f"VF {seen.pci} of network {key.network} ({key.ifname}) was released: {why}, and no DEL came"
        self._post(record_pod(seen), "InfiniBandReleased", words)
        return True

    def _release_locked(self, seen: Record) -> str:
        """Release it under its VF's lock; gives why it was dead, empty if it is not, or not there any more."""
        record = self._host.records.read(seen.key)
        if record is None or _identity(record) != _identity(seen):
            return ""
        verdict = judge(self._host, record, self._witness(), locked=True)
        if verdict.state != DEAD:
            return ""
        path = record.key.path
        with self._host.log.step("release", attachment=path, pod=record.pod, why=verdict.why, vf=record.pci):
            collector = FaultCollector()
            release_recorded(self._host, record, collector)
            collector.raise_faults()
        return verdict.why

    def _repair(self, repair: Repair, watch: Watch) -> bool:
        now = self._clock()
        thing = _thing(repair)
        pod = self._pod_of(repair.key)
        try:
            done = apply_repair(self._host, repair, lock_timeout=0)
        except TryAgainLater:
            return False
        except CniError as fault:
            watch.fail(thing, now)
            self._metrics.repair_failures.labels(repair.kind, str(fault.code)).inc()
            self._host.log.warning("repair failed, trying again later", what=repair.what, error=fault)
            self._post(pod, "InfiniBandRepairFailed", f"{repair.what}: {fault}", bad=True)
            return False
        if not done:
            watch.fail(thing, now)  # its reason is gone, or nothing may be done: not worth a try each pass
            return False
        watch.succeed(thing, now)
        self._metrics.repairs.labels(repair.kind).inc()
        self._host.log.info("repaired", what=repair.what, why=repair.why, pod=repair.pod)
        self._post(pod, "InfiniBandRepaired", f"{repair.why}: {repair.what}")
        if watch.is_undone_again(thing, now):
            self._host.log.warning("something undoes this again and again: left as it is for an hour", what=repair.what)
        return True

    # ---- telling

    def _findings(
        self,
        inventory: Inventory,
        verdicts: dict[AttachmentKey, Verdict],
        plan: RepairPlan | None,
        planned: list[Repair],
    ) -> Findings:
        """Give what is wrong and will not be put right by us."""
        found = self._unreserved(inventory, verdicts)
        for key, verdict in verdicts.items():
            if verdict.state not in (LIVE, DEAD, ADDING):
                found["hidden", key] = (key, f"{verdict.why}: left alone; does the agent see the host's namespaces?")
        if plan is None:
            return found
        for text in plan.unseen:
            found["unseen", None, text] = (None, f"not seen: {text}")
        for finding in plan.findings:
            found["differs", finding.key, finding.what] = (finding.key, f"{finding.what}; {finding.hint}")
        now = self._clock()
        for repair in plan.repairs:
            if repair.kind in (repairs.RELEASE, repairs.DISOWN):
                # Dead for DEL and GC: its VF is at home, say. The agent lets a living namespace be.
                if repair.key and verdicts.get(repair.key, Verdict(state=DEAD)).state == LIVE:
                    found["differs", repair.key, repair.why] = (repair.key, f"{repair.why}; delete the pod")
            elif repair not in planned or self._amiss.is_undone_again(_thing(repair), now):
                found["differs", repair.key, repair.why] = (repair.key, f"{repair.why}; ib-sriov repair: {repair.what}")
        pods = {held.key for held in inventory.attachments}
        return {name: (key if key in pods else None, words) for name, (key, words) in found.items()}

    def _unreserved(self, inventory: Inventory, verdicts: dict[AttachmentKey, Verdict]) -> Findings:
        found: Findings = {}
        for held in inventory.attachments:
            if verdicts[held.key].state == LIVE:
                for address in self._try("leases", lambda held=held: unreserved(held.record)) or []:  # type: ignore[misc]  # bound per turn
                    words = f"address {address} is not reserved for it: another pod may get it; delete this one"
                    found["differs", held.key, address] = (held.key, words)
        return found

    def _report(self, findings: Findings) -> None:
        """Tell each once, and again only after it was gone."""
        for name, (key, words) in findings.items():
            if name not in self._told:
                self._host.log.warning("not as it should be", attachment=key.path if key else "", what=words)
                self._post(self._pod_of(key), "InfiniBandDiffers", words, bad=True)
        self._told = set(findings)

    def _pod_of(self, key: AttachmentKey | None) -> PodRef | None:
        record = self._try("records", lambda: self._host.records.read(key)) if key else None
        return record_pod(record) if record else None

    def _post(self, pod: PodRef | None, reason: str, words: str, *, bad: bool = False) -> None:
        if pod is not None:
            self._events.post(pod, reason=reason, message=words, warning=bad)

    def _try(self, part: str, act: Callable[[], T]) -> T | None:
        """Do a part of the pass; its fault is told and counted, and keeps the others from nothing."""
        try:
            return act()
        except (CniError, OSError) as fault:
            self._complain(part, fault)
        except Exception as fault:  # noqa: BLE001  # a defect in one part must not stop the healing of the rest
            self._complain(part, fault, traceback="".join(traceback.format_exception(fault)))
        return None

    def _complain(self, part: str, fault: Exception, **more: str) -> None:
        """Count a fault, and tell it once while it lasts."""
        self._metrics.errors.labels(part).inc()
        told = (part, str(fault))
        if told not in self._faults and told not in self._faults_before:
            self._host.log.error("a part of the pass failed", part=part, error=fault, **more)
        self._faults.add(told)


def record_pod(record: Record) -> PodRef | None:
    """Give the pod of an attachment, None where CNI_ARGS named none."""
    namespace, slash, name = record.pod.partition("/")
    if not (slash and namespace and name):
        return None
    uid = parse_args(record.args, frozenset(), lenient=True).get("K8S_POD_UID", "")
    return PodRef(namespace=namespace, name=name, uid=uid)


def _identity(record: Record) -> Hashable:
    """One attachment, told from a later one of the same name."""
    return record.key, record.since, record.pci


def _thing(repair: Repair) -> Hashable:
    return repair.kind, repair.pci, repair.key, str(repair.about)
