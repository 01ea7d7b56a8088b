"""Door to the log: one logfmt line per step, if its level is logLevel or above.

Lines go to logFile, warnings and errors also to stderr; without logFile, all lines go to stderr. Each line is appended
by one write, so that processes can share a file. With IB_SRIOV_TRACE, steps also go to a timeline (timeline.py).

Values may come from anybody: they have no control characters, and are cut to LOG_VALUE_BYTES, or as BOUNDS says.
"""

from __future__ import annotations

import os
import time

from ib_sriov_cni.telemetry import TIMELINE
from ib_sriov_cni.telemetry.fault_points import inject_fault
from ib_sriov_cni.telemetry.span import write_span
from ipam.protocol.bounds import LOG_VALUE_BYTES, MESSAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.,:;/@%+-~[]{}()*#?&!|<>$^'")
ESCAPES = {"\\": "\\\\", '"': '\\"'}
# Of fields that may be longer than LOG_VALUE_BYTES.
BOUNDS = {"error": MESSAGE_BYTES, "hint": MESSAGE_BYTES}


class Log:
    """The log of one invocation; each line has the fields of `context`."""

    def __init__(self, *, level: str = "info", path: str = "", context: dict[str, str] | None = None) -> None:
        """`level` is a key of LEVELS. An empty `path` means no file; a file is opened for the first line."""
        self._level = LEVELS[level]
        self._path = path
        self._fd = -1  # of the file, while it is open
        self._context = _fields(context or {})
        self._start = time.monotonic()
        self.steps: list[str] = []  # names of the steps that have succeeded, in order

    @property
    def debugging(self) -> bool:
        """Whether debug lines are written."""
        return self._level <= LEVELS["debug"]

    @property
    def where(self) -> str:
        """Where to find the lines, in words."""
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
        """Write the line of a command that succeeded. The node agent reads this line and the next two."""
        self._write(level, {"msg": "done", "code": 0, "ms": self._elapsed()})

    def refuse(self, *, code: int, error: str, hint: str) -> None:
        """Write the line of a command that ends with an error document."""
        self._write("error", {"msg": "refused", "code": code, "error": error, "hint": hint, "ms": self._elapsed()})

    def fail(self, *, code: int, defect: str) -> None:
        """Write the line of a command that ends because of a defect of this program."""
        self._write("error", {"msg": "internal fault", "code": code, "defect": defect, "ms": self._elapsed()})

    def _elapsed(self) -> str:
        return f"{(time.monotonic() - self._start) * 1000:.1f}"

    def step(self, name: str, **facts: object) -> Step:
        """Return a context manager for one step; its line has the facts, the error if any, and the milliseconds."""
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
            _write_line(2, line)

    def _append(self, line: str) -> None:
        if self._fd < 0:
            try:
                # Do not wait for the reader of a FIFO, nor make a terminal the controlling one.
                flags = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOFOLLOW
                self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | flags, 0o640)
            except OSError as fault:
                words = f"cannot open logFile {self._path}: {fault.strerror}"
                _write_line(2, f"level=warning {_fields({'msg': words})}\n")
                self._path = ""  # warn only once
                return
        _write_line(self._fd, line)

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Step:
    """One step of a command, timed and logged."""

    def __init__(self, log: Log, name: str, facts: dict[str, object]) -> None:
        """See Log.step."""
        self._log = log
        self._name = name
        self._facts = facts
        self._start = 0.0

    def note(self, **facts: object) -> None:
        """Add facts that become known during the step."""
        self._facts.update(facts)

    def __enter__(self) -> Self:
        """Start the clock."""
        self._start = time.monotonic()
        inject_fault(self._name)
        return self

    def __exit__(self, _kind: type[BaseException] | None, fault: BaseException | None, _trace: object) -> None:
        """Write the step's line and its span of the timeline."""
        facts: dict[str, object] = {"step": self._name, **self._facts}
        if fault is not None:
            facts["error"] = fault
        facts["ms"] = f"{(time.monotonic() - self._start) * 1000:.1f}"
        self._log.write_step("info" if fault is None else "error", facts)
        if TIMELINE in os.environ:
            args: dict[str, object] = {key: str(fact)[:LOG_VALUE_BYTES] for key, fact in facts.items() if key != "step"}
            write_span(self._name, self._start, args)
        if fault is None:
            self._log.steps.append(self._name)
            inject_fault(f"{self._name}.done")


def _fields(facts: dict[str, object] | dict[str, str]) -> str:
    return "".join(
        [
            f"{key}={_quote(str(fact), BOUNDS.get(key, LOG_VALUE_BYTES))} "
            for key, fact in facts.items()
            if fact not in ("", None)
        ]
    )


def _quote(text: str, most: int) -> str:
    """Return a value as one logfmt word on one line, quoted and escaped if necessary, with at most `most` bytes."""
    if text and len(text) <= most and PLAIN.issuperset(text):
        return text
    pieces = [ESCAPES.get(c) or (c if c.isprintable() else f"\\u{ord(c):04x}") for c in text[:most]]
    word = "".join(pieces)
    if len(text) > most or len(word.encode()) > most - 2:
        mark = f"… ({len(text)} characters)"
        word = _join_some(pieces, most - 2 - len(mark.encode())) + mark
    return f'"{word}"'


def _join_some(pieces: list[str], most: int) -> str:
    """Return the first pieces as one text of at most `most` bytes."""
    for count, piece in enumerate(pieces):
        most -= len(piece.encode())
        if most < 0:
            return "".join(pieces[:count])
    return "".join(pieces)


def _write_line(fd: int, text: str) -> None:
    try:
        os.write(fd, text.encode(errors="replace"))
    except OSError:
        pass  # a log that cannot be written must not fail a pod
