"""One pass over the node: read it, report, release dead attachments, repair live ones.

Every change is made under the VF's lock, after reading the state again, by the code of DEL, GC and `ib-sriov repair`.
If a pass is killed, they can finish what it began. A lock that is held is not waited for. What goes wrong with one
attachment, whatever it is, is logged in one line (`_log_fault`), and the pass goes on with the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from ib_sriov_cni.agent.cri import list_pods
from ib_sriov_cni.agent.kube import Events, PodRef
from ib_sriov_cni.agent.leases import read_unreserved
from ib_sriov_cni.agent.liveness import ADDING, Verdict, Witness, judge
from ib_sriov_cni.agent.metrics import Metrics, label
from ib_sriov_cni.agent.pass_memory import Watch
from ib_sriov_cni.agent.samples import read_samples
from ib_sriov_cni.attach.host import Host
from ib_sriov_cni.attach.liveness import DEAD, LIVE
from ib_sriov_cni.attach.release import release_recorded
from ib_sriov_cni.core.errors import CniError, TryAgainLater
from ib_sriov_cni.core.fault_collector import FaultCollector
from ib_sriov_cni.core.record import AttachmentKey, Record
from ib_sriov_cni.node import plan_repair as repairs
from ib_sriov_cni.node.apply_repair import apply_repair
from ib_sriov_cni.node.contain import describe_fault, make_error
from ib_sriov_cni.node.inventory import Inventory
from ib_sriov_cni.node.live_state import is_changing
from ib_sriov_cni.node.plan_repair import Repair, RepairPlan, plan_repairs
from ib_sriov_cni.node.read_inventory import read_inventory
from ipam.protocol.bounds import LOG_VALUE_BYTES, shorten
from ipam.protocol.request import parse_args

T = TypeVar("T")
Findings = dict[Hashable, tuple[AttachmentKey | None, str]]
"""Findings by an identity; each has the attachment (None for the node) and a description."""

RUNTIME_PAUSE, RUNTIME_PAUSE_MAX = 5.0, 120.0  # seconds without asking a runtime that gave no answer; doubled each time
SETTLE = 5.0  # seconds for which a difference must last: a later plugin of the chain or a person may be working on it
REPORTS_MAX, REPORTS_WINDOW = 30, 3600.0  # so many findings about one attachment within so many seconds
# Repairs that disturb no traffic. A pod may have set its interface down on purpose, so that is only reported.
REBIND_SECONDS = 5.0  # to wait while other VFs are rebound
AUTOMATIC = frozenset((repairs.OWNER, repairs.LINK_STATE, repairs.ADDRESS, repairs.ROUTE, repairs.STRAY_FILE))


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What the agent may do."""

    grace: float  # seconds from first seeing an attachment dead to its release
    repair: bool = True  # repair live attachments
    cri_socket: str = ""  # of the runtime to ask for its pods; "": none


