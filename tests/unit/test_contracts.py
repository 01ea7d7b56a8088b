"""docs/contracts.md defines every line that modules, tests and pages cite, and each of its lines is cited."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs/contracts.md"
HEADING = re.compile(r"^### (.+)\n", re.MULTILINE)
# One line, "C7", or a range of them, "H1 to H8".
CITATION = re.compile(r"\b([CHN])(\d{1,2})\b(?:(?: to |-)\1(\d{1,2})\b)?")
LINES = [f"{kind}{number}" for kind, last in (("C", 21), ("H", 8), ("N", 8)) for number in range(1, last + 1)]
# Files that mention lines without testing or implementing them: the page itself, its table of results, examples.
NOT_CITING = {DOCUMENT, ROOT / "docs/conformance.md", ROOT / "tests/unit/test_conformance.py", Path(__file__)}


def citations(text: str) -> set[str]:
    """Return the lines that a text cites, those inside ranges included."""
    found = set()
    for kind, first, last in CITATION.findall(text):
        found |= {f"{kind}{number}" for number in range(int(first), int(last or first) + 1)}
    return found


def cited_by(*folders: str) -> dict[Path, set[str]]:
    """Return what each Python module and page in some folders cites."""
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*")) if path.suffix in {".py", ".md"}]
    found = {path: citations(path.read_text(encoding="utf-8")) for path in paths if path not in NOT_CITING}
    return {path: lines for path, lines in found.items() if lines}


def sections() -> dict[str, str]:
    """Return the text of each line by its number."""
    parts = HEADING.split(DOCUMENT.read_text(encoding="utf-8"))
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_lines_are_numbered_without_gaps() -> None:
    assert HEADING.findall(DOCUMENT.read_text(encoding="utf-8")) == LINES


@pytest.mark.parametrize("line", LINES)
def test_a_line_has_a_title_a_text_and_a_source(line: str) -> None:
    assert re.match(r"\*\*[^*]+\.\*\* \S", sections()[line])
    assert re.search(r"^Source: \S", sections()[line], re.MULTILINE)


def test_every_cited_line_is_defined() -> None:
    unknown = [
        f"{path.relative_to(ROOT)}: {line}"
        for path, lines in cited_by("ib_sriov_cni", "ipam", "tests", "docs").items()
        for line in sorted(lines - set(LINES))
    ]
    assert unknown == []


def test_every_line_is_cited_by_a_module_or_a_test() -> None:
    cited = set().union(*cited_by("ib_sriov_cni", "ipam", "tests").values())
    assert [line for line in LINES if line not in cited] == []


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("refuse our own namespace (C20)", {"C20"}),
        ("keys and order (H1 to H3, C4)", {"H1", "H2", "H3", "C4"}),
        ("the protocol (C1-C21)", {f"C{number}" for number in range(1, 22)}),
        ("N1, N2 and CNI, C, VFC3, test_c07_results, C100", {"N1", "N2"}),
    ],
)
def test_citations(text: str, lines: set[str]) -> None:
    assert citations(text) == lines
