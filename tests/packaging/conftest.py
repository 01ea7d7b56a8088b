"""The builds under test, and hosts that lack something: made roots, file systems mounted the wrong way.

IB_SRIOV_DIST names the folder of the builds (dist/ of the checkout, which `make build` makes). Mounts are made in a
mount namespace of the called process's own, so nothing is left to undo.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
DIST = Path(os.environ.get("IB_SRIOV_DIST", PROJECT / "dist")).resolve()
BUILDS = {"one file": DIST / "ib-sriov", "one folder": DIST / "ib-sriov-folder" / "ib-sriov"}


@pytest.fixture(params=sorted(BUILDS))
def build(request: pytest.FixtureRequest) -> Path:
    """Each build in turn."""
    path = BUILDS[request.param]
    assert path.is_file(), f"{path} is missing: make build"
    return path


@pytest.fixture
def one_file() -> Path:
    path = BUILDS["one file"]
    assert path.is_file(), f"{path} is missing: make build"
    return path


SECONDS = 120.0
Done = subprocess.CompletedProcess[bytes]


def call(program: Path | str, *arguments: str, stdin: bytes = b"", **environ: str) -> Done:
    """Run a program with these variables and no others."""
    return subprocess.run(
        [str(program), *arguments], env=environ, input=stdin, capture_output=True, timeout=SECONDS, check=False
    )


def apart(line: str, *, stdin: bytes = b"", pids: bool = False) -> Done:
    """Run a shell line in a mount namespace of its own, where what it mounts is its own affair."""
    command = ["unshare", "--mount", "--propagation", "private"]
    if pids:
        command += ["--pid", "--fork", "--mount-proc"]
    return subprocess.run(
        [*command, "/bin/bash", "-euc", line],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        input=stdin,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )


def copy_build(build: Path, folder: Path) -> None:
    """Copy the program of a build, with its tree if it has one."""
    shutil.copy(build, folder / "ib-sriov")
    for tree in build.parent.glob(".ib-sriov-tree-*"):
        shutil.copytree(tree, folder / tree.name)


class Root:
    """A root file system with busybox and the C library, and nothing else of this host."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for folder in ("bin", "proc", "sys", "dev", "tmp", "run", "etc", "opt/cni/bin"):
            (path / folder).mkdir(parents=True)
        busybox = shutil.which("busybox")
        assert busybox
        shutil.copy(busybox, path / "bin" / "busybox")
        for name in ("sh", "env", "ls", "cat"):
            (path / "bin" / name).symlink_to("busybox")
        self.copy_libc()

    def copy_libc(self) -> None:
        """The libraries that every process of a glibc host has, and their loader, where they are expected."""
        shown = subprocess.run(["ldd", "/usr/bin/python3"], capture_output=True, text=True, check=True).stdout
        wanted = ("libc.so", "libm.so", "libdl.so", "libpthread.so", "librt.so", "libutil.so", "ld-linux")
        for word in shown.split():
            if word.startswith("/") and os.path.basename(word).startswith(wanted):
                target = self.path / word.lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(word, target)

    def add(self, build: Path) -> str:
        """Copy a build into the root's /opt/cni/bin; its path in there."""
        copy_build(build, self.path / "opt/cni/bin")
        return "/opt/cni/bin/ib-sriov"

    def run(
        self, line: str, environ: Mapping[str, str] | None = None, *, stdin: bytes = b"", proc: bool = True
    ) -> Done:
        """Run a line of the root's own shell under a chroot, with these variables and no others."""
        root = shlex.quote(str(self.path))
        mounts = f"mount -t proc proc {root}/proc; mount -t sysfs -o ro sysfs {root}/sys; " if proc else ""
        given = " ".join(f"{name}={shlex.quote(value)}" for name, value in (environ or {}).items())
        command = f"exec env -i {given} $(type -P chroot) {root} /bin/sh -c {shlex.quote(line)}"
        return apart(f"{mounts} {command}", stdin=stdin)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path / "root")


@pytest.fixture
def new_root(tmp_path: Path) -> Callable[[str], Root]:
    return lambda name: Root(tmp_path / name)
