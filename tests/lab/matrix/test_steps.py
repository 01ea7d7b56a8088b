"""Death, error and SIGTERM at every step of ADD, DEL and GC: the host is as before (C11, C13).

The steps are those that a run's own log names, so that a new one is covered without a word here. What may come between
one and the next:

    a   death, then the runtime's next call
    b   death and no call ever: the namespace ends, and the next pod's ADD of that VF heals it
    c   an error: ADD undoes itself; DEL and GC report it, and their next call finishes
    t   SIGTERM of an impatient runtime, which undoes an ADD

Before a step b and t are placed, after it a and c: the end of one is the beginning of the next. A VF goes through both
in a row, so that what one of them forgets is the other one's start, and the end is compared with the beginning; eight
VFs at a time. LAB_EVERY=n takes every n-th moment (an odd n, or one half of the letters is left out).
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.lab.cni import CniRun
from tests.lab.commands import names, wait
from tests.lab.pod import Pod
from tests.lab.rig import STATE, Rig, at_once, end, guid_of, rigs, steps_of

LOG = Path("/tmp/steps.log")
REBIND_LOCK = Path("/run/ib-sriov/rebind.lock")
NETWORKS = Path("/var/lib/cni/networks")
EVERY = int(os.environ.get("LAB_EVERY", "1"))
NOTHING_VALID: dict[str, Any] = {"cni.dev/valid-attachments": []}
TABLES = ";".join(f"{vf}:ffff,8001" for vf in range(8))
TOO_LATE = ("write_device_info", "commit")  # for SIGTERM: the pod has what it asked for


@dataclass(frozen=True, kw_only=True)
class Case:
    """One moment on one VF; `more` are the settings of its pods."""

    vf: int
    moment: str
    more: dict[str, Any]

    @property
    def after(self) -> bool:
        """Whether it comes after its step."""
        return self.moment.endswith(".done")

    @property
    def successors(self) -> dict[str, Any]:
        """The settings of the pod that comes after: another GUID, if the first one had one of its own."""
        return {**self.more, "guid": guid_of(0x80 + self.vf)} if "guid" in self.more else self.more


def new_guid(vf: int) -> dict[str, Any]:
    """Settings that make an ADD take every step there is but a P_Key's; the VF is bound anew."""
    info = {"CNIDeviceInfoFile": f"/var/run/k8s.cni.cncf.io/devinfo/cni/steps-{vf}.json"}
    return {"guid": guid_of(vf), "link_state": "enable", "mtu": 2000, "runtimeConfig": info, "logFile": str(LOG)}


def kept_guid(vf: int) -> dict[str, Any]:
    """The VF keeps its GUID, so its devices are moved back instead."""
    return {"link_state": "enable", "logFile": str(LOG)}


def with_pkey(vf: int) -> dict[str, Any]:
    """A P_Key that is not at index 0: an IPoIB child."""
    return {**kept_guid(vf), "pkey": "0x8001"}


