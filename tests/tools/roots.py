"""Root file systems of unpacked packages, kept in the cache: nothing in them is installed or configured.

They are ${XDG_CACHE_HOME:-~/.cache}/ib-sriov/root/<release>-<arch>-<hash>, where the hash is of what is in them; apt's
lists are beside them. Each is made once; remove it for newer packages.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.tools.apt import Archive

FOLDERS = ("dev", "opt", "proc", "root", "run", "sys", "tmp", "var/lib")
# What the installation scripts would have written.
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n",
}


def cache_root() -> Path:
    """${XDG_CACHE_HOME:-~/.cache}/ib-sriov, without symbolic links."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.path.realpath(base)) / "ib-sriov"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def unpack(debs: Path, tree: Path) -> None:
    for deb in sorted(debs.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", deb, tree], check=True)


def archive_of(release: str, arch: str) -> Archive:
    """The packages of a release ("bookworm") for an architecture, by Debian's names."""
    return Archive(release, cache_root() / "root" / f"apt-{release}-{arch}", machines=[arch])


def unpacked_root(release: str, arch: str, packages: Sequence[str]) -> Path:
    """The folder of a root with packages and all that they depend on."""
    key = hashlib.sha256(repr((packages, FOLDERS, FILES)).encode()).hexdigest()[:16]
    root = cache_root() / "root" / f"{release}-{arch}-{key}"
    with locked(root.with_name(f"{release}-{arch}.lock")):
        if root.is_dir():
            return root
        archive = archive_of(release, arch)
        archive.update()
        with tempfile.TemporaryDirectory(prefix=".new.", dir=root.parent) as work:
            debs, tree = Path(work, "debs"), Path(work, "tree")
            debs.mkdir()
            archive.download_whole(packages, debs)
            unpack(debs, tree)
            for folder in FOLDERS:
                (tree / folder).mkdir(parents=True, exist_ok=True)
            for name, text in FILES.items():
                (tree / name).write_text(text)
            tree.chmod(0o755)
            tree.rename(root)
    return root
