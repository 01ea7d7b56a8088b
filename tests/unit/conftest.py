"""What all unit tests share."""

from __future__ import annotations

from hypothesis import settings

# A loaded machine is no fault of the code: no test asserts times. A failure prints how to repeat it.
settings.register_profile("unit", deadline=None, print_blob=True)
settings.load_profile("unit")
