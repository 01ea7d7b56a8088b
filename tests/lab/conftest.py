"""Fixtures of the tests that run inside the lab's VM (tests/lab/pytest)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pytest

from tests.lab import emulated_hca, snapshot
from tests.lab.cni import Cni
from tests.lab.emulated_hca import Hca
from tests.lab.pod import Pod
from tests.lab.rig import Rig, rigs
from tests.lab.snapshot import Snapshot

HERE = Path(__file__).resolve().parent
LEFTOVERS = ("/var/lib/cni", "/run/ib-sriov")


class MakeHca(Protocol):
    def __call__(
        self,
        *,
        vfs: int = 4,
        total_vfs: int = 8,
        pfs: int = 1,
        preset: bool | int = False,
        mode: str = "shared",
        pf_name: str | None = "eth100",
        prefix: str = "mlx5_",
        **knobs: object,
    ) -> Hca: ...


class MakePod(Protocol):
    def __call__(self, name: str) -> Pod: ...


class TakeSnapshot(Protocol):
    def __call__(self, hca: Hca, state_dirs: Sequence[str] = ...) -> Snapshot: ...


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These tests unload modules and end namespaces: on a host they must not even start."""
    if os.environ.get("LAB_GUEST") == "1":
        return
    if any(HERE in item.path.parents for item in items):
        raise pytest.UsageError("the tests in tests/lab run inside the VM: use tests/lab/pytest")


@pytest.fixture
def make_hca() -> Iterator[MakeHca]:
    """A function that loads the emulated HCA (see hca.load); unloaded, with every namespace, after the test."""
    made: list[Hca] = []

    def make(**settings: object) -> Hca:
        made.append(emulated_hca.load(**settings))  # type: ignore[arg-type] # the protocol above states the types
        return made[-1]

    yield make
    for each in made:
        each.restore_knobs()
    emulated_hca.unload()
    for folder in LEFTOVERS:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def hca(make_hca: MakeHca) -> Hca:
    """The usual HCA: four VFs of eight, GUIDs zero, shared mode, the PF's netdev called eth100."""
    return make_hca()


@pytest.fixture
def pods() -> Iterator[MakePod]:
    """A function that makes a pod; all of them end after the test."""
    made: list[Pod] = []

    def make(name: str) -> Pod:
        made.append(Pod(name, serial=len(made)))
        return made[-1]

    yield make
    for pod in made:
        pod.delete()


@pytest.fixture
def host_snapshot() -> TakeSnapshot:
    """A function that takes a snapshot of the host; compare with `assert_as_before(before)`."""
    return snapshot.host_snapshot


@pytest.fixture
def cni() -> Cni:
    """Runs our plugin as a process: `cni("ADD", pod, conf)`."""
    return Cni()


@pytest.fixture(scope="module", params=["shared", "exclusive"])
def loaded(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """A rig that the tests of a module share; its HCA has eight VFs with GUIDs of their own."""
    yield from rigs(request.param)


@pytest.fixture
def rig(loaded: Rig) -> Iterator[Rig]:
    """The module's rig, put right after the test for the next one."""
    yield loaded
    loaded.restore()
