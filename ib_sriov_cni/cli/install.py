"""`ib-sriov install`: put a packed program into the folder of CNI plugins, even while the old one is in use.

Runtimes never see half a program, and a running one is never written to: the new program is written under a temporary
name next to the old one, must answer VERSION there, and is then renamed over it. The other files of a one-folder build
are in a folder whose name is unique to the build, and which is complete before the program is renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import click

from ib_sriov_cni.cli.output import Failure, describe_os_error, echo, output_option, print_json
from ib_sriov_cni.doctor.facts import DEFAULT_CNI_PATH, PLUGIN
from ib_sriov_cni.state.directory import remove_quietly, sync_folder

SELF = "/proc/self/exe"  # the running program, even if its name now belongs to another file
TEMPORARY = ".ib-sriov-new-"
TREE = ".ib-sriov-tree-"  # the folder of a one-folder build's other files; a digest of its content follows
VERSION_SECONDS = 60.0
POLL_SECONDS = 0.2
STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT}  # a container's main process has no default action for them
EXAMPLES = """\
Examples:

\b
  ./ib-sriov install
  ./ib-sriov install --dry-run
  ib-sriov install --to /host/opt/cni/bin --wait 60
"""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A packed program: its file, and the folder of its other files ("" for a one-file build)."""

    program: str
    tree: str = ""


@dataclass(frozen=True, kw_only=True)
class Existing:
    """What is at the target path: a description, and the digest of its content ("" if it is not a file)."""

    description: str
    digest: str = ""
    mode: int = 0


@click.command(epilog=EXAMPLES)
@click.argument("source", required=False, default="", metavar="[SOURCE]")
@click.option(
    "--to", "folder", metavar="FOLDER", default=DEFAULT_CNI_PATH, show_default=True, help="Where to install it."
)
@click.option("--name", metavar="NAME", default=PLUGIN, show_default=True, help="Its name in that folder.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and change nothing.")
@click.option(
    "--wait", "seconds", type=click.FloatRange(0), default=0.0, metavar="SECONDS", help="Wait for FOLDER to appear."
)
@click.option(
    "--stay", is_flag=True, help="Afterwards, keep running until SIGTERM, for a container that must not exit."
)
@output_option
def command(source: str, folder: str, name: str, *, dry_run: bool, seconds: float, stay: bool, output: str) -> None:
    """Install this program into the folder of CNI plugins.

    SOURCE is another packed program to install instead: its file, or the folder of a one-folder build. The program is
    written under a temporary name, must answer VERSION, and then replaces the old one in one step. Running calls are
    not disturbed.
    """
    if "/" in name or name in {"", ".", ".."}:
        raise click.UsageError(f"--name {name!r} is not a file name")
    found = find_source(source)
    _await_folder(folder, seconds)
    target = os.path.join(folder, name)
    before = read_existing(target)
    digest = digest_of(found.program)
    same = before.digest == digest and before.mode == 0o755 and not _tree_is_missing(found, folder)
    outcome = "already there" if same else "would be installed" if dry_run else "installed"
    version = "" if dry_run else ask_version(target if same else install(found, folder, name))
    if stay:  # before printing: whoever reads the output may send the signal at once
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    if output == "json":
        document = {
            "target": target,
            "sha256": digest,
            "before": before.description,
            "done": outcome,
            "cniVersions": version,
        }
        print_json(document)
    else:
        echo(f"{target}: {outcome} (sha256 {digest[:16]}); before: {before.description}")
        if version:
            echo(f"it answers VERSION: {version}")
    if stay:
        sys.stdout.flush()
        signal.sigwait(STOP_SIGNALS)


def find_source(given: str) -> Source:
    """Return the packed program to install: the one given, or the running one. Raises Failure."""
    if not given:
        if not getattr(sys, "frozen", False):
            raise Failure(
                "this program runs from source, so it cannot be installed",
                "pass a packed program as SOURCE: `make build` makes dist/ib-sriov",
            )
        return Source(program=SELF, tree=getattr(sys, "packed_tree", ""))
    program = os.path.join(given, PLUGIN) if os.path.isdir(given) else given
    if not os.path.isfile(program):
        raise Failure(f"{program}: no such file", "pass a packed program, or the folder of a one-folder build")
    if not os.path.isdir(given):
        return Source(program=program)
    trees = sorted(entry for entry in os.listdir(given) if entry.startswith(TREE))
    if len(trees) != 1:
        raise Failure(f"{given} contains {len(trees)} folders named {TREE}…, a one-folder build has exactly one")
    return Source(program=program, tree=os.path.join(given, trees[0]))


def read_existing(target: str) -> Existing:
    """Return what is at the path. Raises Failure if it must not be replaced."""
    if os.path.islink(target):
        return Existing(description=f"a symbolic link to {os.readlink(target)}")
    if not os.path.lexists(target):
        return Existing(description="nothing")
    if not os.path.isfile(target):
        raise Failure(f"{target} is not a file", "remove it, or use another --name")
    status = os.stat(target)
    digest = digest_of(target)
    when = time.strftime("%Y-%m-%d", time.gmtime(status.st_mtime))
    description = f"a file of {status.st_size} bytes from {when} (sha256 {digest[:16]})"
    return Existing(description=description, digest=digest, mode=status.st_mode & 0o7777)


