r"""Door to the locks: one per VF, held during all that is done to it, and one of the node, held during a rebind.

Layout::

    /run/ib-sriov/<PCI address>.lock   flock(2); content "<pid> <containerID> <ifname> <unix time>\n" of the holder
    /run/ib-sriov/rebind.lock          likewise

Each is waited for with a deadline. A call that needs both takes its VF's lock first, and while it has the lock of
rebinds it waits for no other.

The kernel releases a lock when its holder ends. The file stays: if it were removed, two processes could lock two files
of the same name. It is on tmpfs, so none survives a reboot.
"""

from __future__ import annotations

import errno
import os
import time

from ib_sriov_cni.core.errors import StateFailure, TryAgainLater
from ipam.protocol.files import open_regular

NOT_A_FILE = (errno.EINVAL, errno.ELOOP, errno.EISDIR, errno.ENXIO)  # FIFO or device, link, folder, socket
FIRST_PAUSE, LAST_PAUSE = 0.002, 0.05  # seconds between tries


class Locks:
    """Locks in a folder."""

    def __init__(self, folder: str = "/run/ib-sriov") -> None:
        """`folder` is made when the first lock is taken."""
        self._folder = folder

    def take(self, pci: str, holder: str, seconds: float) -> Lock:
        """Take the VF's lock within `seconds`, for `holder` ("<containerID> <ifname>").

        Raises TryAgainLater (11), which names the present holder, or StateFailure (106) if the file cannot be made.
        """
        try:
            return self._take(f"{self._folder}/{pci}.lock", holder, seconds)
        except _StillHeldError as held:
            raise TryAgainLater(
                f"lock VF {pci}: still held after {seconds:g} s by {held}",
                "wait for that call, or end its process if it is stuck",
            ) from None

    def take_for_rebind(self, holder: str, seconds: float) -> Lock:
        """Take the node's lock of rebinds, for `holder`, within `seconds` of the last change of its holder.

        The calls that wait are one behind the other, and a rebind takes seconds on hardware, so each may take its time
        as long as the lock goes from hand to hand. Raises as `take`.
        """
        try:
            return self._take(f"{self._folder}/rebind.lock", holder, seconds, queue=True)
        except _StillHeldError as held:
            raise TryAgainLater(
                f"lock for rebinding VFs of this node: still held after {seconds:g} s by {held}",
                "nothing was unbound: VFs are rebound one at a time, so that each gets its device numbers back. Wait "
                "for that call, or end its process if it is stuck",
            ) from None

    def _take(self, path: str, holder: str, seconds: float, *, queue: bool = False) -> Lock:
        import fcntl

        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            fd = open_regular(path, os.O_RDWR | os.O_CREAT)
        except OSError as fault:
            raise _failure(path, fault, "is /run writable?") from None
        deadline = time.monotonic() + seconds
        pause = FIRST_PAUSE
        present: list[str] = []
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if queue and (words := _read_words(fd)) != present:
                    present, deadline = words, time.monotonic() + seconds
                left = deadline - time.monotonic()
                if left <= 0:
                    held = _describe_holder(fd)
                    os.close(fd)
                    raise _StillHeldError(held) from None
            except OSError as fault:
                os.close(fd)
                raise StateFailure(f"lock {path}: {fault.strerror}") from None
            time.sleep(min(pause, left))
            pause = min(pause * 2, LAST_PAUSE)
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()} {holder} {int(time.time())}\n".encode(), 0)
        except OSError:
            pass  # tmpfs is full: the lock is held all the same, only without its holder's name
        return Lock(fd)

    def read_holder(self, pci: str) -> str:
        """Return who holds the VF's lock, in words; empty if it is free. Raises StateFailure (106)."""
        import fcntl

        path = f"{self._folder}/{pci}.lock"
        try:
            fd = open_regular(path, os.O_RDONLY)
        except FileNotFoundError:
            return ""
        except OSError as fault:
            raise _failure(path, fault, "run it as root") from None
        try:
            # This takes the lock for a moment; a `take` at that moment tries again.
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _describe_holder(fd)
        except OSError as fault:
            raise StateFailure(f"lock {path}: {fault.strerror}") from None
        finally:
            os.close(fd)
        return ""

    def was_last_taken_by(self, pci: str, holder: str) -> bool:
        """Return whether `holder` has the VF's lock or was the last to have it."""
        try:
            fd = open_regular(f"{self._folder}/{pci}.lock", os.O_RDONLY)
        except OSError:
            return False
        try:
            return _read_words(fd)[1:-1] == holder.split()
        finally:
            os.close(fd)


class _StillHeldError(Exception):
    """A lock was not free in time; its text describes the holder."""


class Lock:
    """A lock that is held; the end of a `with` block releases it."""

    def __init__(self, fd: int) -> None:
        """Take ownership of the locked file."""
        self._fd = fd

    def __enter__(self) -> None:
        """Keep the lock for the block."""

    def __exit__(self, *_fault: object) -> None:
        """Release the lock."""
        self.release()

    def release(self) -> None:
        """Release the lock, if it is not released yet."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def take_over(self, other: Lock) -> None:
        """Hold the lock of `other`, which then holds none. This one must have been released."""
        self._fd, other._fd = other._fd, -1


def _failure(path: str, fault: OSError, hint: str) -> StateFailure:
    if fault.errno in NOT_A_FILE:
        hint = f"something else is in the place of the lock file: remove {path}"
    return StateFailure(f"open lock {path}: {fault.strerror}", hint)


def _read_words(fd: int) -> list[str]:
    """Return the words in a lock file; none if it cannot be read."""
    try:
        return os.pread(fd, 400, 0).decode(errors="replace").split()
    except OSError:
        return []


def _describe_holder(fd: int) -> str:
    try:
        pid, container, ifname, since = _read_words(fd)
        return f"process {pid} (container {container}, {ifname}, for {int(time.time()) - int(since)} s)"
    except ValueError:
        return "an unknown process"
