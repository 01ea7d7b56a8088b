"""For mkdocs: a link that leaves docs/ for the repository becomes the path's name, for the site does not hold the file.

Readers of the repository keep their link. One that leads nowhere stops the build.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = re.compile(r"\[(?P<text>[^\]]+)\]\(\.\./(?P<path>[^)#]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, **_given: Any) -> str:
    """Called by mkdocs for each page."""
    return OUTSIDE.sub(_named, markdown)


def _named(link: re.Match[str]) -> str:
    text, path = link["text"], link["path"]
    if not (ROOT / path).exists():
        raise PluginError(f"a link leads to {path}, which is not in the repository")
    return f"`{path}`" if text.strip("`") == path else f"{text} (`{path}`)"
