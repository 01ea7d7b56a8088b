"""Tests of one RDMA network namespace mode; without a mark a test runs in both (fixture `loaded`)."""

from __future__ import annotations

import pytest

SHARED = pytest.mark.parametrize("loaded", ["shared"], indirect=True)
EXCLUSIVE = pytest.mark.parametrize("loaded", ["exclusive"], indirect=True)
