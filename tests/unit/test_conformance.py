"""docs/conformance.md is complete, and is what the generator writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conformance import table

ROW = re.compile(r"^\| \[([CN]\d+)\]\(contracts\.md#[cn]\d+\) \| (.+) \| `(.+)` \| (.+) \|$", re.MULTILINE)


def rows() -> list[tuple[str, str, str, str]]:
    found = ROW.findall(table.DOCUMENT.read_text())
    return [(line, words, f"tests/{place}", result) for line, words, place, result in found]


def test_every_line_of_the_contracts_is_there() -> None:
    wanted = [f"C{number}" for number in range(1, 22)] + [f"N{number}" for number in range(1, 9)]
    assert list(table.LINES) == wanted
    assert [line for line in wanted if line not in {row[0] for row in rows()}] == []


def test_every_test_is_there_and_no_other() -> None:
    assert {row[2] for row in rows()} == table.defined_tests()


def test_it_is_what_the_generator_writes() -> None:
    """Rendering the document's rows again gives the same document."""
    again: dict[str, table.Row] = {}
    for line, _, place, result in rows():
        count = re.fullmatch(r"passed(?: \((\d+)\))?", result)
        assert count, f"{place}: {result}"
        again[place] = table.Row(line=line, place=place, passed=int(count[1] or 1))
    assert table.render(again) == table.DOCUMENT.read_text()


def test_rows_from_results(tmp_path: Path) -> None:
    """The cases of a test are counted together; skipped and failed cases still show."""
    cases = (
        ("tests.conformance.test_a", "test_c07_x[1.0.0]", ""),
        ("tests.conformance.test_a", "test_c07_x[1.1.0]", ""),
        ("tests.conformance.test_a", "test_n01_y[a]", "<failure/>"),
        ("tests.conformance.test_a", "test_n01_z", "<skipped/>"),
        ("tests.conformance.test_a", "test_other", ""),
    )
    others = {"attach.xml": "tests.lab.attach.test_go", "ipam.xml": "tests.ipam.test_slices"}
    for name, module in others.items():
        case = f'<testcase classname="{module}" name="test_n6_a"/><testcase classname="{module}" name="test_n7_a"/>'
        (tmp_path / name).write_text(f"<testsuites>{case}</testsuites>")
    text = "".join([f'<testcase classname="{module}" name="{name}">{end}</testcase>' for module, name, end in cases])
    (tmp_path / "conformance.xml").write_text(f"<testsuites>{text}</testsuites>")
    found = table.read_rows(tmp_path)
    assert {place.rpartition("::")[2]: (row.line, row.result) for place, row in found.items()} == {
        "test_c07_x": ("C7", "passed (2)"),
        "test_n01_y": ("N1", "FAILED: a"),
        "test_n01_z": ("N1", "FAILED: it"),
        "test_n6_a": ("N6", "passed"),
        "test_n7_a": ("N7", "passed"),
    }
    assert f"| [C8](contracts.md#c8) | {table.LINES['C8']} | | NOT TESTED |" in table.render(found)


def test_results_that_are_absent(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run `make test` first"):
        table.read_rows(tmp_path)
