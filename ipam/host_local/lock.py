"""The lock on a network's leases: flock on the file `lock`, as in the Go host-local, with a deadline (C21, H5)."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

from ipam.protocol.errors import StateFailure, TryAgainLater
from ipam.protocol.files import open_regular

LOCK_FILE = "lock"
_REPEAT = 0.05  # seconds; an alarm that arrives before flock() sleeps is lost, so it is repeated
_NO_FILE = (errno.EINVAL, errno.ELOOP, errno.EISDIR, errno.ENXIO)  # the lock is a FIFO, a link, a folder, a socket


def take_lock(folder: int, path: str, seconds: float, *, releasing: bool = False) -> int:
    """Lock the folder (a descriptor; `path` is for messages) and return the lock's descriptor. Closing it unlocks.

    `releasing`: if something that is not a file has the lock's name, the folder itself is locked. The Go plugin does
    not see that lock, which does no harm to calls that only remove leases.

    Raises TryAgainLater (11), which names the holder, if the lock is not free within `seconds`; StateFailure (106) if
    the lock file cannot be opened.
    """
    deadline = time.monotonic() + seconds
    while True:
        lock = _open_lock(folder, path, releasing=releasing)
        try:
            if not _flock(lock, deadline - time.monotonic()):
                raise TryAgainLater(
                    f"the leases in {path} are locked by {_lock_holder(lock)}, waited {seconds:g} s",
                    "the lock is released when that process ends; lockTimeout sets how long to wait",
                )
            if is_folder(lock) or os.fstat(lock).st_nlink:
                return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)  # the file was removed while we waited: lock the new one


def is_folder(lock: int) -> bool:
    """Return whether take_lock() has locked the folder itself."""
    return stat.S_ISDIR(os.fstat(lock).st_mode)


def _open_lock(folder: int, path: str, *, releasing: bool) -> int:
    try:
        try:
            return open_regular(LOCK_FILE, os.O_CREAT | os.O_RDWR, folder=folder)
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES):
                raise
            return open_regular(LOCK_FILE, os.O_RDONLY, folder=folder)
    except OSError as error:
        if releasing and error.errno in _NO_FILE:
            return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
        raise StateFailure(f"cannot open the lock {path}/{LOCK_FILE}: {error.strerror}") from None


class _Expired(Exception):
    """The deadline has passed."""


def _expire(_signal: int, _frame: object) -> None:
    raise _Expired


def _flock(lock: int, seconds: float) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return seconds > 0 and _wait(lock, seconds)
    return True


def _wait(lock: int, seconds: float) -> bool:
    """Sleep in flock(), where the kernel keeps the queue, until an alarm interrupts it."""
    import _signal  # type: ignore[import-not-found]  # no stubs; the module `signal` pulls in enum

    try:
        before = _signal.signal(_signal.SIGALRM, _expire)
    except ValueError:  # only the main thread may set signal handlers
        return _poll(lock, seconds)
    timer = (0.0, 0.0)
    try:
        timer = _signal.setitimer(_signal.ITIMER_REAL, seconds, _REPEAT)
        fcntl.flock(lock, fcntl.LOCK_EX)
    except _Expired:
        return False
    finally:
        _signal.setitimer(_signal.ITIMER_REAL, 0)
        _signal.signal(_signal.SIGALRM, before)
        if timer[0]:
            _signal.setitimer(_signal.ITIMER_REAL, *timer)
    return True


def _poll(lock: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    pause = 0.001
    while time.monotonic() < deadline:
        time.sleep(pause)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pause = min(pause * 2, 0.02)
        else:
            return True
    return False


def _lock_holder(lock: int) -> str:
    """Return who holds a lock, from /proc/locks: "pid 4711 (host-local)"."""
    inode = str(os.fstat(lock).st_ino)
    try:
        with open("/proc/locks", encoding="utf-8") as lines:
            for line in lines:
                fields = line.split()
                if "->" not in fields and fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == inode:
                    return f"pid {fields[4]} ({_program(fields[4])})"
    except (OSError, IndexError, UnicodeDecodeError):
        pass
    return "an unknown process"


def _program(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
            return comm.read().strip()
    except OSError:
        return "exited"
