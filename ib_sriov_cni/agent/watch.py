"""When something was first seen, how often it was put right: what the agent remembers between its passes. No I/O.

Nothing of it outlives the process. A new agent begins to wait anew, which is the safe side.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

FIRST_PAUSE, LAST_PAUSE = 30.0, 900.0  # seconds between tries of something that fails
OFTEN, WINDOW = 3, 3600.0  # so often within so many seconds, and somebody must be undoing it


class Watch:
    """Things by the time they were first seen, while they are there."""

    def __init__(self) -> None:
        """Nothing has been seen."""
        self._first: dict[Hashable, float] = {}
        self._pauses: dict[Hashable, tuple[float, float]] = {}  # thing: the pause, and when it is over
        self._done: dict[Hashable, list[float]] = {}

    def see(self, things: Iterable[Hashable], now: float) -> None:
        """Take note of what is there now; what is not any more is forgotten."""
        there = set(things)
        self._first = {thing: self._first.get(thing, now) for thing in there}
        self._pauses = {thing: pause for thing, pause in self._pauses.items() if thing in there}
        self._done = {thing: times for thing, times in self._done.items() if now - times[-1] < WINDOW}

    def due(self, thing: Hashable, wait: float) -> float:
        """Give the time at which a thing has been there for `wait` seconds and may be tried (again)."""
        return max(self._first[thing] + wait, self._pauses.get(thing, (0.0, 0.0))[1])

    def fail(self, thing: Hashable, now: float) -> None:
        """A try failed: the next one waits, twice as long each time."""
        before = self._pauses.get(thing, (0.0, 0.0))[0]
        pause = min(before * 2, LAST_PAUSE) if before else FIRST_PAUSE
        self._pauses[thing] = (pause, now + pause)

    def succeed(self, thing: Hashable, now: float) -> None:
        """It was put right."""
        self._pauses.pop(thing, None)
        self._done.setdefault(thing, []).append(now)

    def is_undone_again(self, thing: Hashable, now: float) -> bool:
        """Whether it was put right so often lately that somebody wants it otherwise."""
        return sum(now - time < WINDOW for time in self._done.get(thing, ())) >= OFTEN
