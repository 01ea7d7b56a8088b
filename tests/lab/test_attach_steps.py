"""ADD and DEL that die or fail at every step: DEL leaves the host as before, wherever it was (C11, C13, issue 3).

The steps are those that a run's own log names, so that a new one is covered without a word here. Eight cases go on at
a time, each with its own VF and pod.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.lab.pod import Pod
from tests.lab.rig import Rig, at_once, end, guid_of, leases, steps_of

LOG = Path("/tmp/steps.log")
NOTHING_VALID: dict[str, Any] = {"cni.dev/valid-attachments": []}
TIMES = re.compile(r"cmd=(\w+) .*step=(\w+) .*ms=([\d.]+)")


def everything(vf: int) -> dict[str, Any]:
    """Settings that make an ADD take every step there is."""
    return {"guid": guid_of(vf), "link_state": "enable", "mtu": 2000, "logFile": str(LOG)}


@pytest.fixture(scope="module")
def steps(loaded: Rig) -> dict[str, list[str]]:
    """The steps of an ADD, a DEL and a GC, from the log of one of each."""
    LOG.unlink(missing_ok=True)
    pod = loaded.pod()
    loaded.add(pod, **everything(0))
    loaded.delete(pod, **everything(0))
    loaded.add(pod, **everything(0))
    pod.delete()
    assert loaded.call("GC", pod, **everything(0), **NOTHING_VALID).status == 0
    loaded.assert_as_before()
    text = LOG.read_text()
    found = {command: steps_of(text, command) for command in ("ADD", "DEL", "GC")}
    print(f"steps: {found}")
    print("ms:", *(f"{command}.{step}={ms}" for command, step, ms in TIMES.findall(text)))
    assert {"write_record", "set_port_guid", "bind", "move_netdev", "commit"} <= set(found["ADD"])
    assert ("move_rdma" in found["ADD"]) is loaded.exclusive
    return found


def batches(cases: list[str], size: int = 8) -> Iterator[list[tuple[int, str]]]:
    for start in range(0, len(cases), size):
        yield list(enumerate(cases[start : start + size]))


def in_turn(rig: Rig, batch: list[tuple[int, str]], act: Callable[[int, str, Pod], None]) -> None:
    """Each case on its own VF and in its own pod, all at once; then the host as before."""
    pods = [rig.pod() for _ in batch]
    at_once(partial(act, vf, point, pod) for (vf, point), pod in zip(batch, pods, strict=True))
    rig.assert_as_before()
    rig.end_pods()


def test_add_killed_after_every_step_then_del(rig: Rig, steps: dict[str, list[str]]) -> None:
    points = [f"{steps['ADD'][0]}=kill", *(f"{step}.done=kill" for step in steps["ADD"])]

    def act(vf: int, point: str, pod: Pod) -> None:
        run = rig.call("ADD", pod, vf, trace=point, **everything(vf))
        assert run.status == -signal.SIGKILL, f"{point}: {run}"
        if vf % 2:
            pod.delete()  # and the namespace may be gone when DEL comes
        rig.delete(pod, vf, **everything(vf))
        rig.delete(pod, vf, **everything(vf))

    for batch in batches(points):
        in_turn(rig, batch, act)
    print(f"{len(points)} moments of death in {rig.mode} mode")


def test_add_that_fails_at_a_step_undoes_itself(rig: Rig, steps: dict[str, list[str]]) -> None:
    points = [f"{step}=fail" for step in steps["ADD"]]

    def act(vf: int, point: str, pod: Pod) -> None:
        run = rig.call("ADD", pod, vf, trace=point, **everything(vf))
        assert run.status == 1, f"{point}: {run}"
        assert "fault injected" in run.out["msg"], f"{point}: {run.out}"
        assert pod.link() is None

    for batch in batches(points):
        in_turn(rig, batch, act)
    pod = rig.pod()
    rig.add(pod, **everything(0))
    rig.delete(pod, **everything(0))
    rig.assert_as_before()


def test_add_killed_at_moments_of_the_clock(rig: Rig) -> None:
    seed = int(os.environ.get("LAB_SEED", random.randrange(10**6)))
    print(f"seed {seed} (LAB_SEED)")
    dice = random.Random(seed)
    moments = [str(dice.uniform(0.2, 6)) for _ in range(8)]

    def act(vf: int, moment: str, pod: Pod) -> None:
        process = rig.start("ADD", pod, vf, **everything(vf))
        time.sleep(float(moment))  # the moment is the case, not a condition that could be awaited
        process.kill()
        process.communicate()
        rig.delete(pod, vf, **everything(vf))

    for batch in batches(moments):
        in_turn(rig, batch, act)


def test_sigterm_undoes_an_add(rig: Rig, steps: dict[str, list[str]]) -> None:
    """An impatient runtime's SIGTERM, at steps that are held up until it has come."""
    points = [f"{step}=stop" for step in ("reserve_addresses", "bind", "move_netdev", "verify_rdma")]

    def act(vf: int, point: str, pod: Pod) -> None:
        process = rig.start("ADD", pod, vf, trace=point, **everything(vf))
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        process.terminate()
        os.kill(process.pid, signal.SIGCONT)
        run = end(process)
        assert (run.status, run.code) == (1, 11), f"{point}: {run}"
        assert "SIGTERM" in run.out["msg"]

    for batch in batches(points):
        in_turn(rig, batch, act)


