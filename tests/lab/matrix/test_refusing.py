"""Death at the steps of ADD and DEL where the PF refuses to give a fresh VF its zero GUID back.

Every third moment (LAB_EVERY times that), on VFs that have no GUID when their pods come. What is compared at the end is
the host as before, except that all ones stand for zero: both mean that a VF has no GUID.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.lab.commands import wait
from tests.lab.emulated_hca import NO_GUID
from tests.lab.matrix.test_steps import assert_nothing_of, end_alone, new_guid
from tests.lab.rig import Rig, at_once, guid_of, rigs, steps_of
from tests.lab.snapshot import differences, host_snapshot

LOG = Path("/tmp/refusing.log")
EVERY = 3 * int(os.environ.get("LAB_EVERY", "1"))
KILLED = -9
ALL_ONES = "ff:ff:ff:ff:ff:ff:ff:ff"


@pytest.fixture(scope="module", params=["shared", "exclusive"])
def loaded(request: pytest.FixtureRequest) -> Iterator[Rig]:
    yield from rigs(request.param, preset=False, refuse_zero_guid=0xFF)


def settings(vf: int) -> dict[str, Any]:
    return {**new_guid(vf), "logFile": str(LOG)}


def assert_as_before(rig: Rig) -> None:
    found: list[str] = []

    def comparable(facts: dict[str, str]) -> dict[str, str]:
        # The VF's own GUID counts; the PF knows only what was set.
        return {
            name: text.replace(ALL_ONES, NO_GUID)
            for name, text in facts.items()
            if not ("at the PF" in name and name.endswith("GUID"))
        }

    def same() -> bool:
        found[:] = differences(comparable(rig.before.facts), comparable(host_snapshot(rig.hca).facts))
        return not found

    assert wait(same, 20, 0.1), "the host is not as it was before:\n  " + "\n  ".join(found)


def survive(rig: Rig, command: str, vf: int, moment: str) -> None:
    """A call dies at the moment; the next call, or the next pod's ADD, ends well."""
    pod = rig.pod()
    if command == "DEL":
        dead = rig.call("ADD", pod, vf, trace="verify_rdma=kill", **settings(vf))
        assert dead.status == KILLED, f"{moment}: {dead}"
    died = rig.call(command, pod, vf, trace=f"{moment}=kill", **settings(vf))
    assert died.status == KILLED, f"{moment}: {died}"
    if vf % 2:
        end_alone(rig, pod, vf)
        successor = rig.pod()
        more = {**settings(vf), "guid": guid_of(0x80 + vf)}
        added = rig.call("ADD", successor, vf, **more)
        assert added.status == 0, added
        rig.delete(successor, vf, **more)
    rig.delete(pod, vf, **settings(vf))
    assert_nothing_of(pod)


@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_zero_is_refused(rig: Rig, command: str) -> None:
    pod = rig.pod()
    LOG.unlink(missing_ok=True)
    rig.add(pod, **settings(0))
    rig.delete(pod, **settings(0))
    steps = steps_of(LOG.read_text(), command)
    assert "bind" in steps
    moments = [f"{step}{end}" for step in steps for end in ("", ".done")][::EVERY]
    for start in range(0, len(moments), rig.vfs):
        rig.load()  # the VFs have zero again, not all ones
        at_once(
            partial(survive, rig, command, vf, moment) for vf, moment in enumerate(moments[start : start + rig.vfs])
        )
        assert_as_before(rig)
        rig.end_pods()
    rig.load()
