"""The machine types of a guest: what QEMU emulates, and where the guest's root file system comes from.

A guest of the host's own type has the host's root. One of another type (MACHINE=aarch64) has a root of unpacked
packages (tools/roots.py), and sees the project, the cache and the virtual environment at the paths they have on the
host: what the environment has is of Python alone, and its interpreter is a link to /usr/bin/python3.
"""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from tests.lab.archive import LabError
from tests.tools.apt import Archive
from tests.tools.roots import archive_of, unpacked_root

HOST = Path("/")
# What the tests call, what the plugin run by its source needs, and an initial file system's busybox.
PACKAGES = (
    *("base-files", "bash", "busybox-static", "coreutils", "dash", "findutils", "grep", "hostname", "mount", "procps"),
    *("sed", "util-linux", "iproute2", "iputils-ping", "ibverbs-providers", "python3", "python3-pyverbs"),
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine type."""

    name: str  # as uname -m prints it
    arch: str  # as Debian calls it
    flavour: str  # of Debian's kernels for it
    package: str  # of its QEMU
    board: tuple[str, ...]  # QEMU's arguments
    processor: str  # under emulation
    console: str  # the kernel's log
    output: str  # the serial port of the command
    output_device: tuple[str, ...]  # QEMU's arguments that make it, of the character device `out`
    words: str  # the kernel's command line under emulation
    compiler: str = "gcc"
    compiler_package: str = "gcc"

    @property
    def is_host(self) -> bool:
        return self.name == platform.machine()

    @property
    def qemu(self) -> str:
        """The path of its QEMU."""
        name = f"qemu-system-{self.name}"
        found = shutil.which(name)
        if found is None:
            raise LabError(f"{name} is missing: apt-get install {self.package}")
        return found


# Randomised addresses keep QEMU from using translated code again (measured, see README.md). A kernel tests its ciphers
# as it boots, and warns of one that a starved processor does not get ready within a minute.
EMULATED = "norandmaps mitigations=off init_on_alloc=0 cryptomgr.notests=1"
MACHINES = {
    machine.name: machine
    for machine in (
        Machine(
            name="x86_64",
            arch="amd64",
            flavour="amd64",
            package="qemu-system-x86",
            board=("-machine", "q35"),
            # QEMU 7.2 gets EFLAGS wrong in cmpxchg16b (hca/cmpxchg16b.c), and the kernel dies of it now and then.
            processor="max,-cx16",
            console="ttyS0",
            output="ttyS1",
            output_device=("-serial", "chardev:out"),
            # no_timer_check is a precaution, not the cure of a failure seen here: the kernel counts timer interrupts
            # over a busy loop, which a loaded host may deliver late. The TSC is the host's; a kernel that compares it
            # with the emulated HPET on a loaded host gives it up for that one, which takes longer to read.
            words=f"{EMULATED} no5lvl no_timer_check tsc=reliable",
        ),
        Machine(
            name="aarch64",
            arch="arm64",
            flavour="arm64",
            package="qemu-system-arm",
            board=("-machine", "virt"),
            # The architecture's own way to sign pointers is slow where it is emulated.
            processor="max,pauth-impdef=on",
            console="ttyAMA0",
            output="ttyS0",
            output_device=("-device", "pci-serial,chardev=out"),
            words=EMULATED,
            compiler="aarch64-linux-gnu-gcc-12",
            compiler_package="gcc-12-aarch64-linux-gnu",
        ),
    )
}
# Its pages have 16 KiB.
MACHINES["aarch64-16k"] = replace(MACHINES["aarch64"], flavour="arm64-16k")


def chosen() -> Machine:
    """The one that MACHINE names; the host's own type by default."""
    if platform.machine() != "x86_64":
        # A kernel is built with the programs of its packages for the host; only this pair was ever tried.
        raise LabError(f"the lab runs on x86_64 hosts; this is {platform.machine()}")
    name = os.environ.get("MACHINE") or platform.machine()
    if name not in MACHINES:
        raise LabError(f"MACHINE={name}: must be one of {', '.join(MACHINES)}")
    return MACHINES[name]


def own_release() -> str:
    """The name of the host's release of the distribution ("bookworm")."""
    release = platform.freedesktop_os_release()
    if release.get("ID") != "debian":
        raise LabError(f"a guest of another machine type is made of Debian's packages; this is {release.get('ID')}")
    return release["VERSION_CODENAME"]


def foreign_archive(machine: Machine) -> Archive:
    """The packages of the host's own release for a machine of another type."""
    return archive_of(own_release(), machine.arch)


def guest_root(machine: Machine) -> Path:
    """The folder that the guest has as its root."""
    return HOST if machine.is_host else unpacked_root(own_release(), machine.arch, PACKAGES)