@pytest.mark.matrix
def test_del_killed_after_every_step_then_del(rig: Rig, steps: dict[str, list[str]]) -> None:
    points = [f"{steps['DEL'][0]}=kill", *(f"{step}.done=kill" for step in steps["DEL"])]

    def act(vf: int, point: str, pod: Pod) -> None:
        rig.add(pod, vf, **everything(vf))
        run = rig.call("DEL", pod, vf, trace=point, **everything(vf))
        assert run.status == -signal.SIGKILL, f"{point}: {run}"
        if vf % 2:
            pod.delete()
        rig.delete(pod, vf, **everything(vf))

    for batch in batches(points):
        in_turn(rig, batch, act)
    print(f"{len(points)} moments of a DEL's death in {rig.mode} mode")


@pytest.mark.matrix
def test_gc_killed_after_every_step_then_gc(rig: Rig, steps: dict[str, list[str]]) -> None:
    """Each in a network of its own, whose GC the others' attachments do not concern."""
    points = [f"{steps['GC'][0]}=kill", *(f"{step}.done=kill" for step in steps["GC"])]

    def act(vf: int, point: str, pod: Pod) -> None:
        settings = {"name": f"ibnet{vf}", **everything(vf)}
        rig.add(pod, vf, **settings)
        pod.delete()
        run = rig.call("GC", pod, vf, trace=point, **settings, **NOTHING_VALID)
        assert run.status == -signal.SIGKILL, f"{point}: {run}"
        run = rig.call("GC", pod, vf, **settings, **NOTHING_VALID)
        assert (run.status, run.stdout) == (0, ""), f"{point}: {run}"

    for batch in batches(points):
        in_turn(rig, batch, act)
    print(f"{len(points)} moments of a GC's death in {rig.mode} mode")


@pytest.mark.matrix
def test_killed_add_without_del_is_healed_by_the_next(rig: Rig, steps: dict[str, list[str]]) -> None:
    """No DEL ever: the VF's next pod gets it, its originals are still known, and a late DEL hurts nobody."""
    points = [f"{step}.done=kill" for step in steps["ADD"]]

    def act(vf: int, point: str, pod: Pod) -> None:
        run = rig.call("ADD", pod, vf, trace=point, **everything(vf))
        assert run.status == -signal.SIGKILL, f"{point}: {run}"
        pod.delete()
        heir = rig.pod("heir")
        other = {**everything(vf), "guid": guid_of(0x80 + vf)}
        result = rig.add(heir, vf, **other)
        rig.delete(pod, vf, **everything(vf))
        check = rig.check(heir, result, vf, **other)
        assert check.status == 0, f"{point}: {check.stdout}"
        rig.delete(heir, vf, **other)

    for batch in batches(points):
        in_turn(rig, batch, act)
        assert leases() == []
    print(f"{len(points)} healed deaths in {rig.mode} mode")
