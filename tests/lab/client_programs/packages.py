"""The distribution's runtimes in the guest: linked into its root file system, which ends with it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from tests.lab import commands
from tests.lab.client_programs.node import PROJECT

PARTS = ("etc", "usr/bin", "usr/sbin", "usr/lib", "usr/libexec", "usr/share/containers", "lib", "sbin", "bin")
OVERLAYS_NEED = "tmpfs"
"""An overlay cannot lie on the guest's own overlay: what keeps layers gets a file system of its own."""


def install(name: str) -> None:
    """Link what tests/tools/deb-client has unpacked; what the guest has already stays as it is."""
    done = commands.run([str(PROJECT / "tests/tools/deb-client"), "--built", name], check=False)
    assert done.returncode == 0, f"{name} is not there: tests/tools/need clients ({done.stderr.strip()})"
    tree = Path(done.stdout.strip(), "tree")
    for part in PARTS:
        for folder, subfolders, files in os.walk(tree / part):
            target = Path("/", os.path.relpath(folder, tree))
            target.mkdir(parents=True, exist_ok=True)
            for each in [*files, *(sub for sub in subfolders if os.path.islink(os.path.join(folder, sub)))]:
                if not os.path.lexists(target / each):
                    os.symlink(os.path.join(folder, each), target / each)


def link(folder: str, programs: Iterable[str]) -> None:
    """Link programs into a folder of the guest's root file system, in the place of what packages call the same."""
    for path in programs:
        os.symlink(path, os.path.join(folder, os.path.basename(path)))


def own_tmpfs(*folders: str) -> None:
    """Mount a tmpfs on each folder, once."""
    for folder in folders:
        Path(folder).mkdir(parents=True, exist_ok=True)
        if not os.path.ismount(folder):
            commands.run(["mount", "-t", OVERLAYS_NEED, "tmpfs", folder])


def cgroups() -> None:
    """Give pods the controllers of cgroup 2, as an init system does.

    Processes may stay in the root group: it alone may have both members and controllers for its children.
    """
    available = Path("/sys/fs/cgroup/cgroup.controllers").read_text().split()
    wanted = [name for name in available if name in {"cpuset", "cpu", "io", "memory", "pids", "hugetlb"}]
    Path("/sys/fs/cgroup/cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in wanted))
