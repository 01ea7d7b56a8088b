"""The lab's fixtures, for tests of the builds on the emulated HCA."""

from __future__ import annotations

from tests.lab.conftest import loaded, pytest_runtest_makereport, rig

__all__ = ["loaded", "pytest_runtest_makereport", "rig"]
