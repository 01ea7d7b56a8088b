"""The table of docs/conformance.md: each line of docs/contracts.md with its tests and their results.

The results come from the junit files of the last `make test`. SOURCES names the suites, and the modules outside
tests/conformance that test a line. The table holds nothing that changes from run to run (times, dates).
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / ".test-results"
DOCUMENT = ROOT / "docs/conformance.md"
CONTRACTS = ROOT / "docs/contracts.md"
NAME = re.compile(r"test_([cn])0?(\d+)_\w+")
DEFINITION = re.compile(r"^def (test_[cn]0?\d+_\w+)\(", re.MULTILINE)
# The suite's junit file, the module whose tests count, and the lines they count for.
SOURCES = (
    ("conformance.xml", "tests/conformance/", ""),
    ("attach.xml", "tests/lab/attach/test_go.py", "N6"),
    ("ipam.xml", "tests/ipam/test_slices.py", "N7"),
)
TITLE = re.compile(r"^### ([CN]\d+)\n\*\*(.+?)\.\*\*", re.MULTILINE | re.DOTALL)


def read_titles(text: str) -> dict[str, str]:
    """Return the titles of the C and N lines by number, from the text of docs/contracts.md."""
    return {line: " ".join(title.split()) for line, title in TITLE.findall(text)}


LINES = read_titles(CONTRACTS.read_text())
HEAD = """\
# Conformance
The results of the tests for each C line (CNI protocol) and N line (neighbours) of [contracts.md](contracts.md), which
says what each line demands and where that comes from. The tests call the plugin as a runtime does, on the emulated HCA.
A number in parentheses counts the cases of a test, such as one for each version of the specification. Tests with real
clients (cnitool, Multus, containerd, podman, kubelet) are in [runtimes.md](runtimes.md). This page is generated: run
`make test`, then `make conformance-table`.

| line | subject | test | result |
|---|---|---|---|
"""


@dataclass
class Row:
    """One test function, with the number of cases that passed and the names of those that failed."""

    line: str
    place: str
    passed: int = 0
    failed: list[str] = field(default_factory=list)

    @property
    def result(self) -> str:
        if self.failed:
            return f"FAILED: {', '.join(self.failed)}"
        return "passed" + (f" ({self.passed})" if self.passed > 1 else "")


def line_of(name: str) -> str:
    """Return the line that the name of a test begins with, such as "C7"; "" if it begins with none."""
    match = NAME.match(name)
    return f"{match[1].upper()}{match[2]}" if match else ""


def read_rows(results: Path) -> dict[str, Row]:
    """Return the rows of all sources, by the place of the test. Raises ValueError if a suite has not been run."""
    rows: dict[str, Row] = {}
    for junit, module, only in SOURCES:
        try:
            cases = ET.parse(results / junit).getroot().iter("testcase")  # noqa: S314  our own pytest wrote it
        except (OSError, ET.ParseError) as fault:
            raise ValueError(f"{results / junit}: {fault}: run `make test` first") from None
        for case in cases:
            place = case.get("classname", "").replace(".", "/") + ".py"
            function, _, parameters = case.get("name", "").partition("[")
            line = line_of(function)
            if not place.startswith(module) or not line or only not in ("", line):
                continue
            row = rows.setdefault(f"{place}::{function}", Row(line=line, place=f"{place}::{function}"))
            if all(case.find(kind) is None for kind in ("failure", "error", "skipped")):
                row.passed += 1
            else:
                row.failed.append(parameters.rstrip("]") or "it")
    return rows


def render(rows: dict[str, Row]) -> str:
    """Return the text of docs/conformance.md."""
    text = HEAD
    for line, words in LINES.items():
        own = [row for row in rows.values() if row.line == line]
        link = f"[{line}](contracts.md#{line.lower()})"
        for row in own:
            text += f"| {link} | {words} | `{row.place.removeprefix('tests/')}` | {row.result} |\n"
        if not own:
            text += f"| {link} | {words} | | NOT TESTED |\n"
    return text


def defined_tests() -> set[str]:
    """Return the places of all tests in the sources, run or not."""
    found = set()
    for _, module, only in SOURCES:
        path = ROOT / module
        for file in sorted(path.glob("test_*.py")) if path.is_dir() else [path]:
            names = DEFINITION.findall(file.read_text())
            found |= {f"{file.relative_to(ROOT)}::{name}" for name in names if only in ("", line_of(name))}
    return found
