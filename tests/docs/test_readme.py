"""README.md and README.zh.md say the same in two languages."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```[^\n]*\n.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)]+)\)")


def text(name: str) -> str:
    return (ROOT / name).read_text()


def prose(name: str) -> str:
    return FENCE.sub("", text(name))


def headings(name: str) -> list[int]:
    """Return the level of each heading, in order."""
    return [len(marks) for marks in re.findall(r"^(#+) ", prose(name), re.MULTILINE)]


def shape(name: str) -> list[str]:
    """Return the sequence of elements: headings, list items, rows, code blocks, paragraphs."""
    kinds: list[str] = []
    for line in FENCE.sub("\n~~~\n", text(name)).splitlines():
        if line.startswith("#"):
            kinds.append(line.partition(" ")[0])
        elif line.startswith("- "):
            kinds.append("item")
        elif line.startswith("|"):
            kinds.append("row")
        elif line == "~~~":
            kinds.append("code")
    return kinds


def test_the_same_sections() -> None:
    assert headings("README.md") == headings("README.zh.md")
    assert shape("README.md") == shape("README.zh.md")
    assert len(headings("README.md")) > 4


def test_the_same_code() -> None:
    assert FENCE.findall(text("README.md")) == FENCE.findall(text("README.zh.md"))
    assert len(FENCE.findall(text("README.md"))) > 2


def test_the_same_links_and_each_leads_somewhere() -> None:
    ours, theirs = LINK.findall(text("README.md")), LINK.findall(text("README.zh.md"))
    assert ours[0] == "README.zh.md"
    assert theirs[0] == "README.md"
    assert ours[1:] == theirs[1:]
    assert [link for link in ours if not (ROOT / link.partition("#")[0]).exists()] == []


def test_it_is_chinese() -> None:
    """Not a copy: most of its prose is in Chinese characters, and every section has some."""
    for section in re.split(r"^#+ ", prose("README.zh.md"), flags=re.MULTILINE)[1:]:
        assert re.search(r"[\u4e00-\u9fff]", section)
    assert len(re.findall(r"[\u4e00-\u9fff]", prose("README.zh.md"))) > 600
