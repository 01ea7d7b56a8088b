"""Opening files that others may have put something in the place of: no call here blocks, or follows a last link.

A FIFO without a writer blocks whoever opens it to read, for ever; a link may lead anywhere; a device may do anything.
"""

from __future__ import annotations

import errno
import os
import stat

_CHUNK = 1 << 16  # bytes of one read: few reads of a large file, no large buffer for a small one


def open_regular(path: str, flags: int, mode: int = 0o600, *, folder: int | None = None) -> int:
    """Open a regular file and return its descriptor. OSError: EINVAL for another kind of file, ELOOP for a link.

    `folder` is the descriptor of the folder that `path` is relative to.
    """
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, mode, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    return fd


def read_regular(path: str, most: int, *, folder: int | None = None, follow: bool = False) -> bytes:
    """Return the content of a regular file. Raises OSError: EINVAL as open_regular(), EFBIG for more than `most` bytes.

    `follow`: a link is followed first, as for /etc/resolv.conf, which often is one to a file of systemd's.
    """
    return _read(open_regular(os.path.realpath(path) if follow else path, os.O_RDONLY, folder=folder), path, most)


def read_trusted(path: str, most: int) -> bytes:
    """Return the content of a regular file that only root, or the user who runs this, can have written.

    Raises OSError: EPERM if somebody else owns it or may write to it, otherwise as read_regular().
    """
    fd = open_regular(path, os.O_RDONLY)
    status = os.fstat(fd)
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        os.close(fd)
        raise OSError(errno.EPERM, "it must belong to root, and only root may be able to write to it", path)
    return _read(fd, path, most)


def _read(fd: int, path: str, most: int) -> bytes:
    try:
        parts = []
        size = 0
        while part := os.read(fd, min(most + 1 - size, _CHUNK)):
            parts.append(part)
            size += len(part)
            if size > most:
                raise OSError(errno.EFBIG, f"it is larger than {most} bytes", path)
        return b"".join(parts)
    finally:
        os.close(fd)
