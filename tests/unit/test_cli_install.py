"""`ib-sriov install`: all or nothing, even while the old program runs; small scripts stand in for the packed one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ib_sriov_cni import cli
from ib_sriov_cni.cli.install import TEMPORARY, TREE

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
ANSWER = '{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}'
MakeProgram = Callable[..., Path]


@pytest.fixture
def make_program(tmp_path: Path) -> MakeProgram:
    def make(name: str = "packed", text: str = f"echo '{ANSWER}'", interpreter: str = "/bin/sh") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!{interpreter}\n{text}\n")
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "bin"
    path.mkdir()
    return path


def install(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, ["install", *[str(argument) for argument in arguments]], prog_name="ib-sriov")


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_is_put_there(make_program: MakeProgram, folder: Path) -> None:
    source = make_program()
    source.chmod(0o600)
    done = install(source, "--to", folder)
    assert done.exit_code == 0, done.output
    assert "before: nothing" in done.output
    assert "1.0.0, 1.1.0" in done.output
    target = folder / "ib-sriov"
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_mode & 0o7777 == 0o755
    assert names(folder) == ["ib-sriov"]


def test_umask_is_not_asked(make_program: MakeProgram, folder: Path) -> None:
    old = os.umask(0o077)
    try:
        assert install(make_program(), "--to", folder).exit_code == 0
    finally:
        os.umask(old)
    assert (folder / "ib-sriov").stat().st_mode & 0o7777 == 0o755


def test_what_was_there_is_said_and_replaced(make_program: MakeProgram, folder: Path) -> None:
    assert install(make_program("old", f"# old\necho '{ANSWER}'"), "--to", folder).exit_code == 0
    done = install(make_program("new"), "--to", folder, "-o", "json")
    document = json.loads(done.output)
    assert document["done"] == "installed"
    assert document["before"].startswith("a file of ")
    assert document["cniVersions"] == "1.0.0, 1.1.0"
    again = install(make_program("new"), "--to", folder, "-o", "json")
    assert json.loads(again.output)["done"] == "already there"


def test_a_wrong_mode_is_put_right(make_program: MakeProgram, folder: Path) -> None:
    source = make_program()
    install(source, "--to", folder)
    (folder / "ib-sriov").chmod(0o644)
    assert "installed" in install(source, "--to", folder).output
    assert (folder / "ib-sriov").stat().st_mode & 0o7777 == 0o755


def test_dry_run_changes_nothing(make_program: MakeProgram, folder: Path) -> None:
    done = install(make_program(), "--to", folder, "--dry-run")
    assert done.exit_code == 0
    assert "would be installed" in done.output
    assert names(folder) == []


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("echo nonsense", "nonsense"),
        ("echo '{\"code\": 1}'; exit 1", "exit status 1"),
        ("exit 127", "no output"),
        ("echo '[]'", "no answer to VERSION"),
    ],
)
def test_a_program_that_does_not_answer_does_not_replace_one(
    make_program: MakeProgram, folder: Path, text: str, word: str
) -> None:
    assert install(make_program("good"), "--to", folder).exit_code == 0
    before = (folder / "ib-sriov").read_bytes()
    done = install(make_program("bad", text), "--to", folder)
    assert done.exit_code == 4
    assert word in done.output
    assert (folder / "ib-sriov").read_bytes() == before
    assert names(folder) == ["ib-sriov"]


def test_a_program_for_another_machine_is_told(tmp_path: Path, folder: Path) -> None:
    source = tmp_path / "foreign"
    source.write_bytes(b"\x7fELF" + bytes(60))
    done = install(source, "--to", folder)
    assert done.exit_code == 4
    assert "another machine" in done.output
    assert names(folder) == []


def test_the_old_one_may_be_running(folder: Path) -> None:
    """The old program is a running copy of a real one: writing to it fails with ETXTBSY."""
    target = folder / "ib-sriov"
    target.write_bytes(Path("/bin/sleep").read_bytes())
    target.chmod(0o755)
    running = subprocess.Popen([target, "60"])
    try:
        with pytest.raises(OSError, match="busy"):
            target.open("r+b")
        source = folder.parent / "packed"
        source.write_text(f"#!/bin/sh\necho '{ANSWER}'\n")
        assert install(source, "--to", folder).exit_code == 0
        assert running.poll() is None
        assert target.read_bytes() == source.read_bytes()
    finally:
        running.kill()
        running.wait()


def test_readers_see_one_or_the_other(make_program: MakeProgram, folder: Path) -> None:
    """The file exists at all times and is always complete."""
    sources = [make_program(name, f"# {name * 5000}\necho '{ANSWER}'") for name in "ab"]
    whole = {source.read_bytes() for source in sources}
    install(sources[0], "--to", folder)
    seen: list[bytes] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            seen.append((folder / "ib-sriov").read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(3):
        for source in sources:
            assert install(source, "--to", folder).exit_code == 0
    over.set()
    reader.join()
    assert seen
    assert set(seen) <= whole


def test_folders_of_earlier_programs_are_removed(make_program: MakeProgram, folder: Path) -> None:
    """A running call of the replaced program may still have to open files of its folder, so the newest stays once."""
    for number in "123":
        (folder / f"{TREE}{number}").mkdir()
        time.sleep(0.01)  # they are ordered by their change time
    program = make_program()
    assert "would be installed" in install(program, "--to", folder, "--dry-run").output
    assert names(folder) == [f"{TREE}1", f"{TREE}2", f"{TREE}3"]
    assert install(program, "--to", folder).exit_code == 0
    assert names(folder) == [f"{TREE}3", "ib-sriov"]
    assert "already there" in install(program, "--to", folder).output
    assert names(folder) == ["ib-sriov"]


def test_what_a_killed_installation_left_is_removed(make_program: MakeProgram, folder: Path) -> None:
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    (folder / f"{TEMPORARY}{gone.pid}").write_text("half")
    (folder / f"{TEMPORARY}1").write_text("of a process that lives")
    assert install(make_program(), "--to", folder).exit_code == 0
    assert names(folder) == [f"{TEMPORARY}1", "ib-sriov"]


def test_a_link_is_replaced_and_what_it_points_at_is_not(make_program: MakeProgram, folder: Path) -> None:
    other = make_program("other", "echo other")
    (folder / "ib-sriov").symlink_to(other)
    done = install(make_program(), "--to", folder)
    assert f"a symbolic link to {other}" in done.output.replace("\n", "")
    assert not (folder / "ib-sriov").is_symlink()
    assert "echo other" in other.read_text()


@pytest.mark.parametrize("name", ["a/b", "..", ""])
def test_a_name_is_a_name(make_program: MakeProgram, folder: Path, name: str) -> None:
    assert install(make_program(), "--to", folder, "--name", name).exit_code == 2


def test_refusals(make_program: MakeProgram, folder: Path, tmp_path: Path) -> None:
    source = make_program()
    missing = install(source, "--to", tmp_path / "nowhere")
    assert (missing.exit_code, "no such folder" in missing.output) == (4, True)
    nothing = install(tmp_path / "nothing", "--to", folder)
    assert (nothing.exit_code, "no such file" in nothing.output) == (4, True)
    (folder / "ib-sriov").mkdir()
    taken = install(source, "--to", folder)
    assert (taken.exit_code, "not a file" in taken.output) == (4, True)
    from_source = install("--to", folder)
    assert (from_source.exit_code, "runs from source" in from_source.output) == (4, True)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert install(empty, "--to", folder).exit_code == 4


def test_it_waits_for_the_folder(make_program: MakeProgram, tmp_path: Path) -> None:
    late = tmp_path / "late"
    threading.Timer(0.3, late.mkdir).start()
    assert install(make_program(), "--to", late, "--wait", "60").exit_code == 0
    assert names(late) == ["ib-sriov"]


def test_it_stays_until_it_is_told_to_end(make_program: MakeProgram, folder: Path) -> None:
    arguments = ["install", str(make_program()), "--to", str(folder), "--stay"]
    command = [sys.executable, "-m", "ib_sriov_cni", *arguments]
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environ) as staying:
        assert staying.stdout
        assert "installed" in staying.stdout.readline()
        assert "VERSION" in staying.stdout.readline()
        staying.send_signal(signal.SIGTERM)
        assert staying.wait(60) == 0
