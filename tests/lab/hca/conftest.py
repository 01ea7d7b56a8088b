"""Fixtures of the checks of the emulated HCA itself: an HCA, pods, and the host's state, without the plugin.

Tests of the plugin use the rig (tests/lab/rig.py), which has all three.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import pytest

from tests.lab import emulated_hca
from tests.lab.emulated_hca import Hca
from tests.lab.pod import Pod


class MakeHca(Protocol):
    def __call__(self, **settings: Any) -> Hca: ...


class MakePod(Protocol):
    def __call__(self, name: str) -> Pod: ...


@pytest.fixture
def make_hca() -> Iterator[MakeHca]:
    """A function that loads the emulated HCA (see emulated_hca.load); unloaded, with all pods, after the test."""
    made: list[Hca] = []

    def make(**settings: Any) -> Hca:
        made.append(emulated_hca.load(**settings))
        return made[-1]

    yield make
    for each in made:
        each.restore_knobs()
    emulated_hca.unload()


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