def install(source: Source, folder: str, name: str) -> str:
    """Install the program and return its path. Raises Failure; then nothing has changed."""
    target = os.path.join(folder, name)
    temporary = os.path.join(folder, f"{TEMPORARY}{os.getpid()}")
    try:
        if source.tree:
            _put_tree(source.tree, folder)
        _write(source.program, temporary)
        ask_version(temporary)
        os.rename(temporary, target)
        sync_folder(folder)
    except OSError as fault:
        raise Failure(f"install {target}: {describe_os_error(fault)}", _hint(fault)) from None
    finally:
        remove_quietly(temporary)
    _remove_leftovers(folder, os.path.basename(source.tree))
    return target


def ask_version(program: str) -> str:
    """Run it with nothing but CNI_COMMAND=VERSION; return the CNI versions that it supports. Raises Failure."""
    try:
        done = subprocess.run(
            [program],
            env={"CNI_COMMAND": "VERSION"},
            input=b"",
            capture_output=True,
            timeout=VERSION_SECONDS,
            check=False,
        )
    except OSError as fault:
        hint = "is the folder mounted noexec, or the file built for another machine?"
        raise Failure(f"run {program}: {describe_os_error(fault)}", hint) from None
    except subprocess.TimeoutExpired:
        raise Failure(f"run {program}: no answer to VERSION within {VERSION_SECONDS:g} s") from None
    try:
        versions = [str(version) for version in json.loads(done.stdout)["supportedVersions"]]
    except (ValueError, KeyError, TypeError):
        printed = (done.stdout + done.stderr).decode(errors="replace").strip()[:300]
        raise Failure(
            f"run {program}: exit status {done.returncode}, no answer to VERSION: {printed or 'no output'}",
            "it is not a CNI plugin, or this host's C library is too old for it (packaging/README.md)",
        ) from None
    return ", ".join(versions)


def digest_of(path: str) -> str:
    """Return the SHA-256 of a file, in hexadecimal. Raises Failure."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as fault:
        raise Failure(f"read {path}: {describe_os_error(fault)}") from None


def _await_folder(folder: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not os.path.isdir(folder):
        if time.monotonic() >= deadline:
            waited = f" within {seconds:g} s" if seconds else ""
            raise Failure(f"{folder}: no such folder{waited}", "create it, or use another one (--to)")
        time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))


def _write(source: str, path: str) -> None:
    """Copy a program into a new file, and sync it to disk."""
    remove_quietly(path)  # left by a killed process that had the same pid
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o700)
    with open(fd, "wb") as out, open(source, "rb") as file:
        shutil.copyfileobj(file, out, 1 << 20)
        os.fchmod(fd, 0o755)
        out.flush()
        os.fsync(fd)


def _put_tree(tree: str, folder: str) -> None:
    """Copy a one-folder build's other files. A folder of that name is complete, and the name says it is the same."""
    target = os.path.join(folder, os.path.basename(tree))
    if os.path.isdir(target):
        return
    temporary = f"{target}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        shutil.copytree(tree, temporary, symlinks=True)
        for base, _, files in os.walk(temporary):
            for name in files:
                _sync(os.path.join(base, name))
            sync_folder(base)
        os.rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(folder)


def _tree_is_missing(source: Source, folder: str) -> bool:
    return bool(source.tree) and not os.path.isdir(os.path.join(folder, os.path.basename(source.tree)))


def _remove_leftovers(folder: str, current: str) -> None:
    """Remove what earlier installations left, but keep the newest old tree: its program may still be running."""
    trees = []
    for entry in os.scandir(folder):
        if entry.name.startswith(TEMPORARY) and not _is_running(entry.name.removeprefix(TEMPORARY)):
            remove_quietly(entry.path)
        elif entry.name.startswith(TREE) and entry.name != current and entry.is_dir(follow_symlinks=False):
            suffix = entry.name.rpartition(".")[2]
            if suffix.isdigit() and not _is_running(suffix):
                shutil.rmtree(entry.path, ignore_errors=True)
            elif not suffix.isdigit():
                trees.append((entry.stat().st_ctime, entry.path))
    for _, path in sorted(trees)[:-1]:
        shutil.rmtree(path, ignore_errors=True)


def _is_running(pid: str) -> bool:
    return pid == str(os.getpid()) or os.path.isdir(f"/proc/{pid}")


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _hint(fault: OSError) -> str:
    import errno

    return {
        errno.EACCES: "run it as root",
        errno.EPERM: "run it as root",
        errno.EROFS: "the folder is on a read-only file system: see the node's image for where CNI plugins go",
        errno.ENOSPC: "the file system is full",
    }.get(fault.errno or 0, "")
