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
JOINED = (("cpu", "cpuacct"), ("net_cls", "net_prio"))


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


def cgroups(version: int = 2) -> None:
    """Give pods the controllers of cgroup 2, or the hierarchies of cgroup 1, as an init system does.

    Processes may stay in the root group: it alone may have both members and controllers for its children.
    """
    if version == 1:
        first_cgroups()
        return
    available = Path("/sys/fs/cgroup/cgroup.controllers").read_text().split()
    wanted = [name for name in available if name in {"cpuset", "cpu", "io", "memory", "pids", "hugetlb"}]
    Path("/sys/fs/cgroup/cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in wanted))


def first_cgroups() -> None:
    """Put the hierarchies of cgroup 1 in the place of cgroup 2, by systemd's names."""
    if os.path.exists("/sys/fs/cgroup/memory"):
        return
    rows = [line.split() for line in Path("/proc/cgroups").read_text().splitlines()[1:]]
    single = [name for name, _, _, enabled in rows if enabled == "1" and name not in sum(JOINED, ())]
    # a controller leaves this hierarchy while no group of it uses it
    commands.run(["umount", "/sys/fs/cgroup"])
    commands.run(["mount", "-t", "tmpfs", "tmpfs", "/sys/fs/cgroup"])
    for together in JOINED:
        for link in together:
            Path("/sys/fs/cgroup", link).symlink_to(",".join(together))
    options = {name: name for name in (*single, *(",".join(each) for each in JOINED))}
    for folder, option in {**options, "systemd": "none,name=systemd"}.items():
        place = Path("/sys/fs/cgroup", folder)
        place.mkdir()
        commands.run(["mount", "-t", "cgroup", "-o", option, "cgroup", str(place)])
