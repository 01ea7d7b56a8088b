"""The table of docs/conformance.md: each line of the contracts, the tests that show it, and what became of them.

Results come from the junit files of the last `make test`. Lines that have their tests elsewhere are named with the
folder they are in. Nothing that changes from run to run (times, dates) is in the table.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / ".test-results"
DOCUMENT = ROOT / "docs/conformance.md"
NAME = re.compile(r"test_([cn])0?(\d+)_\w+")
DEFINITION = re.compile(r"^def (test_[cn]0?\d+_\w+)\(", re.MULTILINE)
# The suite's junit file, the module whose tests count, and the lines they count for.
SOURCES = (
    ("conformance.xml", "tests/conformance/", ""),
    ("lab.xml", "tests/lab/test_attach_go.py", "N6"),
    ("ipam.xml", "tests/ipam/test_slices.py", "N7"),
)
LINES = {
    "C1": "variables each command needs",
    "C2": "missing variables and unknown commands; no command: a person",
    "C3": "names of containers, networks and interfaces",
    "C4": "input: unreadable 5, no object 6, faults 7 (all in one answer), values 2",
    "C5": "errors: one document, nothing else on stdout; logs elsewhere",
    "C6": "versions 0.1.0 to 1.1.0, and commands that came later",
    "C7": "results in the shape of each version",
    "C8": "an interface name that is taken",
    "C9": "prevResult: kept, indices right; read by the next plugin",
    "C10": "delegates: looked up, what they get, their faults",
    "C11": "a failed ADD leaves the host as it was",
    "C12": "the key: network, container, interface",
    "C13": "DEL: repeatable, whatever is left",
    "C14": "DEL: a fault keeps nothing else from its release",
    "C15": "CHECK",
    "C16": "GC by list; no list releases nothing",
    "C17": "GC never harms the living",
    "C18": "STATUS, and what to do",
    "C19": "CNI_ARGS, args.cni, runtimeConfig: known keys, precedence, types",
    "C20": "the plugin's own namespace",
    "C21": "locks: bounded, per VF",
    "N1": "what Multus injects",
    "N2": "healing on the next ADD",
    "N3": "under a chroot (thick Multus)",
    "N4": "device information",
    "N5": "ib-kubernetes",
    "N6": "attachments of the Go plugin",
    "N7": "flannel's subnet file",
    "N8": "kubelet 1.15 with Multus 3: 0.2.0, 0.3.1",
}
HEAD = """\
# Conformance
Each line of the contracts with the world around the plugin: C, the CNI protocol; N, its neighbours. For each one the
tests that show it, run against the emulated HCA, and the result of the last run. This file is generated: `make test`,
then `make conformance-table`. Behind a test stands the number of its cases where it has several (one for each version
of the specification, say). Real clients (cnitool, Multus, containerd, podman, kubelet) are in
[runtimes.md](runtimes.md).

| line | what | test | result |
|---|---|---|---|
"""


@dataclass
class Row:
    """One test function: how many of its cases passed and failed."""

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
    """The contract line a test's name begins with, "C7"; empty if it names none."""
    match = NAME.match(name)
    return f"{match[1].upper()}{match[2]}" if match else ""


def read_rows(results: Path) -> dict[str, Row]:
    """The rows of all sources, by the test's place; ValueError names what was not run."""
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
    """The document."""
    text = HEAD
    for line, words in LINES.items():
        own = [row for row in rows.values() if row.line == line]
        for row in own:
            text += f"| {line} | {words} | `{row.place.removeprefix('tests/')}` | {row.result} |\n"
        if not own:
            text += f"| {line} | {words} | | NOT TESTED |\n"
    return text


def defined_tests() -> set[str]:
    """The tests that the sources hold, by place, whether they were run or not."""
    found = set()
    for _, module, only in SOURCES:
        path = ROOT / module
        for file in sorted(path.glob("test_*.py")) if path.is_dir() else [path]:
            names = DEFINITION.findall(file.read_text())
            found |= {f"{file.relative_to(ROOT)}::{name}" for name in names if only in ("", line_of(name))}
    return found
