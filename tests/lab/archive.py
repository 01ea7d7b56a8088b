"""Kernel packages from the distribution's archive: of the machine's own release by its apt, of others by lists of ours.

A kernel of another release needs that release's compiler and C library to build a module: its kbuild programs and its
compiler's options are newer (or older) than the machine's. So its packages are unpacked with those tools into one tree,
which is a root file system to chroot into; nothing in it is installed or configured.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cmp_to_key
from pathlib import Path

from tests.tools.apt import Archive, compare_versions
from tests.tools.roots import unpack

# Series of kernels that are in another release of Debian than the machine's: the oldest, and the newest there is.
NEWEST = "newest"
FOREIGN = {"5.10": "bullseye", NEWEST: "sid"}
# What building a module calls, beyond what the headers depend on.
TOOLS = ("base-files", "dash", "coreutils", "sed", "grep", "mawk", "findutils", "make")


class LabError(Exception):
    """The lab cannot be built or booted; the message says what to do."""


def say(text: str) -> None:
    print(f"lab: {text}", file=sys.stderr, flush=True)


def newest_release(series: str, arch: str, depends: Mapping[str, str]) -> str | None:
    """The newest release (6.12.117+deb12-amd64) of a series that has an image and headers; NEWEST is any series.

    `depends` maps each package name of the archive to its Depends line. The meta packages of the series are asked
    first; where they are missing, or name something that is not there, the versioned packages themselves are looked
    through.
    """
    wanted = r"[0-9]" if series == NEWEST else re.escape(series)
    plain = re.compile(rf"linux-image-({wanted}[0-9.+a-z-]*-{re.escape(arch)})$")

    def complete(release: str) -> bool:
        return f"linux-image-{release}" in depends and f"linux-headers-{release}" in depends

    for meta in (f"linux-image-{series}-{arch}", f"linux-image-{arch}"):
        for word in re.split(r"[ ,|]+", depends.get(meta, "")):
            if (match := plain.match(word)) and complete(match[1]):
                return match[1]
    flavour = re.compile(rf"linux-image-({wanted}\.[0-9]+(\.[0-9]+)*([+~-][0-9a-z.]+)*-{re.escape(arch)})$")
    found = [match[1] for name in depends if (match := flavour.match(name)) and complete(match[1])]
    special = ("-rt-", "-cloud-", "-unsigned", "-dbg")
    found = [release for release in found if not any(word in release for word in special)]
    return max(found, key=cmp_to_key(compare_versions), default=None)


def find_release(archive: Archive, series: str, arch: str) -> str:
    """The newest release of a series; the lists are fetched if they do not have it."""
    release = newest_release(series, arch, archive.depends("linux-"))
    if release is None:
        say("apt knows no such kernel: apt-get update")
        archive.update()
        release = newest_release(series, arch, archive.depends("linux-"))
    if release is None:
        raise LabError(
            f"no package linux-image-{series}*-{arch} with its linux-headers in apt's lists: try apt-get update, "
            f"another series (KERNEL=6.1), or a kernel of your own (VMLINUZ=, MODULES=, KO=)"
        )
    return release


def packages_of(release: str, depends: Mapping[str, str]) -> list[str]:
    """The image, the headers, and the packages that those are made of."""
    image, headers = f"linux-image-{release}", f"linux-headers-{release}"
    parts = re.findall(rf"linux-(?:binary|modules)-{re.escape(release)}", depends[image])
    parts += re.findall(r"linux-(?:headers-[^ ,]*-common|kbuild-[^ ,]*)", depends[headers])
    return [image, headers, *dict.fromkeys(parts)]


def fetch(archive: Archive, release: str, into: Path, *, cross: bool = False) -> None:
    """Download the packages and unpack them; `into` appears whole or not at all.

    With `cross` the archive is of another machine type, and the programs that build a module are this machine's.
    """
    names = packages_of(release, archive.depends("linux-"))
    say(f"fetching {' '.join(names)}")
    into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{release}.", dir=into.parent) as work:
        debs = Path(work, "debs")
        tree = Path(work, "tree")
        debs.mkdir()
        programs = [name for name in names if cross and name.startswith("linux-kbuild-")]
        if programs:
            Archive().download(programs, debs)
        archive.download([name for name in names if name not in programs], debs)
        own_compiler = bool(archive.suite) and not cross
        if own_compiler:
            archive.download_whole([f"linux-headers-{release}", *TOOLS], debs)
        unpack(debs, tree)
        if own_compiler:
            make_root(tree)
        else:
            # the headers' Makefile names its common part by the path it would have when installed
            makefile = tree / "usr/src" / f"linux-headers-{release}" / "Makefile"
            makefile.write_text(makefile.read_text().replace("include /usr/src/", f"include {into}/usr/src/"))
        tree.rename(into)


def make_root(tree: Path) -> None:
    """Complete a tree of unpacked packages to a root file system: what their installation scripts would have done."""
    for name in ("build", "proc", "tmp"):
        (tree / name).mkdir(exist_ok=True)
    if not (tree / "usr/bin/awk").is_symlink():
        (tree / "usr/bin/awk").symlink_to("mawk")


def make_module(tree: Path, release: str, work: Path) -> None:
    """Compile the module whose sources are in `work`; make decides whether there is anything to do."""
    # BTF wants the whole vmlinux and pahole, and nothing here reads it
    make = ["make", "-s", "W=1", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"]
    headers = f"usr/src/linux-headers-{release}"
    if (tree / "build").is_dir():
        inside = ["chroot", str(tree), *make, "-C", f"/{headers}", "M=/build"]
        # objtool and the shell read /proc
        mounts = (
            'mount --bind "$1" "$2/build" && mount --rbind /proc "$2/proc" && mount --rbind /dev "$2/dev" && '
            'shift 2 && exec "$@"'
        )
        own = [] if os.geteuid() == 0 else ["--map-root-user"]
        command = ["unshare", "--mount", *own, "sh", "-c", mounts, "sh", str(work), str(tree), *inside]
    else:
        command = [*make, "-C", str(tree / headers), f"M={work}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"TMPDIR": "/tmp"})
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")


def copy_sources(source: Path, work: Path) -> None:
    """Copy the module's sources into its build folder, but only what differs, so that make can decide."""
    work.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        copy = work / path.name
        if path.is_file() and (not copy.exists() or copy.read_bytes() != path.read_bytes()):
            shutil.copy(path, copy)
