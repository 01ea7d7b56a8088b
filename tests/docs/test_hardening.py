"""The table of docs/hardening.md: each boundary has a test, and each test named there exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/hardening.md").read_text()
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
TITLE = "| who | what it may do | what it may not do | shown by |\n|---|---|---|---|\n"
BOUNDARIES = (
    "environment and standard input",
    "NetworkAttachmentDefinition",
    "defaults.json",
    "annotations",
    "without CAP_NET_ADMIN",
    "with CAP_NET_ADMIN",
    "IPAM plugin",
    "state, lease and lock directories",
    "log and trace files",
    "device-info file",
    "HTTP port",
    "API server",
    "runtime's socket",
    "netlink",
    "fabric",
    "terminal",
)


def rows() -> list[list[str]]:
    lines = TEXT.partition(TITLE)[2].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_every_boundary_has_a_row_of_its_own() -> None:
    found = [[name for name in BOUNDARIES if name in cells[0]] for cells in rows()]
    assert sorted(name for names in found for name in names) == sorted(BOUNDARIES)
    assert [len(names) for names in found] == [1] * len(BOUNDARIES)


def test_every_row_is_whole_and_names_a_test() -> None:
    for cells in rows():
        assert len(cells) == 4, cells
        assert all(cells), cells
        assert TEST.sub("", cells[3]).strip() == "", cells[3]
        assert TEST.search(cells[3]), cells[0]


def test_every_test_exists() -> None:
    named = TEST.findall(TEXT)
    assert len(named) > 30
    missing = [f"{path}::{name}" for path, name in named if name not in functions_of(ROOT / path)]
    assert missing == []
