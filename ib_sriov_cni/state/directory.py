"""Folders and files of the state directory: private, durable, and no link followed.

What the door to the records is made of; docs of the layout are there.
"""

from __future__ import annotations

import errno
import os

from ib_sriov_cni.core.errors import StateFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_STATE_DIR = "/var/lib/cni/ib-sriov"
MAX_RECORD = 1 << 24  # a configuration and a result of 1 MiB each, in ASCII
TRIES = 100
# There is none, and with a name too long for a file there never was one.
NO_RECORD = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


def _make_parents(folder: str) -> None:
    """Make the folders that are not ours, for nobody else to write to, whatever the umask."""
    if not folder or os.path.isdir(folder):
        return
    _make_parents(os.path.dirname(folder))
    try:
        os.mkdir(folder, 0o755)
    except FileExistsError:
        pass


def make_folders(base: str, name: str, *, durable: bool = True) -> None:
    """Make the folders down to base/name, 0700 whatever the umask where they are ours.

    The state directory may be an administrator's, with a mode and a place of his choice; below it nobody else's folder
    is used.
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
    """Take everybody else's rights to a folder that was there; OSError if it is a link or belongs to somebody else."""
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
    """Rename links that somebody planted where our folders are, so that nothing is read or written through them."""
    for folder in folders:
        try:
            os.readlink(folder)
        except OSError:
            continue  # a folder, or nothing: as it should be
        mark_damaged(folder)


def mark_damaged(path: str) -> None:
    """Rename what cannot be understood, so that it is never in the way. Raises StateFailure (106)."""
    try:
        os.rename(path, path + ".damaged")
    except OSError as fault:
        raise StateFailure(f"set aside damaged record {path}: {fault.strerror}", "remove it by hand") from None


def write_whole(fd: int, text: bytes) -> None:
    """Write all of it."""
    while text:
        text = text[os.write(fd, text) :]


def sync_folder(folder: str) -> None:
    """Make a folder's new names durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_quietly(path: str) -> None:
    """Remove what may be there."""
    try:
        os.unlink(path)
    except OSError:
        pass


def list_names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def retry_if_folder_vanished(action: Callable[[], None]) -> None:
    """Act, and again where a folder vanished: whoever removes the last record in it removes it too."""
    for _ in range(TRIES):
        try:
            action()
        except FileNotFoundError:
            continue
        return
    action()
