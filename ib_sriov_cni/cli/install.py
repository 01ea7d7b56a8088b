"""`ib-sriov install`: put a packed program into the folder of CNI plugins, even while the old one is in use.

Runtimes never see half a program, and a running one is never written to: the new program is written under a temporary
name next to the old one, must answer VERSION there, and is then renamed over it.
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
TREE = ".ib-sriov-tree-"  # a folder of shared objects that a program of before 0.1.0 could have beside it
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

    SOURCE is the file of another packed program to install instead. The program is written under a temporary name, must
    answer VERSION, and then replaces the old one in one step. Running calls are not disturbed.
    """
    if "/" in name or name in {"", ".", ".."}:
        raise click.UsageError(f"--name {name!r} is not a file name")
    program = find_source(source)
    _await_folder(folder, seconds)
    target = os.path.join(folder, name)
    before = read_existing(target)
    digest = digest_of(program)
    same = before.digest == digest and before.mode == 0o755
    outcome = "already there" if same else "would be installed" if dry_run else "installed"
    version = ""
    if not dry_run:
        version = ask_version(target if same else install(program, folder, name))
        # The folder of a program that was replaced just now may still be in use; the next time it is not.
        _remove_leftovers(folder, keep_newest_tree=not same)
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


def find_source(given: str) -> str:
    """Return the packed program to install: the one given, or the running one. Raises Failure."""
    if not given:
        if not getattr(sys, "frozen", False):
            raise Failure(
                "this program runs from source, so it cannot be installed",
                "pass a packed program as SOURCE: `make build` makes dist/ib-sriov",
            )
        return SELF
    if not os.path.isfile(given):
        raise Failure(f"{given}: no such file", "pass the file of a packed program")
    return given


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


def install(program: str, folder: str, name: str) -> str:
    """Install the program and return its path. Raises Failure; then nothing has changed."""
    target = os.path.join(folder, name)
    temporary = os.path.join(folder, f"{TEMPORARY}{os.getpid()}")
    try:
        _write(program, temporary)
        ask_version(temporary)
        os.rename(temporary, target)
        sync_folder(folder)
    except OSError as fault:
        raise Failure(f"install {target}: {describe_os_error(fault)}", _hint(fault)) from None
    finally:
        remove_quietly(temporary)
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
            "it is not a CNI plugin, or this kernel is too old for it (packaging/README.md)",
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


def _remove_leftovers(folder: str, *, keep_newest_tree: bool) -> None:
    """Remove what earlier installations left, and the folders that earlier programs had beside them."""
    trees = []
    for entry in os.scandir(folder):
        if entry.name.startswith(TEMPORARY) and not _is_running(entry.name.removeprefix(TEMPORARY)):
            remove_quietly(entry.path)
        elif entry.name.startswith(TREE) and entry.is_dir(follow_symlinks=False):
            trees.append((entry.stat().st_ctime, entry.path))
    for _, path in sorted(trees)[: -1 if keep_newest_tree else None]:
        shutil.rmtree(path, ignore_errors=True)


def _is_running(pid: str) -> bool:
    return pid == str(os.getpid()) or os.path.isdir(f"/proc/{pid}")


def _hint(fault: OSError) -> str:
    import errno

    return {
        errno.EACCES: "run it as root",
        errno.EPERM: "run it as root",
        errno.EROFS: "the folder is on a read-only file system: see the node's image for where CNI plugins go",
        errno.ENOSPC: "the file system is full",
    }.get(fault.errno or 0, "")
