"""The lab's fixtures, for tests of the builds on the emulated HCA."""

from __future__ import annotations

from tests.lab.conftest import cni, hca, host_snapshot, make_hca, pods

__all__ = ["cni", "hca", "host_snapshot", "make_hca", "pods"]
