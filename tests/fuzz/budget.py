"""How long each part of the fuzzing runs, how many calls it makes, and what must hold after each input.

FUZZ_SECONDS is the time for all parts together; `make long` gives an hour. A failing input is kept in .hypothesis and
tried first the next time.
"""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis.database import DirectoryBasedExampleDatabase
from hypothesis.errors import HypothesisException

ROOT = Path(__file__).resolve().parents[2]
SECONDS = float(os.environ.get("FUZZ_SECONDS") or 60)
# The parts and their shares of the time.
SHARES = {
    "environment": 3,
    "stdin": 3,
    "configuration": 4,
    "prevResult": 3,
    "records": 5,
    "leases": 4,
    "lease files": 2,
    "netlink": 3,
    "netlink answers": 4,
    "log": 4,
    "http": 4,
    "api server": 4,
    "runtime": 4,
    "runtime's pods": 2,
    "delegates": 4,
    "results": 2,
}
BATCH = 300  # inputs of one search; searches are repeated until the time is up
CALL_SECONDS = 60.0  # far more than one input needs on a busy machine: beyond this it hangs

bounded = settings(
    max_examples=BATCH,
    derandomize=False,
    deadline=None,
    database=DirectoryBasedExampleDatabase(ROOT / ".hypothesis" / "examples"),
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


class TimeIsOver(BaseException):
    """Ends a search. Not an Exception, which would fail the test."""


class Tally:
    """The calls of each part, and the seconds that the parts took."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}
        self.seconds = 0.0
        self._part = ""

    @contextmanager
    def searching(self, part: str) -> Iterator[None]:
        start = time.monotonic()
        self._part = part
        self.calls.setdefault(part, 0)
        try:
            yield
        finally:
            self._part = ""
            self.seconds += time.monotonic() - start

    def add(self, calls: int = 1) -> None:
        """Count calls if they are made by a search."""
        if self._part:
            self.calls[self._part] += calls

    def render(self) -> str:
        parts = ", ".join(f"{part} {calls}" for part, calls in self.calls.items())
        return f"fuzz: {sum(self.calls.values())} calls in {self.seconds:.1f} s ({parts})"


TALLY = Tally()


def search(part: str, *, leaks: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a test with @given search until its share of the time is up.

    No input may take longer than CALL_SECONDS or, with `leaks`, leave a descriptor open. (Where our own
    threads run, the fixture that starts them checks that.)
    """
    seconds = SECONDS * SHARES[part] / sum(SHARES.values())

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        handle: Any = test
        check = handle.hypothesis.inner_test
        end = 0.0
        has_failed = False

        @functools.wraps(check)
        def check_one(*arguments: Any, **named: Any) -> None:
            nonlocal has_failed
            if time.monotonic() > end and not has_failed and TALLY.calls[part]:
                raise TimeIsOver
            before = descriptors() if leaks else {}
            try:
                with limited():
                    check(*arguments, **named)
                if leaks:
                    assert descriptors() == before, "a descriptor was left open"
            except HypothesisException:
                raise
            except Exception:
                has_failed = True  # hypothesis now shrinks the input, which takes time
                raise

        handle.hypothesis.inner_test = check_one
        one_search = bounded(test)

        @functools.wraps(one_search)
        def search_on(*arguments: Any, **named: Any) -> None:
            nonlocal end
            with TALLY.searching(part):
                end = time.monotonic() + seconds
                try:
                    while not TALLY.calls[part] or time.monotonic() < end:
                        one_search(*arguments, **named)
                except TimeIsOver:
                    pass
                assert TALLY.calls[part], "nothing was called"

        return search_on

    return decorate


@contextmanager
def limited() -> Iterator[None]:
    """Raise AssertionError if the body takes too long."""

    def expire(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"the call hangs: no end after {CALL_SECONDS:g} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, CALL_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def descriptors() -> dict[str, str]:
    """Return the open descriptors and what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the descriptor of the listing itself
            pass
    return found
