"""32 VFs of four HCAs under 500 random calls, eight at a time: ADD, DEL, CHECK, GC, and their deaths.

Pods have one interface or two, of two PFs; ask for a GUID or keep the VF's; are killed with -9 at trace points and at
moments of the clock; lose their namespace without a DEL, and get the DEL late, when their VF serves somebody else.
After each ADD the pod must have its own GUID and an address that no live pod has; at the end, with half of the pods
ended by DEL and the rest by GC, the host must be as before.

The seed is printed; LAB_SEED repeats the choices, as far as eight threads meet in the same order again. LAB_CALLS
names another number of calls.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.lab.cni import CniRun
from tests.lab.emulated_hca import NO_GUID, Hca
from tests.lab.pod import Pod
from tests.lab.rig import IPV4, LEASES, Rig, at_once, end, leases, rigs, steps_of

LOG = Path("/tmp/soak.log")
VFS, PFS, AT_ONCE = 8, 4, 8
CALLS = {"exclusive": int(os.environ.get("LAB_CALLS", "500")), "shared": int(os.environ.get("LAB_CALLS", "500")) // 4}


@dataclass(frozen=True)
class Place:
    """A VF."""

    hca: Hca
    vf: int
    pci: str


@dataclass(eq=False)
class Attachment:
    """An interface of a pod; `result` once its ADD has succeeded, None before and when a DEL has begun."""

    place: Place
    ifname: str
    conf: dict[str, Any]
    result: Any = None


@dataclass(eq=False)
class Tenant:
    """A pod and its interfaces."""

    pod: Pod
    attachments: list[Attachment]
    busy: bool = True

    @property
    def live(self) -> bool:
        return all(each.result for each in self.attachments)


@dataclass
class World:
    """What a runtime and a device plugin know; touched under `lock` alone."""

    free: list[Place]
    tenants: list[Tenant] = field(default_factory=list)
    ghosts: list[tuple[Pod, Attachment]] = field(default_factory=list)  # ended without DEL: their VFs are free again
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    calls: int = 0
    serial: int = 0
    seconds: float = 2.0  # what an ADD took lately
    lock: threading.Lock = field(default_factory=threading.Lock)


@pytest.fixture(scope="module", params=["exclusive", "shared"])
def loaded(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """VFs with GUIDs in one mode; in the other one they have none yet, and get derived ones."""
    yield from rigs(request.param, vfs=VFS, total_vfs=VFS, pfs=PFS, preset=request.param == "exclusive")


class Soak:
    def __init__(self, rig: Rig, seed: int, limit: int) -> None:
        self.rig, self.seed, self.limit = rig, seed, limit
        places = [Place(hca, vf, hca.pci(vf)) for hca in rig.hca.pfs for vf in range(VFS)]
        self.world = World(free=places)
        self.points: dict[str, list[str]] = {}

    # ---- calls

    def conf(self, place: Place, dice: random.Random) -> dict[str, Any]:
        with self.world.lock:
            self.world.serial += 1
            serial = self.world.serial
        guid = f"02:50:a4:00:00:00:{serial >> 8:02x}:{serial & 255:02x}" if dice.random() < 0.5 else None
        state = dice.choice([None, "enable", "auto"])
        isolation = self.rig.exclusive and dice.random() < 0.6
        more: dict[str, Any] = {"guid": guid, "link_state": state, "rdmaIsolation": isolation, "logFile": str(LOG)}
        # Two interfaces of one pod cannot have one route.
        more["ipam"] = {"type": "host-local", "ranges": IPV4["ranges"]}
        # A machine that has other work too may keep a guest's processes waiting for long.
        return self.rig.conf(None, deviceID=place.pci, portTimeout=90, lockTimeout=180, **more)

    def call(self, command: str, pod: Pod, conf: dict[str, Any], ifname: str, **kill: Any) -> CniRun:
        """One call; `point` kills it at a trace point, `moment` after so many seconds."""
        point, moment = kill.get("point"), kill.get("moment")
        process = self.rig.cni.start(command, pod, conf, ifname, {"IB_SRIOV_TRACE_POINT": point})
        if moment is not None:
            time.sleep(moment)  # the moment is the case, not a condition that could be awaited
            process.kill()
        found = end(process)
        died = found.status == -signal.SIGKILL
        with self.world.lock:
            self.world.calls += 1
            self.world.counts[command] += 1
            if point or moment is not None:
                self.world.counts["killed at a trace point" if point else "killed at a moment"] += died
        return found

    def kill(self, command: str, dice: random.Random) -> dict[str, Any]:
        """How a call is to die."""
        if dice.random() < 0.5:
            return {"point": f"{dice.choice(self.points[command])}{dice.choice(['', '.done'])}=kill"}
        return {"moment": dice.uniform(0, self.world.seconds)}

    # ---- what may happen

    def add(self, dice: random.Random) -> None:
        """A new pod, with one VF or with two of two PFs; some of its ADDs are killed."""
        places = self.take(dice)
        if not places:
            return
        pod = self.rig.pod("s")
        attachments = [
            Attachment(place, f"net{number}", self.conf(place, dice)) for number, place in enumerate(places, 1)
        ]
        tenant = Tenant(pod, attachments)
        with self.world.lock:
            self.world.tenants.append(tenant)
        try:
            for each in attachments:
                dies = dice.random() < 0.25
                begin = time.monotonic()
                found = self.call("ADD", pod, each.conf, each.ifname, **(self.kill("ADD", dice) if dies else {}))
                if dies and found.status == -signal.SIGKILL:
                    return
                assert found.status == 0, f"ADD: {found}"
                self.world.seconds = 0.8 * self.world.seconds + 0.2 * (time.monotonic() - begin)
                with self.world.lock:
                    each.result = found.out
                self.look_at(tenant, each)
        finally:
            tenant.busy = False

    def take(self, dice: random.Random) -> list[Place]:
        with self.world.lock:
            free = self.world.free
            if not free:
                return []
            first = free.pop(dice.randrange(len(free)))
            others = [place for place in free if place.hca is not first.hca]
            if dice.random() < 0.25 and others:
                second = dice.choice(others)
                free.remove(second)
                return [first, second]
            return [first]

    def look_at(self, tenant: Tenant, each: Attachment) -> None:
        """The pod has what the result says; GUID and address are its own."""
        link = tenant.pod.link(each.ifname)
        assert link is not None, f"{tenant.pod} has no {each.ifname}"
        (address,) = [ip["address"] for ip in each.result["ips"]]
        assert address in [f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"]], link
        guid = link["address"][-23:]
        facts = self.rig.before.facts
        had = facts[f"VF {each.place.vf} ({each.place.pci}) port GUID"]
        if each.conf.get("guid"):
            assert guid == each.conf["guid"], f"{tenant.pod}: GUID {guid}, asked for {each.conf['guid']}"
        elif had != NO_GUID:
            assert guid == had, f"{tenant.pod}: GUID {guid}, the VF's was {had}"
        lease = (LEASES / address.partition("/")[0]).read_bytes().decode()
        assert lease == f"{tenant.pod.container_id}\r\n{each.ifname}", f"lease of {address}: {lease!r}"
        with self.world.lock:
            live = [other for each_ in self.world.tenants for other in each_.attachments if other.result]
            macs = [other.result["interfaces"][0]["mac"][-23:] for other in live]
            addresses = [other.result["ips"][0]["address"] for other in live]
        assert len(set(addresses)) == len(addresses), f"an address twice: {sorted(addresses)}"
        assert len(set(macs)) == len(macs), f"a GUID twice: {sorted(macs)}"

    def check(self, tenant: Tenant, _dice: random.Random) -> None:
        for each in tenant.attachments:
            found = self.call("CHECK", tenant.pod, {**each.conf, "prevResult": each.result}, each.ifname)
            assert (found.status, found.stdout) == (0, ""), f"CHECK: {found}"

    def refuse(self, tenant: Tenant, dice: random.Random) -> None:
        """Somebody else's ADD of a VF in use, and its DEL, harm nobody."""
        thief, each = self.rig.pod("thief"), dice.choice(tenant.attachments)
        conf = self.conf(each.place, dice)
        found = self.call("ADD", thief, conf, "net1")
        assert found.code == 101, f"ADD of a VF in use: {found}"
        found = self.call("DEL", thief, conf, "net1")
        assert found.status == 0, f"DEL of a refused ADD: {found}"
        with self.world.lock:
            self.world.counts["refused"] += 1
        self.check(tenant, dice)

    def delete(self, tenant: Tenant, dice: random.Random) -> None:
        """DEL of all its interfaces, dead or alive; some DELs are killed and sent again, or never."""
        with self.world.lock:
            for each in tenant.attachments:
                each.result = None
        for each in list(tenant.attachments):
            if dice.random() < 0.25:
                found = self.call("DEL", tenant.pod, each.conf, each.ifname, **self.kill("DEL", dice))
                if found.status == -signal.SIGKILL and dice.random() < 0.3:
                    return self.end(tenant, dice)
            found = self.call("DEL", tenant.pod, each.conf, each.ifname)
            assert (found.status, found.stdout) == (0, ""), f"DEL: {found}"
            tenant.attachments.remove(each)
            with self.world.lock:
                self.world.free.append(each.place)
        tenant.pod.delete()
        with self.world.lock:
            self.world.tenants.remove(tenant)
        return None

    def end(self, tenant: Tenant, _dice: random.Random) -> None:
        """The namespace goes and no DEL comes: the device plugin gives its VFs to the next."""
        with self.world.lock:
            self.world.tenants.remove(tenant)
            self.world.counts["namespaces gone without DEL"] += 1
        tenant.pod.delete()
        with self.world.lock:
            for each in tenant.attachments:
                self.world.ghosts.append((tenant.pod, each))
                self.world.free.append(each.place)

    def late(self, dice: random.Random) -> None:
        """A DEL long after the namespace: its VF may serve another pod."""
        with self.world.lock:
            if not self.world.ghosts:
                return
            pod, each = self.world.ghosts.pop(dice.randrange(len(self.world.ghosts)))
            self.world.counts["late DEL"] += 1
        found = self.call("DEL", pod, each.conf, each.ifname)
        assert (found.status, found.stdout) == (0, ""), f"late DEL: {found}"

    def collect(self, dice: random.Random, *, everything: bool = False) -> None:
        """GC with the pods that the runtime knows at this moment; more may come while it works."""
        with self.world.lock:
            tenants = [] if everything else [(t.pod, a.ifname) for t in self.world.tenants for a in t.attachments]
        valid = [{"containerID": pod.container_id, "ifname": ifname} for pod, ifname in tenants]
        conf = self.rig.conf(None, logFile=str(LOG), **{"cni.dev/valid-attachments": valid})
        dies = not everything and dice.random() < 0.25
        found = self.call("GC", self.rig.pod("gc"), conf, "net1", **(self.kill("GC", dice) if dies else {}))
        assert found.status == 0 or (dies and found.status == -signal.SIGKILL), f"GC: {found}"

    # ---- the run

    @contextmanager
    def one(self, dice: random.Random) -> Iterator[Tenant | None]:
        """A tenant that nobody else is busy with."""
        with self.world.lock:
            idle = [tenant for tenant in self.world.tenants if not tenant.busy]
            tenant = dice.choice(idle) if idle else None
            if tenant:
                tenant.busy = True
        try:
            yield tenant
        finally:
            if tenant:
                tenant.busy = False

    def turn(self, dice: random.Random) -> None:
        chance = dice.random()
        if chance < 0.40:
            self.add(dice)
        elif chance < 0.45:
            self.late(dice)
        elif chance < 0.51:
            self.collect(dice)
        else:
            with self.one(dice) as tenant:
                if tenant is None:
                    return
                if not tenant.live:
                    dice.choice([self.delete, self.end])(tenant, dice)
                else:
                    acts = [self.delete] * 5 + [self.check] * 5 + [self.end] * 3 + [self.refuse]
                    dice.choice(acts)(tenant, dice)

    def work(self, number: int) -> None:
        dice = random.Random(f"{self.seed} {number}")
        while self.world.calls < self.limit and not self.world.faults:
            try:
                self.turn(dice)
            except Exception as fault:  # noqa: BLE001  the other threads have to hear of it
                words = str(fault).partition("\nassert ")[0].partition("\n  +")[0]
                with self.world.lock:
                    self.world.faults.append(f"{type(fault).__name__}: {words}")

    def learn_steps(self) -> None:
        """The steps at which calls can die, from the log of one of each."""
        LOG.unlink(missing_ok=True)
        dice, place = random.Random(self.seed), self.world.free[0]
        pod = self.rig.pod("first")
        conf = {**self.conf(place, dice), "guid": "02:50:a4:ff:00:00:00:01", "rdmaIsolation": self.rig.exclusive}
        assert self.call("ADD", pod, conf, "net1").status == 0
        assert self.call("DEL", pod, conf, "net1").status == 0
        assert self.call("ADD", pod, conf, "net1").status == 0
        pod.delete()
        self.collect(dice, everything=True)
        self.points = {command: steps_of(LOG.read_text(), command) for command in ("ADD", "DEL", "GC")}
        assert all(self.points.values()), self.points

    def leave(self, tenant: Tenant, dice: random.Random) -> None:
        """A last CHECK of what lives, and DEL."""
        if tenant.live:
            self.check(tenant, dice)
        for each in tenant.attachments:
            found = self.call("DEL", tenant.pod, each.conf, each.ifname)
            assert found.status == 0, f"last DEL: {found}"

    def finish(self) -> None:
        """Every other pod is ended by DEL; the rest loses its namespace, and GC clears up."""
        dice = random.Random(self.seed)
        half, rest = self.world.tenants[::2], self.world.tenants[1::2]
        at_once([partial(self.leave, tenant, dice) for tenant in half] or [lambda: None])
        for tenant in rest:
            tenant.pod.delete()
        self.collect(dice, everything=True)


def test_soak(rig: Rig) -> None:
    seed = int(os.environ.get("LAB_SEED", random.randrange(10**6)))
    print(f"seed {seed} (LAB_SEED)", flush=True)
    soak = Soak(rig, seed, CALLS[rig.mode])
    soak.learn_steps()
    begin = time.monotonic()
    at_once([partial(soak.work, number) for number in range(AT_ONCE)])
    took = time.monotonic() - begin
    counts = ", ".join(f"{count} {what}" for what, count in sorted(soak.world.counts.items()))
    print(f"{rig.mode} mode: {soak.world.calls} calls in {took:.0f} s: {counts}", flush=True)
    for fault in soak.world.faults:
        print(fault, flush=True)
    if soak.world.faults:
        pytest.fail(f"seed {seed}: " + "\n".join(soak.world.faults), pytrace=False)
    soak.finish()
    assert leases() == [], f"seed {seed}"
    rig.assert_as_before()
