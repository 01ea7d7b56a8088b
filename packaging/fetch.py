"""What the program is linked of: Debian's static libraries for each machine type, and three source packages.

    packaging/build --step fetch      fetch what is missing
    packaging/build --step updates    fetch all again, and say what is newer

Packages are what the release's archive has on the day they are fetched, security updates included: old versions vanish
from there, so none can be pinned. Their versions and digests are in fetched.json and in the bill of materials. Upstream
archives stay; their digests are below. apt has checked everything against the archive's signature.
"""

from __future__ import annotations

import fcntl
import glob
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import machines
from machines import CACHE, MACHINES, Machine, say

from tests.tools.apt import AptError, Archive

SUITE = "bookworm"
# Libraries and headers, for each machine type; the interpreter's own modules, written in Python, are the same for all.
PACKAGES = (
    *("libpython3.11-dev", "libssl-dev", "zlib1g-dev", "libexpat1-dev", "libnl-3-dev", "libnl-route-3-dev"),
    *("libc6-dev", "linux-libc-dev", "libcrypt-dev", "libpython3.11-minimal", "libpython3.11-stdlib"),
)


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """A source package: the release it is taken from, its archive, and the digest of that."""

    suite: str
    archive: str
    sha256: str
    patched: bool  # whether Debian's changes are applied


UPSTREAM = {
    # libibverbs, librdmacm, their providers, pyverbs. Of a later release: Debian 12's does not know newer devices.
    "rdma-core": Upstream(
        suite="trixie",
        archive="rdma-core_56.1.orig.tar.gz",
        sha256="63ce7f2baa7242c2dbc76375dac957c420187dd27f8c5e148efc07971ee522a8",
        patched=False,
    ),
    # Modules that the static libpython has not in it, and the tool that writes code objects as C.
    "python3.11": Upstream(
        suite=SUITE,
        archive="python3.11_3.11.2.orig.tar.gz",
        sha256="2411c74bda5bbcfcddaf4531f66d1adc73f247f529aee981b029513aefdbf849",
        patched=True,
    ),
}
FETCHED = os.path.join(CACHE, "fetched")
RECORD = os.path.join(FETCHED, "fetched.json")


@dataclass(frozen=True, kw_only=True)
class File:
    """One fetched file: of which package, its version, for which of Debian's architectures ("source" for sources)."""

    package: str
    version: str
    architecture: str
    name: str
    sha256: str

    @property
    def path(self) -> str:
        return os.path.join(FETCHED, self.name)


@contextmanager
def locked() -> Iterator[None]:
    """One build at a time fetches and makes libraries; another waits and finds them made."""
    os.makedirs(CACHE, exist_ok=True)
    with open(os.path.join(CACHE, "lock"), "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fetched() -> list[File]:
    """Return what is fetched, fetching it if it is not, or if the table above has changed."""
    files = _read_record()
    if files is None:
        with locked():
            files = _read_record() or _fetch()
    return files


def _table() -> str:
    return repr((SUITE, PACKAGES, UPSTREAM, sorted(MACHINES)))


def _read_record() -> list[File] | None:
    try:
        with open(RECORD, encoding="utf-8") as file:
            record = json.load(file)
    except FileNotFoundError:
        return None
    files = [File(**each) for each in record["files"]]
    whole = record["table"] == _table() and all(os.path.exists(file.path) for file in files)
    return files if whole else None


def _archive(suite: str) -> Archive:
    architectures = [machine.debian for machine in MACHINES.values()]
    return Archive(suite, Path(CACHE, f"apt-{suite}"), machines=architectures, source_packages=True)


def _fetch() -> list[File]:
    say(f"fetching Debian's packages of {SUITE} for {', '.join(MACHINES)}, and the sources of {', '.join(UPSTREAM)}")
    into = Path(machines.fresh_folder(FETCHED + ".new"))
    try:
        archive = _archive(SUITE)
        archive.update()
        archive.download([f"{name}:{machine.debian}" for machine in MACHINES.values() for name in PACKAGES], into)
        files = [_debian(path) for path in sorted(into.glob("*.deb"))]
        for name, upstream in UPSTREAM.items():
            files += _fetch_source(name, upstream, into)
    except AptError as fault:
        sys.exit(f"build: {fault}")
    with open(into / "fetched.json", "w", encoding="utf-8") as out:
        json.dump({"table": _table(), "files": [asdict(file) for file in files]}, out, indent=1)
    machines.fresh_folder(FETCHED)
    os.replace(into, FETCHED)
    return files


def _debian(path: Path) -> File:
    fields = machines.run(["dpkg-deb", "-f", str(path), "Package", "Version", "Architecture"])
    found = dict(re.findall(r"^(\w+): (.*)$", fields, re.MULTILINE))
    return File(
        package=found["Package"],
        version=found["Version"],
        architecture=found["Architecture"],
        name=path.name,
        sha256=machines.digest(str(path)),
    )


def _fetch_source(name: str, upstream: Upstream, into: Path) -> list[File]:
    """Fetch the newest version of a source package that is there as a whole."""
    archive = _archive(upstream.suite)
    if upstream.suite != SUITE:
        archive.update()
    faults = []
    for version in reversed(archive.source_versions(name)):
        try:
            archive.download_source(f"{name}={version}", into, tar_only=not upstream.patched)
        except AptError as fault:  # the archive does not keep the sources of each version it lists
            faults.append(str(fault))
            continue
        orig = into / upstream.archive
        if not orig.exists():
            sys.exit(
                f"build: {name} {version} has no {upstream.archive}: bring UPSTREAM in packaging/fetch.py up to date"
            )
        if (found := machines.digest(str(orig))) != upstream.sha256:
            sys.exit(f"build: {upstream.archive} has the digest {found}, and packaging/fetch.py says {upstream.sha256}")
        paths = [orig]
        if upstream.patched:
            without_epoch = version.rpartition(":")[2]
            paths += [Path(path) for path in sorted(glob.glob(f"{into}/{name}_{glob.escape(without_epoch)}.*"))]
        return [
            File(
                package=name,
                version=version,
                architecture="source",
                name=path.name,
                sha256=machines.digest(str(path)),
            )
            for path in paths
        ]
    sys.exit(f"build: no version of the source package {name} can be fetched:\n" + "\n".join(faults))


def updates() -> int:
    """Fetch everything anew, print which packages have another version now, and return how many there are."""
    before = _versions(fetched())
    with locked():
        now = _versions(_fetch())
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    for name in changed:
        print(f"{name}: {before.get(name, 'none')} -> {now.get(name, 'none')}")
    return len(changed)


def _versions(files: list[File]) -> dict[str, str]:
    return {f"{file.package} ({file.architecture})": file.version for file in files}


def unpack_packages(machine: Machine, into: str) -> None:
    """Unpack the machine type's packages into a folder, which then is what the compiler takes for the root."""
    for file in fetched():
        if file.architecture == machine.debian:
            machines.run(["dpkg-deb", "-x", file.path, into])


def unpack_source(name: str, into: str) -> str:
    """Unpack a source package, with Debian's changes if they are wanted; return its folder."""
    target = os.path.join(into, name)
    files = [file for file in fetched() if (file.package, file.architecture) == (name, "source")]
    if UPSTREAM[name].patched:
        (description,) = [file.path for file in files if file.name.endswith(".dsc")]
        machines.run(["dpkg-source", "--no-check", "--extract", description, target])
    else:
        os.makedirs(target)
        machines.run(["tar", "-xf", files[0].path, "-C", target, "--strip-components=1"])
    return target
