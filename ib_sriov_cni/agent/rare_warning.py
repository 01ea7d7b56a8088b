"""A warning that others can cause as often as they like, so that it is logged rarely."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ib_sriov_cni.telemetry.log import Log

SECONDS = 60.0


class RareWarning:
    """A warning that is logged at most once in `seconds`, with the number of times that it was not."""

    def __init__(
        self, log: Log, message: str, *, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """The first one is logged at once."""
        self._log, self._message, self._seconds, self._clock = log, message, seconds, clock
        self._lock = threading.Lock()
        self._next = float("-inf")
        self._skipped = 0

    def log(self, **facts: object) -> None:
        """Log it with these facts, or count it."""
        with self._lock:
            now = self._clock()
            if now < self._next:
                self._skipped += 1
                return
            self._next = now + self._seconds
            skipped, self._skipped = self._skipped, 0
        more = {"more": f"{skipped} since the last such line"} if skipped else {}
        self._log.warning(self._message, **facts, **more)
