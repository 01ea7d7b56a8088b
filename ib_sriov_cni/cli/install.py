"""`ib-sriov install`: put a packed program into the folder that runtimes look into, while it may be in use there.

Nobody sees half a program, and a running one is never written to: it is written beside the old one under a name of
its own, asked for its VERSION there, and renamed over it. A one-folder tree has its other files in a folder of a name
that no other build has, which is complete before the program is renamed.
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

from ib_sriov_cni.cli.output import Failure, error_of, output_option, print_json
from ib_sriov_cni.state.directory import remove_quietly, sync_folder

DEFAULT_FOLDER = "/opt/cni/bin"
NAME = "ib-sriov"
SELF = "/proc/self/exe"  # the file that runs, also when another has its name by now
TEMPORARY = ".ib-sriov-new-"
TREE = ".ib-sriov-tree-"  # what a one-folder build calls its other files' folder, with its content's digest
VERSION_SECONDS = 60.0
PAUSE = 0.2
END = {signal.SIGTERM, signal.SIGINT}  # a container's main process has no default action for them
EXAMPLES = """\
Examples:

\b
  ./ib-sriov install
  ./ib-sriov install --dry-run
  ib-sriov install --to /host/opt/cni/bin --wait 60
"""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A packed program: its file, and the folder of its other files ("" for the one file)."""

    program: str
    tree: str = ""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What has the name in the folder: words for it, the digest of its content ("" for no file)."""

    words: str
    digest: str = ""
    mode: int = 0


@click.command(epilog=EXAMPLES)
@click.argument("source", required=False, default="", metavar="[SOURCE]")
@click.option("--to", "folder", metavar="FOLDER", default=DEFAULT_FOLDER, show_default=True, help="Where to put it.")
@click.option("--name", metavar="NAME", default=NAME, show_default=True, help="The name it gets there.")
@click.option("--dry-run", is_flag=True, help="Say what would be done.")
@click.option(
    "--wait", "seconds", type=click.FloatRange(0), default=0.0, metavar="SECONDS", help="Wait for FOLDER to appear."
)
@click.option("--stay", is_flag=True, help="Afterwards, run until SIGTERM: for a container that must not end.")
@output_option
def command(source: str, folder: str, name: str, *, dry_run: bool, seconds: float, stay: bool, output: str) -> None:
    """Put this program into the folder of CNI plugins.

    SOURCE is another packed program: the file, or the one-folder tree with the program in it. The program is written
    under a temporary name, must answer VERSION, and then replaces the old one in one step; calls that are running are
    not disturbed.
    """
    if "/" in name or name in {"", ".", ".."}:
        raise click.UsageError(f"--name {name!r} is not a file name")
    found = find_source(source)
    _await_folder(folder, seconds)
    target = os.path.join(folder, name)
    before = look_at(target)
    digest = digest_of(found.program)
    same = before.digest == digest and before.mode == 0o755 and not _tree_is_missing(found, folder)
    verb = "already there" if same else "would be installed" if dry_run else "installed"
    version = "" if dry_run else ask_version(target if same else install(found, folder, name))
    if stay:  # from here on, nobody who reads what is printed is too early to end it
        signal.pthread_sigmask(signal.SIG_BLOCK, END)
    if output == "json":
        told = {"target": target, "sha256": digest, "before": before.words, "done": verb, "cniVersions": version}
        print_json(told)
    else:
        click.echo(f"{target}: {verb} (sha256 {digest[:16]}); before: {before.words}")
        if version:
            click.echo(f"it answers VERSION: {version}")
    if stay:
        sys.stdout.flush()
        signal.sigwait(END)


def find_source(given: str) -> Source:
    """Give the packed program to install: what was named, or the one that runs. Raises Failure."""
    if not given:
        if not getattr(sys, "frozen", False):
            raise Failure(
                "this program runs from source, which cannot be installed",
                "name a packed program: make build makes dist/ib-sriov",
            )
        return Source(program=SELF, tree=getattr(sys, "packed_tree", ""))
    program = os.path.join(given, NAME) if os.path.isdir(given) else given
    if not os.path.isfile(program):
        raise Failure(f"{program}: there is no such file", "name a packed program, or the folder of one")
    if not os.path.isdir(given):
        return Source(program=program)
    trees = sorted(entry for entry in os.listdir(given) if entry.startswith(TREE))
    if len(trees) != 1:
        raise Failure(f"{given} has {len(trees)} folders {TREE}…, a one-folder build has one")
    return Source(program=program, tree=os.path.join(given, trees[0]))


def look_at(target: str) -> Found:
    """Say what has the name. Raises Failure for what must not be replaced."""
    if os.path.islink(target):
        return Found(words=f"a symbolic link to {os.readlink(target)}")
    if not os.path.lexists(target):
        return Found(words="nothing")
    if not os.path.isfile(target):
        raise Failure(f"{target} is not a file", "remove it, or give another --name")
    status = os.stat(target)
    digest = digest_of(target)
    when = time.strftime("%Y-%m-%d", time.gmtime(status.st_mtime))
    words = f"a file of {status.st_size} bytes from {when} (sha256 {digest[:16]})"
    return Found(words=words, digest=digest, mode=status.st_mode & 0o7777)


def install(source: Source, folder: str, name: str) -> str:
    """Put the program into place; gives its path. Raises Failure, and then everything is as it was."""
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
        raise Failure(f"install {target}: {error_of(fault)}", _hint(fault)) from None
    finally:
        remove_quietly(temporary)
    _tidy(folder, os.path.basename(source.tree))
    return target


def ask_version(program: str) -> str:
    """Run it as a runtime does, with nothing but CNI_COMMAND; gives the CNI versions it answers. Raises Failure."""
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
        hint = "is the folder mounted noexec, or the file for another machine?"
        raise Failure(f"run {program}: {error_of(fault)}", hint) from None
    except subprocess.TimeoutExpired:
        raise Failure(f"run {program}: no answer to VERSION within {VERSION_SECONDS:g} s") from None
    try:
        versions = [str(version) for version in json.loads(done.stdout)["supportedVersions"]]
    except (ValueError, KeyError, TypeError):
        said = (done.stdout + done.stderr).decode(errors="replace").strip()[:300]
        raise Failure(
            f"run {program}: it ended with {done.returncode} and no answer to VERSION: {said or 'it said nothing'}",
            "it is no CNI plugin, or this host's C library is too old for it (packaging/README.md)",
        ) from None
    return ", ".join(versions)


def digest_of(path: str) -> str:
    """SHA-256 of a file, as hexadecimal digits. Raises Failure."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as fault:
        raise Failure(f"read {path}: {error_of(fault)}") from None