class Reconciler:
    """Runs passes; `status` is a summary of the last one."""

    def __init__(
        self,
        host: Host,
        metrics: Metrics,
        events: Events,
        policy: Policy,
        *,
        stopping: Callable[[], bool] = lambda: False,
        heartbeat: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`stopping` is called before each action, `heartbeat` before and after it."""
        self._host, self._metrics, self._events, self._policy = host, metrics, events, policy
        self._stopping, self._heartbeat, self._clock = stopping, heartbeat, clock
        self._dead = Watch()
        self._differing = Watch()
        self._found = Watch()
        self._reported: set[Hashable] = set()  # findings that were reported and still exist
        self._reports: dict[Hashable, list[float]] = {}  # attachment: when findings about it were reported
        self._faults: set[tuple[str, str]] = set()  # of this pass: part and message
        self._previous_faults: set[tuple[str, str]] = set()  # of the last pass
        self._newest: dict[str, Record] = {}  # the newest record of each network ever seen, for its ranges
        self._runtime_pause, self._runtime_due = 0.0, float("-inf")  # when the runtime is asked again
        self.status = ""

    def run_pass(self) -> float:
        """Make one pass. Returns the seconds until an action is due, or infinity. Raises nothing."""
        begun = self._clock()
        self._host.log.steps.clear()
        self._faults, self._previous_faults = set(), self._faults
        try:
            due = self._try("pass", self._run_parts)
            return float("inf") if due is None else max(0.0, due - self._clock())
        finally:
            self._metrics.pass_seconds.observe(self._clock() - begun)
            self._metrics.last_pass.set(time.time())

    def _run_parts(self) -> float:
        """Make one pass. Returns when an action is due."""
        inventory = self._try("inventory", lambda: read_inventory(self._host))
        if inventory is None:
            return float("inf")
        self._note_networks(inventory)
        verdicts = self._judge(inventory)
        acted, due = self._act(inventory, verdicts)
        if acted:
            inventory = self._try("inventory", lambda: read_inventory(self._host)) or inventory
            verdicts = self._judge(inventory)
        self._publish(inventory, verdicts)
        return due

    # ---- Reading

    def _judge(self, inventory: Inventory) -> dict[AttachmentKey, Verdict]:
        witness = self._read_witness()
        verdicts = {}
        for held in inventory.attachments:
            self._heartbeat()
            verdict = self._try("judge", partial(judge, self._host, held.record, witness), held.key.path)
            verdicts[held.key] = verdict or Verdict(state=ADDING, why="it could not be read")
        return verdicts

    def _note_networks(self, inventory: Inventory) -> None:
        """Remember each network's newest record: its ranges are exported even after its last attachment is gone."""
        for held in inventory.attachments:
            known = self._newest.get(held.key.network)
            if known is None or known.since <= held.record.since:
                self._newest[held.key.network] = held.record

    def _read_witness(self) -> Witness:
        return Witness(processes=self._host.processes, pods=self._read_pods())

    def _read_pods(self) -> frozenset[str] | None:
        """Return the runtime's list; None without a runtime, without an answer, and for a while after a failure."""
        if not self._policy.cri_socket:
            return None
        if self._clock() < self._runtime_due:
            self._faults |= {seen for seen in self._previous_faults if seen[0] == "cri"}  # they last
            return None
        pods = self._try("cri", lambda: list_pods(self._policy.cri_socket))
        self._runtime_pause = (
            0.0 if pods is not None else min(self._runtime_pause * 2 or RUNTIME_PAUSE, RUNTIME_PAUSE_MAX)
        )
        self._runtime_due = self._clock() + self._runtime_pause
        return pods

    def _publish(self, inventory: Inventory, verdicts: dict[AttachmentKey, Verdict]) -> None:
        differing = {key for kind, key in self._reported_attachments() if kind == "differs"}
        samples = self._try(
            "metrics",
            lambda: read_samples(
                self._host, inventory, verdicts, self._newest, differing, on_fault=partial(self._log_fault, "metrics")
            ),
        )
        if samples is not None:
            self._metrics.publish(samples)
        counts = [sum(verdict.state == state for verdict in verdicts.values()) for state in (LIVE, DEAD)]
        self.status = f"{counts[0]} live attachments, {counts[1]} dead, {len(differing)} that differ from their ADD"

    def _reported_attachments(self) -> list[tuple[str, AttachmentKey]]:
        return [
            (thing[0], thing[1])
            for thing in self._reported
            if isinstance(thing, tuple) and isinstance(thing[1], AttachmentKey)
        ]

    # ---- Acting

    def _act(self, inventory: Inventory, verdicts: dict[AttachmentKey, Verdict]) -> tuple[bool, float]:
        """Do what is due. Returns whether anything was done, and when the next action is due."""
        now = self._clock()
        dead = [held.record for held in inventory.attachments if verdicts[held.key].state == DEAD]
        grace = {key: max(self._policy.grace, verdict.grace) for key, verdict in verdicts.items()}
        plan = self._try(
            "plan", lambda: plan_repairs(self._host, inventory, reservations=False, progress=self._heartbeat)
        )
        planned = self._choose_repairs(plan, verdicts) if plan else []
        orphans = [each for each in plan.repairs if each.kind == repairs.DISOWN] if plan else []
        self._dead.see([*map(_attachment_identity, dead), *map(_repair_identity, orphans)], now)
        self._differing.see(map(_repair_identity, planned), now)
        found = self._try("findings", lambda: self._findings(inventory, verdicts, plan, planned))
        told = self._try("findings", lambda: self._settle(found, inventory)) if found is not None else None
        if told is not None:
            self._report(told[0])
        actions: list[tuple[float, Callable[[], bool]]] = [
            (self._dead.due(_attachment_identity(record), grace[record.key]), partial(self._release, record))
            for record in dead
        ]
        actions += [
            (self._dead.due(_repair_identity(each), self._policy.grace), partial(self._repair, each, self._dead))
            for each in orphans
        ]
        actions += [
            (self._differing.due(_repair_identity(each), SETTLE), partial(self._repair, each, self._differing))
            for each in planned
            if not self._differing.is_undone_repeatedly(_repair_identity(each), now)
        ]
        acted = False
        later = told[1] if told is not None else float("inf")
        for due, action in actions:
            if due > self._clock():
                later = min(later, due)
            elif not self._stopping():
                self._heartbeat()
                acted = bool(self._try("act", action)) or acted
                self._heartbeat()
        return acted, later

    def _choose_repairs(self, plan: RepairPlan, verdicts: dict[AttachmentKey, Verdict]) -> list[Repair]:
        """Return the repairs that the agent makes unasked."""
        down = {each.key for each in plan.repairs if each.kind == repairs.UP}  # it accepts no route
        chosen = [each for each in plan.repairs if self._is_automatic(each, verdicts)]
        return [each for each in chosen if not (each.kind == repairs.ROUTE and each.key in down)]

    def _is_automatic(self, repair: Repair, verdicts: dict[AttachmentKey, Verdict]) -> bool:
        if not self._policy.repair or repair.kind not in AUTOMATIC or not repair.harmless:
            return False
        return repair.key is None or repair.key not in verdicts or verdicts[repair.key].state == LIVE

    def _release(self, seen: Record) -> bool:
        """Release a dead attachment if it is still there and still dead. Returns whether anything was done."""
        host, key = self._host, seen.key
        now = self._clock()
        try:
            lock = host.locks.take(seen.pci, key.holder, 0)
        except TryAgainLater:
            return False  # another call is working on the VF
        try:
            with lock:
                why = self._release_locked(seen)
        except Exception as fault:  # noqa: BLE001  # see node/contain.py
            self._dead.fail(_attachment_identity(seen), now)
            self._metrics.release_failures.labels(str(make_error(fault).code)).inc()
            words = describe_fault(fault)
            host.log.warning("release failed, will be retried", attachment=key.path, error=words)
            message = f"releasing VF {seen.pci} failed: {words}"
            self._post(record_pod(seen), "InfiniBandReleaseFailed", message, is_warning=True)
            return True  # part of it may be done
        if not why:
            return False
        self._metrics.releases.labels(label(key.network)).inc()
        message = f"VF {seen.pci} of network {key.network} ({key.ifname}) was released: {why}, and there was no DEL"
        self._post(record_pod(seen), "InfiniBandReleased", message)
        return True

    def _release_locked(self, seen: Record) -> str:
        """Release it under its VF's lock. Returns why it was dead, or "" if it is alive or replaced by now."""
        record = self._host.records.read(seen.key)
        if record is None or _attachment_identity(record) != _attachment_identity(seen):
            return ""
        verdict = judge(self._host, record, self._read_witness(), locked=True)
        if verdict.state != DEAD:
            return ""
        path = record.key.path
        with self._host.log.step("release", attachment=path, pod=record.pod, why=verdict.why, vf=record.pci):
            collector = FaultCollector()
            release_recorded(self._host, record, REBIND_SECONDS, collector)
            collector.raise_faults()
        return verdict.why

    def _repair(self, repair: Repair, watch: Watch) -> bool:
        now = self._clock()
        thing = _repair_identity(repair)
        pod = self._read_pod(repair.key)
        try:
            done = apply_repair(self._host, repair, lock_timeout=0)
        except TryAgainLater:
            return False
        except CniError as fault:
            watch.fail(thing, now)
            self._metrics.repair_failures.labels(repair.kind, str(fault.code)).inc()
            words = describe_fault(fault)
            self._host.log.warning("repair failed, will be retried", what=repair.what, error=words)
            self._post(pod, "InfiniBandRepairFailed", f"{repair.what}: {words}", is_warning=True)
            return False
        if not done:
            watch.fail(thing, now)  # its reason is gone, or it is not possible: do not try in every pass
            return False
        watch.succeed(thing, now)
        self._metrics.repairs.labels(repair.kind).inc()
        self._host.log.info("repaired", what=repair.what, why=repair.why, pod=repair.pod)
        self._post(pod, "InfiniBandRepaired", f"{repair.why}: {repair.what}")
        if watch.is_undone_repeatedly(thing, now):
            self._host.log.warning("something undoes this again and again; not repaired for an hour", what=repair.what)
        return True

    # ---- Reporting

    def _findings(
        self,
        inventory: Inventory,
        verdicts: dict[AttachmentKey, Verdict],
        plan: RepairPlan | None,
        planned: list[Repair],
    ) -> Findings:
        """Return what is wrong and will not be repaired by the agent."""
        found = self._unreserved(inventory, verdicts)
        for key, verdict in verdicts.items():
            if verdict.state not in (LIVE, DEAD, ADDING):
                found["hidden", key] = (key, f"{verdict.why}; not released; can the agent see the host's namespaces?")
        if plan is None:
            return found
        for text in plan.unseen:
            # By what could not be read, not by the reason: a pod may change that all the time.
            found["unseen", None, text.partition(": ")[0]] = (None, f"could not be read: {text}")
        for finding in plan.findings:
            found["differs", finding.key, finding.what] = (finding.key, f"{finding.what}; {finding.hint}")
        now = self._clock()
        for repair in plan.repairs:
            if repair.kind in (repairs.RELEASE, repairs.DISOWN):
                # GC would release it, because its VF is in the host's namespace, say. The agent spares live pods.
                if repair.key and verdicts.get(repair.key, Verdict(state=DEAD)).state == LIVE:
                    found["differs", repair.key, repair.why] = (repair.key, f"{repair.why}; delete the pod")
            elif repair not in planned or self._differing.is_undone_repeatedly(_repair_identity(repair), now):
                found["differs", repair.key, repair.why] = (
                    repair.key,
                    f"{repair.why}; 'ib-sriov repair' would {repair.what}",
                )
        known = {held.key for held in inventory.attachments}
        return {name: (key if key in known else None, text) for name, (key, text) in found.items()}

    def _settle(self, found: Findings, inventory: Inventory) -> tuple[Findings, float]:
        """Return the findings that have lasted, and when the others will have.

        Record and world are read at different moments, so a DEL or an ADD in between looks like something wrong. What
        is reported was so in an earlier pass too, and no call is changing it.
        """
        now = self._clock()
        records = {held.key: held.record for held in inventory.attachments}
        still = {
            name: finding
            for name, finding in found.items()
            if finding[0] is None or not is_changing(self._host, records[finding[0]])
        }
        self._found.see(map(_finding_identity, still.items()), now)
        due = {item[0]: self._found.due(_finding_identity(item), SETTLE) for item in still.items()}
        told = {name: finding for name, finding in still.items() if due[name] <= now}
        return told, min([time for time in due.values() if time > now], default=float("inf"))

    def _unreserved(self, inventory: Inventory, verdicts: dict[AttachmentKey, Verdict]) -> Findings:
        found: Findings = {}
        for held in inventory.attachments:
            if verdicts[held.key].state == LIVE:
                for address in self._try("leases", partial(read_unreserved, held.record), held.key.path) or []:
                    text = f"address {address} is not reserved for it, so another pod may get it; delete this pod"
                    found["differs", held.key, address] = (held.key, text)
        return found

    def _report(self, findings: Findings) -> None:
        """Report each finding once, and again only if it was gone in between; not all of them if there are many."""
        now = self._clock()
        self._reports = {about: times for about, times in self._reports.items() if now - times[-1] < REPORTS_WINDOW}
        for name, (key, text) in findings.items():
            if name not in self._reported:
                about = name if key is None else key
                times = [time for time in self._reports.get(about, []) if now - time < REPORTS_WINDOW]
                if len(times) < REPORTS_MAX:
                    self._reports[about] = [*times, now]
                    self._report_finding(key, text, is_last=len(times) == REPORTS_MAX - 1)
        self._reported = set(findings)

    def _report_finding(self, key: AttachmentKey | None, text: str, *, is_last: bool) -> None:
        if is_last:
            text += "; further findings about it are not reported for up to an hour"
        self._host.log.warning("finding", attachment=key.path if key else "", what=shorten(text, LOG_VALUE_BYTES))
        self._post(self._read_pod(key), "InfiniBandDiffers", text, is_warning=True)

    def _read_pod(self, key: AttachmentKey | None) -> PodRef | None:
        return self._try("records", lambda: _pod_of(self._host.records.read(key)), key.path) if key else None

    def _post(self, pod: PodRef | None, reason: str, message: str, *, is_warning: bool = False) -> None:
        if pod is not None:
            self._events.post(pod, reason=reason, message=message, warning=is_warning)

    def _try(self, part: str, act: Callable[[], T], attachment: str = "") -> T | None:
        """Run a part of the pass, for one attachment perhaps, and return its result.

        A fault, whatever it is, is logged and counted, and gives None.
        """
        try:
            return act()
        except Exception as fault:  # noqa: BLE001  # a defect in one part must not stop the healing of the rest
            self._log_fault(part, attachment, fault)
        return None

    def _log_fault(self, part: str, attachment: str, fault: Exception) -> None:
        """Count a fault, and log it in one line, once while it lasts."""
        self._metrics.errors.labels(part).inc()
        words = describe_fault(fault)
        seen = (part, f"{attachment} {words}")
        if seen not in self._faults and seen not in self._previous_faults:
            self._host.log.error(
                "a part of the pass failed",
                part=part,
                attachment=attachment,
                error=words,
            )
        self._faults.add(seen)


def _pod_of(record: Record | None) -> PodRef | None:
    return record_pod(record) if record is not None else None


def record_pod(record: Record) -> PodRef | None:
    """Return the pod of an attachment; None if CNI_ARGS did not name one."""
    namespace, slash, name = record.pod.partition("/")
    if not (slash and namespace and name):
        return None
    uid = parse_args(record.args, frozenset(), lenient=True).get("K8S_POD_UID", "")
    return PodRef(namespace=namespace, name=name, uid=uid)


def _attachment_identity(record: Record) -> Hashable:
    """Return what distinguishes an attachment from a later one with the same key."""
    return record.key, record.since, record.pci


def _finding_identity(item: tuple[Hashable, tuple[AttachmentKey | None, str]]) -> Hashable:
    """Return what of a finding lasts: that something is wrong with an attachment, whose words may change."""
    name, (key, _) = item
    return name if key is None else key


def _repair_identity(repair: Repair) -> Hashable:
    return repair.kind, repair.pci, repair.key, str(repair.about)
