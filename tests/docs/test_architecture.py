"""docs/architecture.md describes the tree as it is: its layers, its files, the steps of the log."""

from __future__ import annotations

import re
from pathlib import Path

from tests.unit.test_imports import FLOORS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/architecture.md").read_text()
FILE = re.compile(r"`((?:\w+/)+\w+\.(?:py|c))`")
FLOOR = re.compile(r"^\| (\d+) \| ((?:`[\w/]+`(?:, )?)+) \|", re.MULTILINE)
STEP = re.compile(r"`([a-z_]+)`")


def test_every_file_exists() -> None:
    names = FILE.findall(TEXT)
    assert len(names) > 40
    assert [name for name in names if not (ROOT / name).exists() and not (ROOT / "ib_sriov_cni" / name).exists()] == []


def test_the_floors_are_those_of_the_imports() -> None:
    floors: dict[int, set[str]] = {}
    for number, names in FLOOR.findall(TEXT):
        rooms = floors.setdefault(int(number), set())
        rooms |= {name.replace("/", ".") for name in re.findall(r"`([\w/]+)`", names)}
    assert [floors[number] for number in sorted(floors)] == [set(floor) for floor in FLOORS]


def test_every_step_is_one_of_the_code() -> None:
    table = TEXT.partition("| step | file | what happens |")[2].partition("\n\n")[0]
    steps = {step for row in table.splitlines() for step in STEP.findall(row.split("|")[1] if "|" in row else "")}
    sources = "".join(path.read_text() for path in (ROOT / "ib_sriov_cni/attach").glob("*.py"))
    in_code = set(re.findall(r'log\.step\(\s*"(\w+)"', sources))
    assert "commit" in steps
    assert steps - in_code == set()
