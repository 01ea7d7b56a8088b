"""Packages from the distribution's archive: by the machine's apt, or by our lists for other releases and machines.

With lists of ours nothing of the machine's configuration changes: apt gets folders of its own for lists and packages,
and the addresses are those that the machine's lists have. apt checks all it fetches against the archive's signature.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from functools import cmp_to_key
from pathlib import Path

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class AptError(Exception):
    """apt cannot do it; the message says what to do."""


class Archive:
    """The packages that apt knows; with `suite`, those of that release, by lists that are kept in `folder`.

    `machines` are names of Debian's architectures (all of them are in the lists; none: this machine's), and a package
    that is named without one is the first one's; with `source_packages` the lists have those too.
    """

    def __init__(
        self,
        suite: str = "",
        folder: Path | None = None,
        *,
        machines: Sequence[str] = (),
        source_packages: bool = False,
    ) -> None:
        self.suite = suite
        # apt's own sandbox user cannot write below a home folder; the packages are checked by hash either way
        self._options = ["-o", "APT::Sandbox::User=root"]
        self._folder = folder
        self._source_packages = source_packages
        if folder is not None:
            for name in ("lists/partial", "cache/archives/partial"):
                (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / "status").touch()  # nothing is installed
            settings = {
                "Dir::State::lists": folder / "lists",
                "Dir::State::status": folder / "status",
                "Dir::Cache": folder / "cache",
                "Dir::Etc::sourcelist": folder / "sources.list",
                "Dir::Etc::sourceparts": "-",
                "Acquire::Languages": "none",
            }
            for name, setting in settings.items():
                self._options += ["-o", f"{name}={setting}"]
        for machine in machines[:1]:
            self._options += ["-o", f"APT::Architecture={machine}"]
        for machine in machines:
            self._options += ["-o", f"APT::Architectures::={machine}"]

    def update(self) -> None:
        """Fetch the lists; those of the machine only as root."""
        if self._folder is not None:
            kinds = ("deb", "deb-src") if self._source_packages else ("deb",)
            lines = [line for kind in kinds for line in sources(self.suite, kind)]
            (self._folder / "sources.list").write_text("".join(f"{line}\n" for line in lines))
        elif os.geteuid() != 0:
            return
        self._get("update")

    def depends(self, prefix: str) -> dict[str, str]:
        """Package name to Depends line, of every package whose name begins so."""
        packages: dict[str, str] = {}
        for stanza in self._cache("dumpavail").split("\n\n"):
            if not stanza.startswith(f"Package: {prefix}"):
                continue
            name = stanza.split("\n", 1)[0].removeprefix("Package: ")
            line = re.search(r"^Depends: (.*)$", stanza, re.MULTILINE)
            packages[name] = line[1] if line else ""
        return packages

    def source_versions(self, name: str) -> list[str]:
        """The versions of a source package that the lists have, the newest last."""
        found = re.findall(r"^Version: (\S+)$", self._cache("showsrc", "--only-source", name), re.MULTILINE)
        return sorted(set(found), key=cmp_to_key(compare_versions))

    def download(self, names: Iterable[str], into: Path) -> None:
        """Download packages, without what they depend on, into a folder."""
        self._get("download", *names, cwd=into)

    def download_whole(self, names: Iterable[str], into: Path) -> None:
        """Download packages and all they depend on into a folder."""
        self._get("install", "--no-install-recommends", "--download-only", "-y", *names)
        assert self._folder is not None
        for deb in (self._folder / "cache/archives").glob("*.deb"):
            deb.rename(into / deb.name)

    def download_source(self, name: str, into: Path, *, tar_only: bool = False) -> None:
        """Download a source package (NAME or NAME=VERSION), not unpacked, into a folder; of some only the archive."""
        self._get("source", "--tar-only" if tar_only else "--download-only", name, cwd=into)

    def _cache(self, *arguments: str) -> str:
        command = ["apt-cache", *self._options, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def _get(self, *arguments: str, cwd: Path | None = None) -> None:
        command = ["apt-get", "-q", "-o", "Acquire::Retries=3", *self._options, *arguments]
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
        if done.returncode:
            raise AptError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")


def sources(suite: str, kind: str = "deb") -> list[str]:
    """The lines of a sources.list for another release, from the addresses that the machine's own lists have."""
    form = "$(ORIGIN) $(LABEL) $(REPO_URI)"
    command = ["apt-get", "indextargets", "--format", form, "Created-By: Packages"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    addresses = dict(re.findall(r"^Debian (Debian|Debian-Security) (\S+)$", shown, re.MULTILINE))
    if "Debian" not in addresses:
        raise AptError(f"apt has no list of Debian's archive to take the address of {suite} from: apt-get update")
    how = f"[signed-by={KEYRING}]"
    lines = [f"{kind} {how} {addresses['Debian']} {suite} main"]
    if suite != "sid" and "Debian-Security" in addresses:
        lines.append(f"{kind} {how} {addresses['Debian-Security']} {suite}-security main")
    return lines


def compare_versions(one: str, two: str) -> int:
    """-1, 0 or 1, by dpkg's rules."""
    for relation, sign in (("lt", -1), ("gt", 1)):
        if subprocess.run(["dpkg", "--compare-versions", one, relation, two], check=False).returncode == 0:
            return sign
    return 0
