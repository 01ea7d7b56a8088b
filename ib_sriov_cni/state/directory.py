"""Reading and writing the state directory: privately, durably, and without following links.

records.py has the layout.
"""

from __future__ import annotations

import errno
import os

from ib_sriov_cni.core.errors import StateFailure
from ipam.protocol.bounds import RECORD_BYTES
from ipam.protocol.fastjson import loads
from ipam.protocol.files import open_regular

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_STATE_DIR = "/var/lib/cni/ib-sriov"
MAX_RECORD = RECORD_BYTES
TRIES = 100
# errno values that mean there is no such file; with a name too long for a file there never was one.
NO_RECORD = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


def _make_parents(folder: str) -> None:
    """Make the folders above the state directory, writable by the owner only, whatever the umask."""
    if not folder or os.path.isdir(folder):
        return
    _make_parents(os.path.dirname(folder))
    try:
        os.mkdir(folder, 0o755)
    except FileExistsError:
        pass


def make_folders(base: str, name: str, *, durable: bool = True) -> None:
    """Make the state directory, `base` in it, and base/name unless `name` is empty; 0700 whatever the umask.

    A state directory that exists keeps its mode, which may be the administrator's choice. Below it, folders of other
    users are refused. `durable`: sync what was made. Raises OSError.
    """
    state_dir = os.path.dirname(base)
    _make_parents(os.path.dirname(state_dir))
    for folder in (state_dir, base, f"{base}/{name}") if name else (state_dir, base):
        try:
            os.mkdir(folder, 0o700)
            os.chmod(folder, 0o700)
            if durable:
                sync_folder(os.path.dirname(folder))
        except FileExistsError:
            if folder != state_dir:
                _make_private(folder)


def _make_private(folder: str) -> None:
    """Make an existing folder 0700. Raises OSError if it is a symbolic link or belongs to another user."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, f"its folder belongs to user {status.st_uid}")
        if status.st_mode & 0o077:
            os.fchmod(fd, 0o700)
    finally:
        os.close(fd)


def rename_planted_links(*folders: str) -> None:
    """Rename symbolic links that somebody has put in the place of our folders, so that nothing goes through them.

    Raises StateFailure (106).
    """
    for folder in folders:
        try:
            os.readlink(folder)
        except OSError:
            continue  # a folder or nothing, as it should be
        mark_damaged(folder)


def mark_damaged(path: str) -> None:
    """Rename a file that cannot be parsed to <path>.damaged, out of the way. Raises StateFailure (106)."""
    try:
        os.rename(path, path + ".damaged")
    except OSError as fault:
        raise StateFailure(f"rename damaged record {path}: {fault.strerror}", "remove it by hand") from None


def read_json(path: str, limit: int = MAX_RECORD) -> tuple[object, float] | None:
    """Return a file's JSON value, None if it has none, and when it was written (Unix time, seconds).

    Returns None if there is no regular file or it cannot be opened. Reads at most `limit` bytes, follows no symbolic
    link and does not wait for a FIFO.
    """
    try:
        fd = open_regular(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        return _read_json(fd, limit), os.fstat(fd).st_mtime
    finally:
        os.close(fd)


def _read_json(fd: int, limit: int) -> object:
    try:
        return loads(os.read(fd, limit))
    except (OSError, ValueError):
        return None


def replace_file(path: str, temporary: str, content: bytes, *, private: bool) -> None:
    """Write a file under a temporary name and rename it, so that it is never seen half written. Raises OSError.

    `private`: it is synced, and 0600 whatever the umask; else 0644 as far as the umask allows.
    """
    fd = _create(temporary, 0o600 if private else 0o644)
    try:
        try:
            if private:
                os.fchmod(fd, 0o600)
            _write_all(fd, content)
            if private:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError:
        remove_quietly(temporary)
        raise


def _create(path: str, mode: int) -> int:
    """Return a new file, opened, that nobody else has open; one that a killed process left is replaced."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags, mode)
    except FileExistsError:
        remove_quietly(path)
        return os.open(path, flags, mode)


def _write_all(fd: int, content: bytes) -> None:
    while content:
        content = content[os.write(fd, content) :]


def sync_folder(folder: str) -> None:
    """Sync a folder, which makes names that are new in it durable. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_quietly(path: str) -> None:
    """Remove a file if possible."""
    try:
        os.unlink(path)
    except OSError:
        pass


def remove_file(operation: str, path: str) -> None:
    """Remove a file; does nothing if there is none. Raises StateFailure (106): "<operation> <path>: <reason>"."""
    try:
        os.unlink(path)
    except OSError as fault:
        if fault.errno not in NO_RECORD:
            raise StateFailure(f"{operation} {path}: {fault.strerror}") from None


def list_names(folder: str) -> list[str]:
    """Return the names in a folder, sorted; none if it cannot be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def retry_if_folder_vanished(action: Callable[[], None]) -> None:
    """Call `action`, again if a folder vanished: whoever removes the last record in a folder removes the folder."""
    for _ in range(TRIES):
        try:
            action()
        except FileNotFoundError:
            continue
        return
    action()
