"""Fixtures of the tests that run inside the lab's VM (tests/lab/pytest)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.outcome import has_passed, pytest_runtest_makereport
from tests.lab.rig import Rig, rigs

__all__ = ["loaded", "pytest_runtest_makereport", "rig"]
HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These tests unload modules and end namespaces: on a host they must not even start."""
    if os.environ.get("LAB_GUEST") == "1":
        return
    if any(HERE in item.path.parents for item in items):
        raise pytest.UsageError("the tests in tests/lab run inside the VM: use tests/lab/pytest")


@pytest.fixture(scope="module", params=["shared", "exclusive"])
def loaded(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """A rig that the tests of a module share; its HCA has eight VFs with GUIDs of their own."""
    yield from rigs(request.param)


@pytest.fixture
def rig(loaded: Rig, request: pytest.FixtureRequest) -> Iterator[Rig]:
    """The module's rig, restored after the test for the next one."""
    yield loaded
    loaded.restore(passed=has_passed(request))
