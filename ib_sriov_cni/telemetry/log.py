"""Door to the log: one logfmt line a step, from logLevel on, to logFile; to stderr what is a warning or worse,
and everything where there is no logFile.

A line is written in one piece and appended, so that processes can share a file (docs/decisions).
With IB_SRIOV_TRACE the steps are written as a timeline too (`trace`).
"""

from __future__ import annotations

import os
import time

from ib_sriov_cni.telemetry import TIMELINE
from ib_sriov_cni.telemetry.fault_points import strike
from ib_sriov_cni.telemetry.span import write_span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.,:;/@%+-~[]{}()*#?&!|<>$^'")


class Log:
    """A log for one invocation; `context` stands in each of its lines."""

    def __init__(self, *, level: str = "info", path: str = "", context: dict[str, str] | None = None) -> None:
        """`level` is a key of LEVELS; `path` empty: no file."""
        self._level = LEVELS[level]
        self._path = path
        self._fd = -1  # of the file, once a line was written
        self._context = _fields(context or {})
        self._start = time.monotonic()
        self.steps: list[str] = []  # names of the steps that were done, in order

    @property
    def debugging(self) -> bool:
        """Whether debug lines are wanted."""
        return self._level <= LEVELS["debug"]

    @property
    def where(self) -> str:
        """Where its lines are."""
        return self._path or "standard error"

    def debug(self, message: str, **facts: object) -> None:
        """Write a line at debug."""
        self._write("debug", {"msg": message, **facts})

    def info(self, message: str, **facts: object) -> None:
        """Write a line at info."""
        self._write("info", {"msg": message, **facts})

    def warning(self, message: str, **facts: object) -> None:
        """Write a line at warning."""
        self._write("warning", {"msg": message, **facts})

    def error(self, message: str, **facts: object) -> None:
        """Write a line at error."""
        self._write("error", {"msg": message, **facts})

    def done(self, level: str = "info") -> None:
        """Write the line of a command that ends well; the node agent counts these and the refusals."""
        self._write(level, {"msg": "done", "code": 0, "ms": self._elapsed()})

    def refuse(self, *, code: int, error: str, hint: str) -> None:
        """Write the line of a command that ends with an error document."""
        self._write("error", {"msg": "refused", "code": code, "error": error, "hint": hint, "ms": self._elapsed()})

    def fail(self, *, code: int, traceback: str) -> None:
        """Write the line of a command that ends with a defect of ours."""
        self._write("error", {"msg": "internal fault", "code": code, "traceback": traceback, "ms": self._elapsed()})

    def _elapsed(self) -> str:
        return f"{(time.monotonic() - self._start) * 1000:.1f}"

    def step(self, name: str, **facts: object) -> Step:
        """Give a `with` block that is one step: its line tells the facts, the result and the milliseconds."""
        return Step(self, name, facts)

    def write_step(self, level: str, facts: dict[str, object]) -> None:
        """Write a step's line."""
        self._write(level, facts)

    def _write(self, level: str, facts: dict[str, object]) -> None:
        number = LEVELS[level]
        if number < self._level:
            return
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"
        line = f"time={stamp} level={level} {self._context}{_fields(facts)}".rstrip() + "\n"
        if self._path:
            self._append(line)
        if number >= LEVELS["warning"] or not self._path:
            _write_all(2, line)

    def _append(self, line: str) -> None:
        if self._fd < 0:
            try:
                # Not to wait for the reader of a pipe, nor to be tied to a terminal.
                flags = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOFOLLOW
                self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | flags, 0o640)
            except OSError as fault:
                _write_all(2, f"level=warning msg={_quote(f'cannot open logFile {self._path}: {fault.strerror}')}\n")
                self._path = ""  # say so once
                return
        _write_all(self._fd, line)

    def close(self) -> None:
        """Let go of the file, which the next line opens again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Step:
    """One step of the story, timed and logged."""

    def __init__(self, log: Log, name: str, facts: dict[str, object]) -> None:
        """See Log.step."""
        self._log = log
        self._name = name
        self._facts = facts
        self._start = 0.0

    def note(self, **facts: object) -> None:
        """Add facts that are known only now."""
        self._facts.update(facts)

    def __enter__(self) -> Self:
        """Start the clock."""
        self._start = time.monotonic()
        strike(self._name)
        return self

    def __exit__(self, _kind: type[BaseException] | None, fault: BaseException | None, _trace: object) -> None:
        """Write the line."""
        facts: dict[str, object] = {"step": self._name, **self._facts}
        if fault is not None:
            facts["error"] = fault
        facts["ms"] = f"{(time.monotonic() - self._start) * 1000:.1f}"
        self._log.write_step("info" if fault is None else "error", facts)
        if TIMELINE in os.environ:
            write_span(self._name, self._start, {key: str(fact) for key, fact in facts.items() if key != "step"})
        if fault is None:
            self._log.steps.append(self._name)
            strike(f"{self._name}.done")


def _fields(facts: dict[str, object] | dict[str, str]) -> str:
    return "".join([f"{key}={_quote(str(fact))} " for key, fact in facts.items() if fact not in ("", None)])


def _quote(text: str) -> str:
    """Keep a value one word on one line, whatever is in it."""
    if text and PLAIN.issuperset(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join([c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped]) + '"'


def _write_all(fd: int, text: str) -> None:
    try:
        os.write(fd, text.encode(errors="replace"))
    except OSError:
        pass  # a log that cannot be written must not fail a pod
