"""Fixtures of the conformance tests: one HCA for all of them, the plugin as a runtime calls it, a made IPAM plugin."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.conformance.runtime import Runtime, StandIn
from tests.lab.cni import PROJECT
from tests.lab.rig import LEASES, Rig

HERE = Path(__file__).resolve().parent
PASSED = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These tests unload modules and end namespaces: on a host they must not even start."""
    if os.environ.get("LAB_GUEST") == "1":
        return
    if any(HERE in item.path.parents for item in items):
        raise pytest.UsageError("the tests in tests/conformance run inside the VM: use tests/lab/pytest")


class OneRig(Rig):
    """A rig that knows whether its test has compared the host already: comparing takes longer than an ADD."""

    compared = False

    def assert_as_before(self) -> None:
        self.compared = True
        super().assert_as_before()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[PASSED] = report.passed
    return report


@pytest.fixture(scope="session")
def world() -> Iterator[OneRig]:
    """One HCA with two VFs for the whole session; both have GUIDs of their own."""
    made = OneRig("shared", vfs=2)
    yield made
    made.close()


@pytest.fixture
def rig(world: OneRig, request: pytest.FixtureRequest) -> Iterator[Rig]:
    """The session's HCA, put right for the next test; round robin begins anew."""
    shutil.rmtree(LEASES.parent, ignore_errors=True)
    world.compared = False
    yield world
    if world.compared and request.node.stash.get(PASSED, False):
        world.end_pods()
    else:
        world.restore()


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
