"""What all tests share."""

from __future__ import annotations

import os

# Not in the lab's guest: there the import takes seconds.
if os.environ.get("LAB_GUEST") != "1":
    from hypothesis import HealthCheck, settings

    # A loaded machine is no fault of the code: no test asserts times. A failure prints how to repeat it.
    patient = [HealthCheck.too_slow]
    settings.register_profile("ib-sriov", deadline=None, print_blob=True, suppress_health_check=patient)
    settings.load_profile("ib-sriov")
