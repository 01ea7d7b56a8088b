"""The documentation as a site: complete, and readable without a network."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DRAWINGS = sorted((ROOT / "docs").rglob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"


class Fetched(HTMLParser):
    """What a browser fetches when it opens a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag in {"script", "img", "iframe", "source", "object", "embed"}:
            self.addresses += [found.get("src") or found.get("data") or ""]
        if tag == "link" and found.get("rel") not in {"canonical", "next", "prev", "edit"}:
            self.addresses += [found.get("href") or ""]


def pages(site: Path) -> list[Path]:
    return sorted(site.glob("*.html"))


def test_every_page_is_there(site: Path) -> None:
    built = {page.stem for page in pages(site)}
    assert {page.stem for page in (ROOT / "docs").glob("*.md")} <= built


def test_a_browser_fetches_nothing_from_elsewhere(site: Path) -> None:
    for page in pages(site):
        parser = Fetched()
        parser.feed(page.read_text())
        assert parser.addresses
        assert [text for text in parser.addresses if re.match(r"(https?:)?//", text)] == [], page.name
    for style in site.rglob("*.css"):
        assert re.findall(r"url\(['\"]?(?:https?:)?//[^)]*", style.read_text()) == []


def test_no_link_leaves_the_site_by_a_path(site: Path) -> None:
    for page in pages(site):
        assert re.findall(r'href="\.\./[^"]*\.md', page.read_text()) == [], page.name


@pytest.mark.parametrize(
    "text", ["[a](nowhere.md)", "[a](guids.md#nowhere)", "[a](../nowhere.md)", "![a](images/nowhere.svg)"]
)
def test_what_leads_nowhere_stops_the_build(tmp_path: Path, text: str) -> None:
    """Otherwise the strict build above would prove nothing."""
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text(f"# Title\n{text}\n")
    (docs / "guids.md").write_text("# GUIDs\n")
    settings = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[0]
    settings = settings.replace("packaging/site", str(ROOT / "packaging/site"))
    (tmp_path / "mkdocs.yml").write_text(settings)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "nowhere" in done.stdout + done.stderr


@pytest.mark.parametrize("drawing", DRAWINGS, ids=lambda path: path.name)
def test_drawings_can_be_read_by_everybody(drawing: Path) -> None:
    """They say in words what they show, bring their own background (for the dark theme), and fetch nothing."""
    tree = ET.parse(drawing).getroot()  # noqa: S314  our own
    text = drawing.read_text()
    assert tree.get("viewBox")
    if "images" in drawing.parts:  # pictures of terminals are described where they are used
        assert (tree.findtext(f"{SVG}title") or "").strip()
        assert (tree.findtext(f"{SVG}desc") or "").strip()
    assert re.findall(r"(?:href|src|url)\s*[=(]\s*['\"]?https?:", text) == []  # a comment may name its generator
    assert any(drawing.name in page.read_text() for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
