"""An index of the leases by attachment, so that a call need not read them all (H8).

On disk, beside the folders of the networks, where the Go plugin does not look::

    <dataDir>/.ib-index/<network>/
        <containerID>:<ifname> -> 10.0.0.7,2001:db8::7      leases of an attachment
        <containerID>:         -> 10.0.0.9                  the same, written by old versions without ifname
        seal                   -> <boot id>,<mtime>

The entries are dangling symbolic links: one system call writes them, so that none is ever half written. The lease files
are the truth; the index is a hint. It is valid while the seal matches: the boot ID, and the modification time (ns) that
the folder of the leases was given when the index was last complete. Any other change of that folder changes its time.
Each name in the index is compared with the lease itself before it is used.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ipam.host_local.allocator import Holder

FOLDER = ".ib-index"
SEAL = "seal"
_KEY_MAX = 240  # bytes of a file name
_PRIME = (1 << 127) - 1
_SEAL_AGE = 10_000_000_000  # ns; the sealed time is in the past, so that no later change of the folder can produce it
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Index:
    """The index of one network. Every method may raise OSError; after that the index must not be sealed."""

    def __init__(self, data_dir: str, network: str, leases: int) -> None:
        """Open the index of the folder `leases` (a descriptor), whose lock the caller must hold."""
        self._leases = leases
        self._boot_id = _boot_id()
        self._folder = _open_folder(data_dir, network)

    def close(self) -> None:
        """Close the index."""
        os.close(self._folder)

    def is_valid(self) -> bool:
        """Return whether the leases are unchanged since the index was sealed."""
        try:
            seal = os.readlink(SEAL, dir_fd=self._folder)
        except OSError:
            return False
        return seal == f"{self._boot_id},{os.fstat(self._leases).st_mtime_ns}"

    def seal(self) -> None:
        """Mark the index as complete."""
        _unlink(SEAL, self._folder)
        mark = time.time_ns() - _SEAL_AGE
        os.utime(self._leases, ns=(mark, mark))
        os.symlink(f"{self._boot_id},{os.fstat(self._leases).st_mtime_ns}", SEAL, dir_fd=self._folder)

    def find(self, holder: Holder) -> list[str]:
        """Return the names of an attachment's lease files."""
        try:
            return os.readlink(_key(holder), dir_fd=self._folder).split(",")
        except FileNotFoundError:
            return []

    def put(self, holder: Holder, names: Iterable[str]) -> None:
        """Store the names of an attachment's lease files; without names, remove its entry."""
        key = _key(holder)
        _unlink(key, self._folder)
        text = ",".join(names)
        if text:
            os.symlink(text, key, dir_fd=self._folder)

    def rebuild(self, leases: Mapping[Holder, Iterable[str]]) -> None:
        """Make the index match the leases: file names by attachment."""
        wanted: dict[str, list[str]] = {}
        for holder, names in leases.items():
            wanted.setdefault(_key(holder), []).extend(names)
        for key in os.listdir(self._folder):
            if key in wanted and _read_link(key, self._folder) == ",".join(wanted[key]):
                del wanted[key]
            else:
                _unlink(key, self._folder)
        for key, names in wanted.items():
            os.symlink(",".join(names), key, dir_fd=self._folder)


def _key(holder: Holder) -> str:
    key = f"{holder.container_id}:{holder.ifname}"
    name = os.fsencode(key)
    if len(name) > _KEY_MAX or b"/" in name:  # a damaged lease may name a path as its container
        # A collision does no harm: the names are compared with the leases.
        return f"~{int.from_bytes(name, 'big') % _PRIME:x}"
    return key


def _open_folder(data_dir: str, network: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    parent = os.path.join(data_dir, FOLDER)
    try:
        os.mkdir(parent, 0o700)
    except FileExistsError:
        pass
    above = os.open(parent, flags)
    try:
        try:
            os.mkdir(network, 0o700, dir_fd=above)
        except FileExistsError:
            pass
        return os.open(network, flags, dir_fd=above)
    finally:
        os.close(above)


def _unlink(key: str, folder: int) -> None:
    try:
        os.unlink(key, dir_fd=folder)
    except FileNotFoundError:
        pass


def _read_link(key: str, folder: int) -> str:
    try:
        return os.readlink(key, dir_fd=folder)
    except OSError:
        return ""


def _boot_id() -> str:
    try:
        file = os.open(_BOOT_ID, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return "unknown"
    try:
        return os.read(file, 64).decode().strip()
    except OSError:
        return "unknown"
    finally:
        os.close(file)
