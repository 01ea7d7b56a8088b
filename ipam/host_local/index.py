"""Which leases an attachment holds, found without reading them all (H8).

On disk, beside the folders of the networks, where the Go plugin never looks::

    <dataDir>/.ib-index/<network>/
        <containerID>:<ifname> -> 10.0.0.7,2001:db8::7      symbolic links that lead nowhere: text of one
        <containerID>:         -> 10.0.0.9                  system call, never torn; without ifname: legacy
        seal                   -> <boot id>,<mtime>

The lease files are the truth; this is a hint. It holds while the seal matches: this boot, and the modification
time (ns) that the folder of the leases was given when the index was last right. Whoever else changes that folder
changes its time. Every name the index gives is compared with the lease itself before anything is done.
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
_BEHIND = 10_000_000_000  # ns; a seal lies in the past, where no later change of the folder can put its time
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Index:
    """The index of one network; every method may raise OSError, after which the index is not to be sealed."""

    def __init__(self, data_dir: str, network: str, leases: int) -> None:
        """Open the index of the folder `leases` (a descriptor), which must be locked."""
        self._leases = leases
        self._boot_id = _boot_id()
        self._folder = _open_folder(data_dir, network)

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._folder)

    def holds(self) -> bool:
        """Tell whether nobody has changed the leases since the seal."""
        try:
            seal = os.readlink(SEAL, dir_fd=self._folder)
        except OSError:
            return False
        return seal == f"{self._boot_id},{os.fstat(self._leases).st_mtime_ns}"

    def seal(self) -> None:
        """Declare the index right."""
        _forget(SEAL, self._folder)
        mark = time.time_ns() - _BEHIND
        os.utime(self._leases, ns=(mark, mark))
        os.symlink(f"{self._boot_id},{os.fstat(self._leases).st_mtime_ns}", SEAL, dir_fd=self._folder)

    def find(self, holder: Holder) -> list[str]:
        """Give the names of the lease files of an attachment."""
        try:
            return os.readlink(_key(holder), dir_fd=self._folder).split(",")
        except FileNotFoundError:
            return []

    def put(self, holder: Holder, names: Iterable[str]) -> None:
        """Note which lease files an attachment has; none: forget it."""
        key = _key(holder)
        _forget(key, self._folder)
        text = ",".join(names)
        if text:
            os.symlink(text, key, dir_fd=self._folder)

    def rebuild(self, leases: Mapping[Holder, Iterable[str]]) -> None:
        """Make the index say what the leases say."""
        wanted: dict[str, list[str]] = {}
        for holder, names in leases.items():
            wanted.setdefault(_key(holder), []).extend(names)
        for key in os.listdir(self._folder):
            if key in wanted and _reads(key, self._folder) == ",".join(wanted[key]):
                del wanted[key]
            else:
                _forget(key, self._folder)
        for key, names in wanted.items():
            os.symlink(",".join(names), key, dir_fd=self._folder)


def _key(holder: Holder) -> str:
    key = f"{holder.container_id}:{holder.ifname}"
    if len(key.encode()) > _KEY_MAX:
        # Two that meet here do no harm: names are compared with the leases.
        return f"~{int.from_bytes(key.encode(), 'big') % _PRIME:x}"
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


def _forget(key: str, folder: int) -> None:
    try:
        os.unlink(key, dir_fd=folder)
    except FileNotFoundError:
        pass


def _reads(key: str, folder: int) -> str:
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
