"""What the agent remembers between passes: when it first saw something, and how often it repaired it. No I/O.

Nothing is stored. A restarted agent starts all waits again, which is safe.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

FIRST_PAUSE, LAST_PAUSE = 30.0, 900.0  # seconds between attempts that fail
REPEAT_LIMIT, REPEAT_WINDOW = 3, 3600.0  # so many repairs within so many seconds: something undoes them


class Watch:
    """Things and the times (monotonic, seconds) at which they were first seen, for as long as they last."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self._first: dict[Hashable, float] = {}
        self._pauses: dict[Hashable, tuple[float, float]] = {}  # thing: the pause, and when it ends
        self._done: dict[Hashable, list[float]] = {}

    def see(self, things: Iterable[Hashable], now: float) -> None:
        """Note what exists now, and forget what does not exist any more."""
        there = set(things)
        self._first = {thing: self._first.get(thing, now) for thing in there}
        self._pauses = {thing: pause for thing, pause in self._pauses.items() if thing in there}
        self._done = {thing: times for thing, times in self._done.items() if now - times[-1] < REPEAT_WINDOW}

    def due(self, thing: Hashable, wait: float) -> float:
        """Return when a thing will have lasted `wait` seconds and any pause after a failure is over.

        Raises KeyError for a thing that see() was not given last time.
        """
        return max(self._first[thing] + wait, self._pauses.get(thing, (0.0, 0.0))[1])

    def fail(self, thing: Hashable, now: float) -> None:
        """Note a failed attempt. The pause before the next one doubles each time, from FIRST_PAUSE to LAST_PAUSE."""
        before = self._pauses.get(thing, (0.0, 0.0))[0]
        pause = min(before * 2, LAST_PAUSE) if before else FIRST_PAUSE
        self._pauses[thing] = (pause, now + pause)

    def succeed(self, thing: Hashable, now: float) -> None:
        """Note a repair."""
        self._pauses.pop(thing, None)
        self._done.setdefault(thing, []).append(now)

    def is_undone_repeatedly(self, thing: Hashable, now: float) -> bool:
        """Return whether it was repaired REPEAT_LIMIT times within REPEAT_WINDOW seconds."""
        return sum(now - time < REPEAT_WINDOW for time in self._done.get(thing, ())) >= REPEAT_LIMIT
