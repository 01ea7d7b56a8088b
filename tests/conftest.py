"""What all tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

# Not in the lab's guest: there the import takes seconds.
if os.environ.get("LAB_GUEST") != "1":
    from hypothesis import HealthCheck, settings

    # A loaded machine is no fault of the code: no test asserts times. A failure prints how to repeat it.
    patient = [HealthCheck.too_slow]
    settings.register_profile("ib-sriov", deadline=None, print_blob=True, suppress_health_check=patient)
    settings.load_profile("ib-sriov")


@pytest.fixture(autouse=True)
def _sigterm() -> Iterator[None]:
    """An ADD in this process leaves SIGTERM ignored, which the programs of later tests would inherit."""
    had = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, had)
