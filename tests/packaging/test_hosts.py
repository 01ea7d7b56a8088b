"""The program on hosts that lack something: every file, a /tmp that serves, an environment."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.packaging.conftest import PROJECT, SECONDS, Root, apart, call
from tests.packaging.places import ADD, CONF

# Where anything that unpacks itself would leave something.
SCRATCH = ("/tmp", "/var/tmp", "/run", "/dev/shm")


def conf(**more: object) -> bytes:
    return json.dumps({**CONF, **more}).encode()


def source(*arguments: str, stdin: bytes = b"", **environ: str) -> subprocess.CompletedProcess[bytes]:
    """The same call of the source."""
    command = [sys.executable, "-m", "ib_sriov_cni", *arguments]
    return subprocess.run(command, env=environ, input=stdin, capture_output=True, cwd=PROJECT, check=False)


def test_version_is_the_source_s(build: Path) -> None:
    done = call(build, CNI_COMMAND="VERSION")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == source(CNI_COMMAND="VERSION").stdout


def test_version_that_cannot_be_written_is_an_error(build: Path) -> None:
    done = apart(f"CNI_COMMAND=VERSION {build} >/dev/full")
    assert done.returncode == 1
    assert b"No space left" in done.stderr


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
def test_a_verb_answers_as_the_source_does(build: Path, command: str, tmp_path: Path) -> None:
    given = conf(stateDir=str(tmp_path / "state"), logFile=str(tmp_path / "log"), prevResult={}, cniVersion="1.1.0")
    environ = ADD | {"CNI_COMMAND": command}
    packed, plain = call(build, stdin=given, **environ), source(stdin=given, **environ)
    assert packed.returncode == plain.returncode
    assert packed.stdout == plain.stdout


@pytest.mark.parametrize("name", ["ib-host-local", "host-local"])
def test_by_its_other_name_it_is_the_ipam_plugin(build: Path, name: str, tmp_path: Path) -> None:
    program = tmp_path / name
    program.symlink_to(build)
    given = {"cniVersion": "1.0.0", "name": "n", "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}}
    given["ipam"]["dataDir"] = str(tmp_path / "data")  # type: ignore[index]
    done = call(program, stdin=json.dumps(given).encode(), **ADD)
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["ips"][0]["address"] == "10.1.0.2/24"


def commands() -> list[str]:
    from ib_sriov_cni.cli import COMMANDS

    return list(COMMANDS)


@pytest.mark.parametrize("name", ["", *commands()])
def test_help_of_each_command_is_the_source_s(build: Path, name: str) -> None:
    arguments = [name, "--help"] if name else ["--help"]
    packed, plain = call(build, *arguments), source(*arguments, PATH=os.environ["PATH"])
    assert packed.returncode == 0, packed.stderr
    assert plain.stdout.decode().replace("python -m ib_sriov_cni", "ib-sriov") == packed.stdout.decode()


def test_what_it_stands_on_is_inside(build: Path, root: Root) -> None:
    program = root.add(build)
    done = root.run(f"exec {program} version -o json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["packed"] is True
    assert shown["pyverbs"]
    assert all(shown[name] for name in ("click", "rich", "PyYAML"))


@pytest.mark.parametrize("proc", [True, False])
def test_version_in_a_root_with_nothing(build: Path, root: Root, proc: bool) -> None:
    program = root.add(build)
    assert root.run("ls /usr/bin /etc/libibverbs.d", proc=False).returncode != 0
    done = root.run(f"exec {program}", {"CNI_COMMAND": "VERSION"}, proc=proc)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["supportedVersions"]


def test_a_verb_in_a_root_with_nothing(build: Path, root: Root) -> None:
    program = root.add(build)
    done = root.run(f"exec {program}", ADD, stdin=conf())
    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] == 101, done.stdout
    assert not list((root.path / "tmp").iterdir())


FAULTS = {
    "noexec": "mount -t tmpfs -o noexec tmpfs {folder}",
    "read-only": "mount -t tmpfs -o ro tmpfs {folder}",
    "full": "mount -t tmpfs -o size=4k tmpfs {folder}; head -c 4096 /dev/zero >{folder}/full || true",
    "not there": "mount -t tmpfs tmpfs {folder}; rmdir {folder} 2>/dev/null || true",
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_no_folder_for_temporary_files_serves(build: Path, fault: str, tmp_path: Path) -> None:
    shutil.copy(build, tmp_path / "ib-sriov")
    # Away from /tmp, where a checkout may be.
    mounts = f"mount -t tmpfs tmpfs /mnt; cp -a {shlex.quote(str(tmp_path))}/. /mnt; "
    mounts += "; ".join(FAULTS[fault].format(folder=folder) for folder in SCRATCH)
    calls = ("CNI_COMMAND=VERSION /mnt/ib-sriov", "/mnt/ib-sriov version -o json", "/mnt/ib-sriov list --help")
    done = apart(f"{mounts}; " + "; ".join(f"env -i {call}" for call in calls))
    assert done.returncode == 0, done.stderr
    assert b"supportedVersions" in done.stdout
    assert b"packed" in done.stdout


def test_an_empty_environment_is_help(build: Path) -> None:
    done = call(build)
    assert done.returncode == 0, done.stderr
    assert b"CNI plugin" in done.stdout


def by_shell(line: str, stdin: bytes = b"", /, **environ: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell line with these variables and no others."""
    command = ["/bin/bash", "-euc", line]
    return subprocess.run(command, env=environ, input=stdin, capture_output=True, timeout=SECONDS, check=False)


