"""What the benchmarks share: the programs that are compared, and what one run of a program costs."""

from __future__ import annotations

import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / ".test-results" / "bench"
OURS, GO, PEER = "ours", "Go", "peer"
PACKED = "packed"  # what `make build` makes; a variable of this name in capitals names another program


@dataclass(frozen=True, kw_only=True)
class Program:
    """One of the compared programs; `kind` says which configuration it understands."""

    name: str
    kind: str
    command: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one run took, in milliseconds; processor time includes that of its children."""

    wall: float
    cpu: float


@dataclass(kw_only=True)
class Row:
    """One case of one program over the rounds; `peak` in MiB, the largest of its processes."""

    case: str
    program: str
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak: float = 0.0

    def add(self, cost: Cost) -> None:
        self.wall.append(round(cost.wall, 2))
        self.cpu.append(round(cost.cpu, 2))


class Table:
    """The rows of a benchmark, by case and program."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Row] = {}

    def add(self, case: str, program: str, cost: Cost) -> None:
        self.row(case, program).add(cost)

    def row(self, case: str, program: str) -> Row:
        return self.rows.setdefault((case, program), Row(case=case, program=program))

    def dump(self) -> list[dict[str, Any]]:
        return [vars(row) for row in self.rows.values()]


def library_path() -> list[str]:
    """Return where pyroute2 and pyverbs are."""
    return [folder for folder in sys.path if folder.endswith("-packages")]


def source_command(root: Path) -> tuple[str, ...]:
    """Our program from its source, by a bare interpreter as the packed ones have it."""
    path = [str(root), *library_path()]
    program = f"import sys; sys.path[:0] = {path!r}; from ib_sriov_cni.__main__ import main; sys.exit(main())"
    return (sys.executable, "-I", "-S", "-c", program)


def programs(folder: Path, go: str) -> list[Program]:
    """Copy the programs into a folder, so that all start from one file system; `go` is the Go plugin's path."""
    for package in ("ib_sriov_cni", "ipam"):
        shutil.copytree(ROOT / package, folder / "source" / package, dirs_exist_ok=True)
    found = [
        Program(name="Go", kind=GO, command=(copied(Path(go), folder / "go"),)),
        Program(name="source", kind=OURS, command=source_command(folder / "source")),
    ]
    path = Path(os.environ.get(PACKED.upper()) or ROOT / "dist" / "ib-sriov")
    if path.is_file():
        found.append(Program(name=PACKED, kind=OURS, command=(copied(path, folder / PACKED),)))
    peer = os.environ.get("PEER")
    if peer:
        found.append(Program(name=os.path.basename(peer), kind=PEER, command=(copied(Path(peer), folder / "peer"),)))
    return found


def copied(path: Path, folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    return str(shutil.copy2(path, folder / path.name))


def go_plugins(*names: str, built: bool = False) -> list[str]:
    """The paths of Go plugins; `built`: they exist already (the guest has no network)."""
    command = [str(ROOT / "tests/tools/go-client"), *(["--built"] if built else []), *names]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()


class Failed(RuntimeError):
    """A program did not do what was to be measured."""


class Running:
    """A program that was started; `end` returns what it cost."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], conf: Any, statuses: Sequence[int]) -> None:
        self._command, self._statuses = command, statuses
        self._out = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `end`
        with tempfile.TemporaryFile() as stdin:
            stdin.write(json.dumps(conf).encode())
            stdin.seek(0)
            files = (stdin, self._out, self._out)
            actions = [(os.POSIX_SPAWN_DUP2, file.fileno(), fd) for fd, file in enumerate(files)]
            self._start = time.perf_counter()
            self._pid = os.posix_spawn(command[0], list(command), dict(environ), file_actions=actions)

    def end(self) -> Cost:
        _, status, usage = os.wait4(self._pid, 0)
        wall = (time.perf_counter() - self._start) * 1000
        self._out.seek(0)
        said = self._out.read().decode(errors="replace")
        self._out.close()
        if os.waitstatus_to_exitcode(status) not in self._statuses:
            raise Failed(f"{list(self._command)}: status {os.waitstatus_to_exitcode(status)}: {said}")
        return Cost(wall=wall, cpu=(usage.ru_utime + usage.ru_stime) * 1000)


def run(command: Sequence[str], environ: Mapping[str, str], conf: Any, statuses: Sequence[int] = (0,)) -> Cost:
    """Run a program to its end; its status has to be one of `statuses`."""
    return Running(command, environ, conf, statuses).end()


def peak(command: Sequence[str], environ: Mapping[str, str], conf: Any, statuses: Sequence[int] = (0,)) -> float:
    """Run it once more, and return the most memory that any of its processes had, in MiB.

    A small program starts it: the kernel also counts the memory of the starting process, and ours is large.
    """
    with tempfile.NamedTemporaryFile("r") as told:
        run((_busybox(), "time", "-f", "%M", "-o", told.name, *command), environ, conf, statuses)
        return int(told.read().split()[-1]) / _unit()


def _busybox() -> str:
    return shutil.which("busybox") or "busybox"


@functools.cache
def _unit() -> int:
    """Return what busybox prints for one MiB: some take the kernel's KiB for pages. Measured with a 64 MiB block."""
    block = ("dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1")
    command = [_busybox(), "time", "-f", "%M", _busybox(), *block]
    said = subprocess.run(command, stderr=subprocess.PIPE, check=True, text=True).stderr
    return 1024 * round(int(said.split()[-1]) / (64 << 10))


def rounds(count: int, seconds: float, act: Callable[[int], None], *, least: int = 3) -> int:
    """Repeat `count` times, fewer if the time is up, but at least `least` times; return the number of repetitions."""
    deadline = time.monotonic() + seconds
    for number in range(count):
        if number >= least and time.monotonic() > deadline:
            return number
        act(number)
    return count


def render(rows: Sequence[Mapping[str, Any]], base: str = "Go") -> str:
    """Return the rows as Markdown: medians, and their ratio to the base's."""
    lines = [
        f"| case | program | wall, ms | times {base} | processor, ms | times {base} | peak memory, MiB | rounds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        against = next((each for each in rows if (each["case"], each["program"]) == (row["case"], base)), None)
        cells = [row["case"], row["program"]]
        for what in ("wall", "cpu"):
            median = statistics.median(row[what])
            cells.append(f"{median:.1f}")
            cells.append(f"{median / statistics.median(against[what]):.2f}" if against and against is not row else "")
        cells += [f"{row['peak']:.1f}" if row["peak"] else "", str(len(row["wall"]))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def save(name: str, document: Any) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(document))
