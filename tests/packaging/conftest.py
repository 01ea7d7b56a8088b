"""The programs under test, and hosts that lack something: made roots, file systems mounted the wrong way.

IB_SRIOV_DIST names their folder (dist/ of the checkout, which `make build` makes). Mounts are made in a
mount namespace of the called process's own, so nothing is left to undo.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
DIST = Path(os.environ.get("IB_SRIOV_DIST", PROJECT / "dist")).resolve()
MACHINES = ("x86_64", "aarch64")
BUILDS = {machine: DIST / f"ib-sriov-{machine}" for machine in MACHINES}
BUILD = BUILDS[platform.machine()]


@pytest.fixture(params=MACHINES)
def each_build(request: pytest.FixtureRequest) -> Path:
    """The program for each machine type in turn; that of another type is looked at, not run."""
    path = BUILDS[request.param]
    assert path.is_file(), f"{path} is missing: make build"
    return path


@pytest.fixture
def build() -> Path:
    """The program for this machine."""
    assert BUILD.is_file(), f"{BUILD} is missing: make build"
    return BUILD


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


class Root:
    """A root file system with a static busybox, and nothing else of this host."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for folder in ("bin", "proc", "sys", "dev", "tmp", "run", "etc", "opt/cni/bin"):
            (path / folder).mkdir(parents=True)
        busybox = shutil.which("busybox")
        assert busybox
        shutil.copy(busybox, path / "bin" / "busybox")
        for name in ("sh", "env", "ls", "cat"):
            (path / "bin" / name).symlink_to("busybox")

    def add(self, build: Path) -> str:
        """Copy a program into the root's /opt/cni/bin; its path in there."""
        shutil.copy(build, self.path / "opt/cni/bin/ib-sriov")
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
