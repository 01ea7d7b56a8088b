"""A real udevd renames the VF's devices whenever it likes: names are restored each time.

A suite of its own (`make test`, `tests/tools/suites.py udev`), in a guest booted with UDEV=1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.lab.commands import run
from tests.lab.emulated_hca import NO_GUID
from tests.lab.rig import Rig, at_once, leases, rigs

TURNS = 20
VFS = 2  # attached at the same time: their devices come and go in each other's way


@pytest.fixture(scope="module", params=["shared", "exclusive"])
def loaded(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """The PF keeps the name that udev gave it, as on a host."""
    yield from rigs(request.param, vfs=VFS, pf_name=None)


def guid(turn: int, vf: int) -> str:
    return f"02:11:22:33:44:{turn:02x}:00:{vf:02x}"


def settle() -> None:
    run(["udevadm", "settle", "-t", "60"])


def test_udev_is_there_and_has_renamed(rig: Rig) -> None:
    """Otherwise this suite would show nothing."""
    assert Path("/run/udev/control").exists(), "boot the guest with UDEV=1"
    names = [rig.hca.netdev(vf) for vf in range(VFS)]
    assert not any(re.fullmatch(r"ib\d+", name) for name in names), names
    assert all(rig.hca.port_guid(vf) != NO_GUID for vf in range(VFS))


def test_names_are_restored_twenty_times(rig: Rig) -> None:
    """With new GUIDs each time, so that each ADD and each DEL binds the driver anew; every third pod ends first."""
    renamed = 0
    for turn in range(TURNS):
        confs: list[dict[str, Any]] = [{"guid": guid(turn, vf)} for vf in range(VFS)]
        pods = [rig.pod() for _ in range(VFS)]
        results = at_once(partial(rig.add, pod, vf, **confs[vf]) for vf, pod in enumerate(pods))
        for vf, (pod, result) in enumerate(zip(pods, results, strict=True)):
            link = pod.link()
            assert link is not None
            assert link["address"].endswith(guid(turn, vf))
            assert result["interfaces"][0]["name"] == "net1"
        if turn % 3 == 2:
            for pod in pods:
                pod.delete()
        at_once(partial(rig.delete, pod, vf, **confs[vf]) for vf, pod in enumerate(pods))
        rig.assert_as_before()
        settle()
        rig.assert_as_before()  # nor has udev another opinion when it has caught up
        renamed += VFS
        rig.end_pods()
    assert leases() == []
    print(f"{rig.mode} mode: {TURNS} times {VFS} VFs, names restored {renamed} times")
