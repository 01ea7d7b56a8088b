"""Fixtures of the conformance tests: one HCA for all of them, the plugin as a runtime calls it, a made IPAM plugin."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.runtime import Runtime, StandIn
from tests.lab.cni import PROJECT
from tests.lab.conftest import pytest_runtest_makereport, rig
from tests.lab.rig import Rig, rigs

__all__ = ["ask", "go_plugins", "loaded", "pytest_runtest_makereport", "rig", "standin"]
HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These tests unload modules and end namespaces: on a host they must not even start."""
    if os.environ.get("LAB_GUEST") == "1":
        return
    if any(HERE in item.path.parents for item in items):
        raise pytest.UsageError("the tests in tests/conformance run inside the VM: use tests/lab/pytest")


@pytest.fixture(scope="session")
def loaded() -> Iterator[Rig]:
    """One HCA with two VFs for the whole session; both have GUIDs of their own."""
    yield from rigs("shared", vfs=2)


@pytest.fixture(scope="session")
def ask() -> Runtime:
    """The plugin without a pod: what is decided by environment and input alone."""
    return Runtime()


@pytest.fixture
def standin(tmp_path: Path) -> StandIn:
    """An IPAM plugin of type `standin` that answers as the test says, and notes its calls."""
    return StandIn(tmp_path)


@pytest.fixture(scope="session")
def go_plugins() -> str:
    """A folder with the Go plugins, for CNI_PATH; built on the host before (tests/tools/go-client)."""
    command = [str(PROJECT / "tests/tools/go-client"), "static", "tuning"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return str(Path(done.stdout.split()[0]).parent)