@pytest.mark.parametrize("command", ["VERSION", "ADD", "DEL", "CHECK", "GC", "STATUS"])
def test_twenty_descriptors_are_enough(build: Path, command: str, tmp_path: Path) -> None:
    given = conf(stateDir=str(tmp_path / "state"), logFile=str(tmp_path / "log"), prevResult={}, cniVersion="1.1.0")
    environ = ADD | {"CNI_COMMAND": command}
    few = by_shell(f"ulimit -n 20; exec {build}", given, **environ)
    plain = source(stdin=given, **environ)
    assert (few.returncode, few.stdout) == (plain.returncode, plain.stdout), few.stderr


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
def test_closed_stdin_is_reported(build: Path, command: str) -> None:
    done = by_shell(f"exec {build} <&-", b"", **ADD | {"CNI_COMMAND": command})
    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] == 5, done.stdout


@pytest.mark.parametrize("command", ["VERSION", "ADD", "CHECK", "STATUS"])
def test_closed_stdout_is_a_failure(build: Path, command: str, tmp_path: Path) -> None:
    given = conf(stateDir=str(tmp_path / "state"), prevResult={}, cniVersion="1.1.0")
    done = by_shell(f"exec {build} >&-", given, **ADD | {"CNI_COMMAND": command})
    assert done.returncode == 1
    assert b"standard output cannot be written" in done.stderr


def test_closed_stderr_goes_into_no_other_file(build: Path, tmp_path: Path) -> None:
    """The first file that is opened would get the number 2: with logFile, each line would be in there twice."""
    plugin = tmp_path / "ipam"
    plugin.write_text("#!/bin/sh\necho level=ipam >&2\n")
    plugin.chmod(0o755)
    state, out, log = tmp_path / "state", tmp_path / "out", tmp_path / "log"
    environ = ADD | {"CNI_COMMAND": "DEL", "CNI_PATH": str(tmp_path), "PATH": "/usr/bin:/bin"}
    given = conf(stateDir=str(state), logFile=str(log), ipam={"type": "ipam"})
    counts = []
    for redirection in ("", "2>&-"):
        done = by_shell(f"exec {build} {redirection} >{out}", given, **environ)
        assert (done.returncode, out.read_bytes()) == (0, b""), out.read_bytes()
        counts.append(log.read_bytes().count(b"level="))
        log.unlink()
    assert counts[0] == counts[1] > 0
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path != plugin]
    assert [path for path in files if b"level=" in path.read_bytes()] == []


def test_all_three_closed(build: Path) -> None:
    assert by_shell(f"exec {build} <&- >&- 2>&-", b"", **ADD).returncode == 1


