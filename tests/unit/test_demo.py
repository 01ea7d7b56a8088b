"""What the demo prints and when it reports failure; what it does is tested in the lab."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.demo.pictures import render
from tests.demo.terminal import StepFailed, Story, last_line, run_with_progress, wants_colour

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))


def test_a_step_that_holds_tells_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    story = Story(colour=False)
    with story.step("The sun rises."):
        story.say("It is warm.")
        story.command("date")
        story.show("Tue\n\tWed\n")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:-1] == [" 1. The sun rises.", "    It is warm.", "    $ date", "      Tue", "      \tWed"]
    assert lines[-1].startswith("    done in ")


@pytest.mark.parametrize("kind", [AssertionError, OSError, subprocess.SubprocessError])
def test_a_step_that_does_not_hold_ends_the_story(capsys: pytest.CaptureFixture[str], kind: type[Exception]) -> None:
    with pytest.raises(StepFailed), Story(colour=False).step("The sun rises."):
        raise kind("no port")
    last = capsys.readouterr().out.splitlines()[-1]
    assert "FAILED" in last
    assert "no port" in last


def test_colour_is_for_terminals() -> None:
    assert not wants_colour(io.StringIO())
    assert Story(colour=False).paint("x", "1") == "x"
    assert Story(colour=True).paint("x", "1") == "\x1b[1mx\x1b[0m"


@pytest.mark.parametrize(("code", "works"), [("print('all done')", True), ("print('why'); exit(3)", False)])
def test_building_shows_why_it_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], code: str, works: bool
) -> None:
    log = os.path.join(tmp_path, "log")
    assert run_with_progress(Story(colour=False), "the thing", [sys.executable, "-c", code], log) is works
    said = capsys.readouterr().out
    assert "the thing: " in said
    assert ("failed with status 3" in said) is not works
    assert ("why" in said) is not works
    assert "\r" not in said


@pytest.mark.parametrize(("text", "last"), [("", ""), ("a\nb\n\n", "b"), ("x" * 1000 + "\ny", "y")])
def test_last_line_of_a_log(tmp_path: Path, text: str, last: str) -> None:
    path = os.path.join(tmp_path, "log")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    assert last_line(path) == last


class Host:
    """A project made for the test: the demo's own files, with stand-ins for what it builds and boots."""

    def __init__(self, root: str) -> None:
        self.root = root
        shutil.copytree(os.path.join(ROOT, "tests", "demo"), os.path.join(root, "tests", "demo"))
        for folder in ("tools", "lab"):
            os.mkdir(os.path.join(root, "tests", folder))
        with open(os.path.join(root, "tests", "__init__.py"), "wb"):
            pass  # a regular package, so the repository's own `tests` is not imported instead
        self.program("tools/go-client", "echo /bin/cnitool")
        self.program("lab/build", "echo built")

    def program(self, name: str, text: str) -> None:
        path = os.path.join(self.root, "tests", name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"#!/bin/sh\n{text}\n")
        os.chmod(path, 0o700)

    def demo(self) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "tests.demo"], cwd=self.root, capture_output=True, text=True, check=False, timeout=60
        )
        return done.returncode, done.stdout


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(os.path.join(tmp_path, "project"))


def test_the_demo_hands_on_what_the_guest_says(host: Host) -> None:
    host.program("lab/run", 'printf "%s\\r\\n" "hello from $*" "with $LAB_DEMO_CNITOOL"; echo note >&2')
    status, said = host.demo()
    assert status == 0
    assert "tests.demo.story\nwith /bin/cnitool\n" in said
    assert "note\n" in said
    assert said.splitlines()[-1].startswith("Every step held.")


@pytest.mark.parametrize("text", ["echo hello; exit 1", "exit 92", "echo hello; exit 90"])
def test_the_demo_fails_when_the_guest_does(host: Host, text: str) -> None:
    host.program("lab/run", text)
    status, said = host.demo()
    assert status == 1
    assert said.splitlines()[-1].startswith("The demo failed")


@pytest.mark.parametrize("name", ["tools/go-client", "lab/build"])
def test_the_demo_fails_when_nothing_can_be_built(host: Host, name: str) -> None:
    host.program("lab/run", f"touch {host.root}/booted")
    host.program(name, "echo no compiler; exit 1")
    status, said = host.demo()
    assert status == 1
    assert "no compiler" in said
    assert not os.path.exists(os.path.join(host.root, "booted"))


def test_a_picture_shows_the_terminals_text_and_fetches_nothing() -> None:
    svg = render("$ ib-sriov list\n\x1b[1mVF\x1b[0m   \x1b[31mdead\x1b[0m", "ib-sriov list")
    text = re.sub(r"<[^>]+>", "", svg).replace("&#160;", " ")
    assert "$ ib-sriov list" in text
    assert "dead" in text
    assert "url(http" not in svg
    assert "@font-face" not in svg
    assert re.search(r"fill: #[0-9a-f]{6}", svg)


@pytest.mark.parametrize("name", ["list", "doctor"])
def test_the_readme_shows_pictures_that_are_there(name: str) -> None:
    picture = f"docs/pictures/{name}.svg"
    assert f"({picture})" in Path(ROOT, "README.md").read_text()
    assert f"ib-sriov&#160;{name}" in Path(ROOT, picture).read_text()