def _await_folder(folder: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not os.path.isdir(folder):
        if time.monotonic() >= deadline:
            waited = f" within {seconds:g} s" if seconds else ""
            raise Failure(f"{folder}: there is no such folder{waited}", "make it, or give another one: --to FOLDER")
        time.sleep(min(PAUSE, max(0.0, deadline - time.monotonic())))


def _write(source: str, path: str) -> None:
    """Copy a program into a new file, which is on the disk when this returns."""
    remove_quietly(path)  # of a process that had our number and was killed
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o700)
    with open(fd, "wb") as out, open(source, "rb") as file:
        shutil.copyfileobj(file, out, 1 << 20)
        os.fchmod(fd, 0o755)
        out.flush()
        os.fsync(fd)


def _put_tree(tree: str, folder: str) -> None:
    """Copy a one-folder build's other files; a folder of that name is whole, and the same by its name."""
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


def _tidy(folder: str, current: str) -> None:
    """Remove what earlier installations left, but not the tree of the last one: calls of it may be running."""
    trees = []
    for entry in os.scandir(folder):
        if entry.name.startswith(TEMPORARY) and not _runs(entry.name.removeprefix(TEMPORARY)):
            remove_quietly(entry.path)
        elif entry.name.startswith(TREE) and entry.name != current and entry.is_dir(follow_symlinks=False):
            number = entry.name.rpartition(".")[2]
            if number.isdigit() and not _runs(number):
                shutil.rmtree(entry.path, ignore_errors=True)
            elif not number.isdigit():
                trees.append((entry.stat().st_ctime, entry.path))
    for _, path in sorted(trees)[:-1]:
        shutil.rmtree(path, ignore_errors=True)


def _runs(number: str) -> bool:
    return number == str(os.getpid()) or os.path.isdir(f"/proc/{number}")


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
        errno.EROFS: "the folder is on a read-only file system: the node's image says where its CNI plugins go",
        errno.ENOSPC: "the file system is full",
    }.get(fault.errno or 0, "")