@pytest.fixture(scope="module", params=["shared", "exclusive"])
def loaded(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """The module's rig, with P_Key tables."""
    yield from rigs(request.param, pkeys=TABLES)


def steps(rig: Rig, command: str, act: Callable[[], object]) -> list[str]:
    """The steps of a command while something is done."""
    LOG.unlink(missing_ok=True)
    act()
    return steps_of(LOG.read_text(), command)


def moments(named: list[str], unlike: list[str] = ()) -> list[str]:  # type: ignore[assignment]
    """Before and after each step that is not in the other list."""
    return [moment for step in named if step not in unlike for moment in (step, f"{step}.done")]


@pytest.fixture(scope="module")
def points(loaded: Rig) -> dict[str, list[str]]:
    """The moments of each command, by the kind of attachment; those that another kind has too are taken there."""
    pod = loaded.pod()
    found: dict[str, list[str]] = {}
    for kind, settings in (("new", new_guid(0)), ("kept", kept_guid(0)), ("pkey", with_pkey(0))):
        for command, call in (("ADD", loaded.add), ("DEL", loaded.delete)):
            found[f"{command} {kind}"] = steps(loaded, command, partial(call, pod, **settings))
    loaded.call("ADD", pod, trace="verify_rdma=kill", **new_guid(0))
    pod.delete()
    successor = loaded.pod()
    healing = steps(loaded, "ADD", partial(loaded.add, successor, **new_guid(1)))
    found["ADD healing"] = healing[1 : healing.index("read_facts")]
    successor.delete()
    collect = partial(loaded.call, "GC", successor, **new_guid(1), **NOTHING_VALID)
    found["GC new"] = steps(loaded, "GC", collect)
    loaded.assert_as_before()
    assert {"write_record", "set_port_guid", "bind", "move_netdev", "commit"} <= set(found["ADD new"])
    assert {"restore_port_guid", "bind", "release_addresses", "forget"} <= set(found["DEL new"])
    # the RDMA device's move ends the pod's netdev and its children, and the kernel makes a new one on the host
    returning = {"return_rdma"} if loaded.exclusive else {"remove_children", "return_netdev"}
    for kind in ("kept", "pkey"):
        assert "unbind" not in found[f"ADD {kind}"] + found[f"DEL {kind}"]
        assert returning <= set(found[f"DEL {kind}"])
    assert "add_child" in found["ADD pkey"]
    assert {"heal", "restore_config", "forget"} <= set(found["ADD healing"])
    assert {"collect", "collect_addresses", "bind", "forget"} <= set(found["GC new"])
    assert ("move_rdma" in found["ADD new"]) is loaded.exclusive
    return {
        "ADD new": moments(found["ADD new"]),
        "ADD pkey": moments(found["ADD pkey"], unlike=found["ADD new"]),
        "ADD healing": moments(found["ADD healing"]),
        "DEL new": moments(found["DEL new"]),
        "DEL kept": moments(found["DEL kept"], unlike=found["DEL new"]),
        "DEL pkey": moments(sorted(returning)),
        "GC new": moments(found["GC new"]),
    }


def end_alone(rig: Rig, pod: Pod, vf: int) -> None:
    """End a pod's namespace while no other VF is moved or unbound, and wait until the kernel has returned its device.

    That takes no lock, so that the namespaces of seven other cases could take a VF's device numbers again and again.
    What a single one does is seen in tests/lab/races/test_device_numbers.py.
    """
    if not rig.hca.driver(vf):
        pod.delete()  # it has no device
        return
    function = rig.hca.vf_path(vf)

    def end_it() -> bool:
        with REBIND_LOCK.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not all(rig.hca.driver(other) for other in range(8)):
                return False  # a killed call has left it so; its case goes on
            pod.delete()
            wait(lambda: names(function / "infiniband") and names(function / "infiniband_mad"))
            return True

    assert wait(end_it, 60)


class Matrix:
    """The calls that a case is made of, each with what must come out."""

    def __init__(self, rig: Rig, note: Callable[[str, object], None]) -> None:
        self.rig = rig
        self._note = note

    def run(
        self,
        command: str,
        what: list[str],
        settings: Callable[[int], dict[str, Any]],
        act: Callable[[Case], None],
        follows: str,
    ) -> None:
        """All moments, eight at a time, each on its own VF; after eight the host as before. Notes the counts."""
        taken = what[(EVERY - 1) // 2 :: EVERY]
        for start in range(0, len(taken), self.rig.vfs):
            cases = [
                Case(vf=vf, moment=moment, more=settings(vf))
                for vf, moment in enumerate(taken[start : start + self.rig.vfs])
            ]
            at_once(partial(self._named, act, case) for case in cases)
            self.rig.assert_as_before()
            self.rig.end_pods()
        for letter in follows:
            placed = [moment for moment in taken if moment.endswith(".done") is (letter in "ac")]
            self._note(f"moments {self.rig.mode} {command} {letter}", len(placed))

    def _named(self, act: Callable[[Case], None], case: Case) -> None:
        try:
            act(case)
        except AssertionError as failure:
            raise AssertionError(f"VF {case.vf}, {case.moment}: {failure}") from failure

    def killed(self, command: str, pod: Pod, case: Case, *, successor: bool = False, **more: Any) -> None:
        settings = {**(case.successors if successor else case.more), **more}
        run = self.rig.call(command, pod, case.vf, trace=f"{case.moment}=kill", **settings)
        assert run.status == -signal.SIGKILL, run

    def failed(self, command: str, pod: Pod, case: Case, *, successor: bool = False, **more: Any) -> None:
        settings = {**(case.successors if successor else case.more), **more}
        run = self.rig.call(command, pod, case.vf, trace=f"{case.moment}=fail", **settings)
        assert run.status == 1, run
        assert f"fault injected at {case.moment}" in run.out["msg"], run

    def interrupted(self, pod: Pod, case: Case, *, successor: bool = False) -> CniRun:
        """An ADD that is held up at the moment until SIGTERM has come."""
        settings = case.successors if successor else case.more
        process = self.rig.start("ADD", pod, case.vf, trace=f"{case.moment}=stop", **settings)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        process.terminate()
        os.kill(process.pid, signal.SIGCONT)
        return end(process)

    def end(self, pod: Pod, case: Case) -> None:
        end_alone(self.rig, pod, case.vf)

    def attached(self, pod: Pod, case: Case) -> None:
        """An attachment whose ADD died when all was done but the slow look at the port: cheap, and as hard to undo."""
        run = self.rig.call("ADD", pod, case.vf, trace="verify_rdma=kill", **case.more)
        assert run.status == -signal.SIGKILL, run

    def whole(self, pod: Pod, case: Case) -> None:
        self.added(pod, case.vf, **case.more)

    def added(self, pod: Pod, vf: int, *, trace: str = "", **settings: Any) -> None:
        run = self.rig.call("ADD", pod, vf, trace=trace, **settings)
        assert run.status == 0, run

    def collected(self, pod: Pod, case: Case, **more: Any) -> None:
        run = self.rig.call("GC", pod, case.vf, **case.more, **more, **NOTHING_VALID)
        assert (run.status, run.stdout) == (0, ""), run

    def taken_over(self, late: Pod, case: Case, **more: Any) -> Pod:
        """The next pod gets the VF, whole, and a late DEL of the first one takes nothing from it."""
        successor = self.rig.pod("successor")
        self.added(successor, case.vf, **case.successors, **more)
        self.rig.delete(late, case.vf, **case.more, **more)
        assert_nothing_of(late)
        link = successor.link()
        assert link is not None
        assert "UP" in link["flags"]
        assert successor.addresses()
        if "guid" in case.successors:
            assert link["address"].endswith(case.successors["guid"])
            assert self.rig.hca.guids_at_pf(case.vf) == (case.successors["guid"],) * 2
        if self.rig.exclusive:
            assert len(successor.rdma()) == 1
        assert self.rig.hca.link_state(case.vf) == case.more["link_state"]
        return successor


@pytest.fixture
def matrix(rig: Rig, record_testsuite_property: Callable[[str, object], None]) -> Matrix:
    return Matrix(rig, record_testsuite_property)


def assert_nothing_of(pod: Pod) -> None:
    """No record, no lease, and no interface in the namespace if that is still there."""
    assert [path for path in _below(STATE / "attachments") if path.name.startswith(f"{pod.container_id}:")] == []
    left = [path for path in _below(NETWORKS) if path.name.count(".") == 3 and pod.container_id in _text(path)]
    assert left == []
    if pod.exists():
        assert [link["ifname"] for link in pod.links()] == ["lo"]


def _below(folder: Path) -> list[Path]:
    """The files below a folder; other cases' folders may go while it is read, which os.walk takes as it is."""
    return [Path(where, name) for where, _, names in os.walk(folder) for name in names]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:  # somebody else's, just released
        return ""


@pytest.mark.parametrize(("kind", "settings"), [("new", new_guid), ("pkey", with_pkey)])
def test_add(
    matrix: Matrix, points: dict[str, list[str]], kind: str, settings: Callable[[int], dict[str, Any]]
) -> None:
    rig = matrix.rig

    def act(case: Case) -> None:
        pod = rig.pod()
        if case.after:
            matrix.failed("ADD", pod, case)
            assert_nothing_of(pod)
            matrix.killed("ADD", pod, case)
            if case.vf % 2:
                matrix.end(pod, case)  # the namespace may be gone when DEL comes
            rig.delete(pod, case.vf, **case.more)
            assert_nothing_of(pod)
            return
        run = matrix.interrupted(pod, case)
        if case.moment in TOO_LATE:
            assert run.status == 0, run
            rig.delete(pod, case.vf, **case.more)
        else:
            assert (run.status, run.code) == (1, 11), run
            assert "SIGTERM" in run.out["msg"]
        assert_nothing_of(pod)
        matrix.killed("ADD", pod, case)
        matrix.end(pod, case)
        rig.delete(matrix.taken_over(pod, case), case.vf, **case.successors)

    matrix.run("ADD", points[f"ADD {kind}"], settings, act, "abct")


def test_add_that_heals(matrix: Matrix, points: dict[str, list[str]]) -> None:
    """The next pod's ADD dies or fails too, while it clears away what the first one left."""
    rig = matrix.rig

    def act(case: Case) -> None:
        first, second = rig.pod(), rig.pod()
        matrix.attached(first, case)
        matrix.end(first, case)
        if case.moment == "release_addresses.done":
            # The VF is on the host by then: a dead pod's IPAM plugin keeps no other pod from it.
            matrix.added(second, case.vf, trace=f"{case.moment}=fail", **case.successors)
            rig.delete(first, case.vf, **case.more)
            assert_nothing_of(first)
            rig.delete(second, case.vf, **case.successors)
            return
        if case.after:
            matrix.failed("ADD", second, case, successor=True)
            assert_nothing_of(second)
            rig.delete(first, case.vf, **case.more)
            assert_nothing_of(first)
            return
        run = matrix.interrupted(second, case, successor=True)
        assert (run.status, run.code) == (1, 11), run
        assert_nothing_of(second)
        dead = rig.pod()  # the interrupted ADD may have finished its healing
        matrix.attached(dead, case)
        matrix.end(dead, case)
        matrix.killed("ADD", second, case, successor=True)
        matrix.end(second, case)
        rig.delete(matrix.taken_over(first, case), case.vf, **case.successors)
        rig.delete(dead, case.vf, **case.more)
        assert_nothing_of(dead)

    matrix.run("ADD", points["ADD healing"], new_guid, act, "bct")


@pytest.mark.parametrize(("kind", "settings"), [("new", new_guid), ("kept", kept_guid), ("pkey", with_pkey)])
def test_del(
    matrix: Matrix, points: dict[str, list[str]], kind: str, settings: Callable[[int], dict[str, Any]]
) -> None:
    rig = matrix.rig

    attached = matrix.whole if kind == "pkey" else matrix.attached

    def act(case: Case) -> None:
        pod = rig.pod()
        attached(pod, case)
        if not case.after:
            matrix.killed("DEL", pod, case)
            matrix.end(pod, case)
            rig.delete(matrix.taken_over(pod, case), case.vf, **case.successors)
            return
        matrix.failed("DEL", pod, case)
        rig.delete(pod, case.vf, **case.more)
        assert_nothing_of(pod)
        attached(pod, case)
        matrix.killed("DEL", pod, case)
        if case.vf % 2:
            matrix.end(pod, case)
        rig.delete(pod, case.vf, **case.more)
        assert_nothing_of(pod)

    matrix.run("DEL", points[f"DEL {kind}"], settings, act, "abc")


def test_gc(matrix: Matrix, points: dict[str, list[str]]) -> None:
    """Each in a network of its own, whose GC the others' attachments do not concern."""
    rig = matrix.rig

    def settings(vf: int) -> dict[str, Any]:
        return {"name": f"ibnet{vf}", **new_guid(vf)}

    def act(case: Case) -> None:
        pod = rig.pod()
        matrix.attached(pod, case)
        matrix.end(pod, case)
        if not case.after:
            matrix.killed("GC", pod, case, **NOTHING_VALID)
            rig.delete(matrix.taken_over(pod, case), case.vf, **case.successors)
            return
        matrix.failed("GC", pod, case, **NOTHING_VALID)
        matrix.collected(pod, case)
        assert_nothing_of(pod)
        second = rig.pod()
        matrix.attached(second, case)
        matrix.end(second, case)
        matrix.killed("GC", second, case, **NOTHING_VALID)
        if case.vf % 2:
            rig.delete(second, case.vf, **case.more)
        else:
            matrix.collected(second, case)
        assert_nothing_of(second)

    matrix.run("GC", points["GC new"], settings, act, "abc")
