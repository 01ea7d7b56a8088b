"""`make pictures`: what `ib-sriov list` and `ib-sriov doctor` print on a node in the lab, as SVG for the README."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs/pictures"
# The reader's own fonts: rich's template would have a browser fetch one from elsewhere.
FONT_FACE = re.compile(r"\s*@font-face \{.*?\n    \}", re.DOTALL)


def render(ansi: str, title: str) -> str:
    """Return the picture of a terminal's text."""
    lines = [Text.from_ansi(line) for line in ansi.rstrip("\n").split("\n")]
    width = max(line.cell_len for line in lines) + 1
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=width, file=nowhere, force_terminal=True, highlight=False, emoji=False)
        for line in lines:
            console.print(line, no_wrap=True, overflow="ignore", crop=False)
        svg = console.export_svg(title=title, theme=MONOKAI, unique_id=f"ib-sriov-{title.rsplit(maxsplit=1)[-1]}")
    svg = FONT_FACE.sub("", svg).replace("Fira Code", "ui-monospace, Menlo, Consolas, DejaVu Sans Mono")
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def main() -> int:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ib-sriov-pictures.") as out:
        command = [str(ROOT / "tests/lab/run"), str(ROOT / ".venv/bin/python"), "-m", "tests.demo.scene"]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OUT": out}, check=False)
        if done.returncode:
            return done.returncode
        for path in sorted(Path(out).glob("*.ansi")):
            picture = FOLDER / f"{path.stem}.svg"
            picture.write_text(render(path.read_text(errors="replace"), f"ib-sriov {path.stem}"))
            print(picture.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
