"""What the repository holds: only sources, no overlong files, and no skips or patches in the tests."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
LONGEST = 450
GENERATED = re.compile(
    r"(^|/)(__pycache__|build|dist|\.venv|\.test-results|node_modules)/|\.egg-info/"
    r"|\.(pyc|pyo|so|o|ko|a|mod\.c|cmd|whl|deb|gz|xz|zst|zip|img|qcow2|exe|xml|log)$"
)
TRICKS = re.compile(
    r"mock\.patch|monkeypatch\.setattr|pytest\.(skip|xfail|importorskip)\b"
    r"|mark\.(skip|skipif|xfail)\b|unittest\.skip"
)
OWN = "tests/unit/test_repo.py"  # contains samples of what it looks for


def tracked() -> list[str]:
    """Existing paths that git tracks or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.decode().split("\0")
    return sorted({name for name in names if name and os.path.isfile(os.path.join(ROOT, name))})


def content(name: str) -> bytes:
    with open(os.path.join(ROOT, name), "rb") as file:
        return file.read()


FILES = tracked()
PYTHON = [name for name in FILES if name.endswith(".py")]


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "LICENSE", "Makefile", "setup.cfg", ".ci/run"])
def test_the_house_is_furnished(name: str) -> None:
    assert name in FILES
    assert content(name).strip()


def test_nothing_generated() -> None:
    assert [name for name in FILES if GENERATED.search(name)] == []


def test_nothing_binary() -> None:
    assert [name for name in FILES if b"\0" in content(name)] == []


def test_scripts_can_be_executed() -> None:
    scripts = [name for name in FILES if content(name).startswith(b"#!")]
    assert scripts
    assert [name for name in scripts if not os.access(os.path.join(ROOT, name), os.X_OK)] == []


def test_no_python_file_is_too_long() -> None:
    lengths = {name: len(content(name).splitlines()) for name in PYTHON}
    assert len(lengths) > 5
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_no_tricks_in_tests() -> None:
    """A skip hides a failure, and a patch only tests the patch."""
    hits = [
        f"{name}:{number}: {line.strip()}"
        for name in PYTHON
        if name.startswith("tests/") and name != OWN
        for number, line in enumerate(content(name).decode().splitlines(), 1)
        if TRICKS.search(line)
    ]
    assert hits == []


@pytest.mark.parametrize("line", ["@mock.patch()", "pytest.skip('x')", "@pytest.mark.xfail", "monkeypatch.setattr()"])
def test_tricks_are_seen(line: str) -> None:
    assert TRICKS.search(line)
