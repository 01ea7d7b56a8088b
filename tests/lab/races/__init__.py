"""Two calls at once, a world that changes in the middle of a call, what pods do with their VF, rebinds."""

from __future__ import annotations