@pytest.fixture
def holder() -> Iterator[int]:
    """A process with fresh folders for temporary files in its mount namespace; its number."""
    mounts = "; ".join(f"mount -t tmpfs tmpfs {folder}" for folder in (*SCRATCH, "/mnt"))
    command = ["unshare", "--mount", "/bin/bash", "-euc", f"{mounts}; echo ready; exec sleep 1000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    with process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.kill()


def listing(root: Path) -> set[str]:
    return {str(path) for folder in SCRATCH for path in (root / folder.lstrip("/")).rglob("*")}


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.mark.parametrize("moment", ["reading", "working"])
def test_killed_it_leaves_nothing(build: Path, moment: str, holder: int) -> None:
    """SIGKILL while it waits for its input, and while it waits for an IPAM plugin."""
    seen = Path(f"/proc/{holder}/root")
    plugin = seen / "mnt/sleeper"
    plugin.write_text("#!/bin/sh\n: >/mnt/called\nexec sleep 1000\n")
    plugin.chmod(0o755)
    shutil.copy(build, seen / "mnt/ib-sriov")  # a checkout below /tmp is not seen in there
    environ = ADD | {"CNI_COMMAND": "DEL", "CNI_PATH": "/mnt"}
    command = [shutil.which("nsenter") or "", f"--mount=/proc/{holder}/ns/mnt", "/mnt/ib-sriov"]
    before = listing(seen)
    process = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stdin
    try:
        if moment == "working":
            process.stdin.write(conf(stateDir="/mnt/state", ipam={"type": "sleeper"}))
            process.stdin.close()
            wait_for((seen / "mnt/called").exists, "the IPAM plugin was not called")
        else:
            wchan = Path(f"/proc/{process.pid}/wchan")
            wait_for(lambda: "pipe_read" in wchan.read_text(), "it does not read its input")
    finally:
        process.kill()
        process.communicate()
    # The VF's lock is a file in /run/ib-sriov that stays; what it locks is free when its holder is gone.
    assert {path for path in listing(seen) - before if "run/ib-sriov" not in path} == set()


def test_what_it_executes_sees_the_callers_environment(build: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "witness"
    plugin.write_text(f"#!/bin/sh\nexport -p >{tmp_path}/seen\n")
    plugin.chmod(0o755)
    environ = ADD | {"CNI_COMMAND": "DEL", "CNI_PATH": str(tmp_path), "PATH": "/usr/bin:/bin"}
    state = str(tmp_path / "state")
    both: tuple[dict[str, str], ...] = ({}, {"LD_LIBRARY_PATH": "/some/where"})
    for given in both:
        done = call(build, stdin=conf(stateDir=state, ipam={"type": "witness"}), **environ, **given)
        assert done.returncode == 0, done.stdout
        seen = (tmp_path / "seen").read_text()
        assert ("LD_LIBRARY_PATH='/some/where'" in seen) == bool(given), seen
        assert ("LD_LIBRARY_PATH=" in seen) == bool(given), seen
        assert "_PYI" not in seen
        assert "_MEI" not in seen


def test_it_is_replaced_while_it_runs(build: Path, tmp_path: Path) -> None:
    """What a running program has yet to import is its own, not that of the file that has its name by now."""
    program, folder = tmp_path / "ib-sriov", tmp_path / "later"
    shutil.copy(build, program)
    command = [str(program), "install", "--to", str(folder), "--wait", "60", "-o", "json"]
    running = subprocess.Popen(command, env={}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        wchan = Path(f"/proc/{running.pid}/wchan")
        wait_for(lambda: "nanosleep" in wchan.read_text(), "it does not wait for the folder")
        other = tmp_path / "other"
        other.write_bytes(b"\0" * build.stat().st_size)
        other.replace(program)
        folder.mkdir()
        out, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 0, err
    assert json.loads(out)["done"] == "installed"
    assert (folder / "ib-sriov").read_bytes() == build.read_bytes()


def test_signals_end_it(build: Path, tmp_path: Path) -> None:
    command = [str(build), "install", "--to", str(tmp_path), "--stay"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
        assert running.stdout
        running.stdout.readline()
        running.stdout.readline()
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0
