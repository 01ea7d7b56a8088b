"""The demo's output: numbered steps in plain sentences, each with its time; colour on a terminal only."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from typing import IO

WIDTH = 100
BOLD, DIM, RED, GREEN, CYAN = "1", "2", "31", "32", "36"
FRAMES = "|/-\\"


def wants_colour(stream: IO[str]) -> bool:
    """Whether a stream is a terminal whose user has not asked for plain text (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


class StepFailed(Exception):
    """A step of the story failed; the reason has been printed already."""


class Story:
    """Prints steps on stdout."""

    def __init__(self, *, colour: bool) -> None:
        self.colour = colour
        self.steps = 0

    def paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text

    def line(self, text: str = "") -> None:
        print(text, flush=True)

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """One step: its sentence, what is printed inside, the time it took. A failure inside ends the story."""
        self.steps += 1
        self.line()
        self.line(self.paint(f"{self.steps:2}. {title}", BOLD))
        start = time.monotonic()
        try:
            yield
        except (AssertionError, OSError, subprocess.SubprocessError) as fault:
            self.line(self.paint(f"    FAILED after {time.monotonic() - start:.1f} s: {fault}", RED))
            raise StepFailed(title) from fault
        self.line(self.paint(f"    done in {time.monotonic() - start:.1f} s", GREEN))

    def say(self, text: str) -> None:
        """Print a sentence."""
        self.line(textwrap.fill(text, WIDTH, initial_indent="    ", subsequent_indent="    "))

    def command(self, line: str) -> None:
        """Print a command as one would type it."""
        self.line(self.paint(f"    $ {line}", CYAN))

    def show(self, text: str) -> None:
        """Print what a command printed."""
        for each in text.rstrip().splitlines():
            self.line(self.paint(f"      {each.rstrip()}", DIM))


class Progress:
    """A line that is updated while something takes time; without a terminal, one line at the end."""

    def __init__(self, story: Story, what: str) -> None:
        self.story = story
        self.what = what
        self.start = time.monotonic()
        self.live = sys.stdout.isatty()
        self.ticks = 0

    def seconds(self) -> float:
        return time.monotonic() - self.start

    def tick(self, detail: str = "") -> None:
        if self.live:
            self.ticks += 1
            text = f"  {FRAMES[self.ticks % len(FRAMES)]} {self.what} {self.seconds():.0f} s  {detail}"
            sys.stdout.write(f"\r\x1b[K{text[: os.get_terminal_size().columns - 1]}")
            sys.stdout.flush()

    def clear(self) -> None:
        """Make room for a line of text."""
        if self.live and self.ticks:
            sys.stdout.write("\r\x1b[K")
            sys.stdout.flush()

    def end(self, verdict: str = "") -> None:
        self.clear()
        text = f"  {self.what}: {verdict or f'{self.seconds():.1f} s'}"
        self.story.line(self.story.paint(text, RED) if verdict else text)


def last_line(path: str) -> str:
    """Return the last line of a log that is being written."""
    with open(path, "rb") as log:
        log.seek(max(0, os.fstat(log.fileno()).st_size - 400))
        lines = log.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def run_with_progress(story: Story, what: str, command: Sequence[str], log: str) -> bool:
    """Run a command to its end, its output to a file; return whether it succeeded. A failure shows the file's end."""
    progress = Progress(story, what)
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            progress.tick(last_line(log))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
    status = process.returncode
    progress.end(f"failed with status {status}" if status else "")
    if status:
        with open(log, encoding="utf-8", errors="replace") as said:
            story.show("\n".join(said.read().splitlines()[-20:]))
    return status == 0
