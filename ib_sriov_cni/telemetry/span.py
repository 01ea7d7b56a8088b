"""Spans: periods of time in the timeline. Without IB_SRIOV_TRACE, nothing is loaded or written for them."""

from __future__ import annotations

import os
import time

from ib_sriov_cni.telemetry import TIMELINE


class Span:
    """`with Span(name):` writes the duration of the block to the timeline, if there is one."""

    def __init__(self, name: str) -> None:
        """Keep the name."""
        self._name = name
        self._start = 0.0

    def __enter__(self) -> None:
        """Start the clock."""
        self._start = time.monotonic()

    def __exit__(self, *_fault: object) -> None:
        """Write the span."""
        if TIMELINE in os.environ:
            write_span(self._name, self._start, {})


def write_span(name: str, start: float, args: dict[str, object]) -> None:
    """Append a span that began at `start` (time.monotonic, seconds) and ends now."""
    from ib_sriov_cni.telemetry.timeline import write_event

    write_event(name, int(start * 1e9), time.monotonic_ns(), args)
