r"""Door to the locks: one per VF, held over everything that is done to it, waited for with a deadline.

Layout::

    /run/ib-sriov/<PCI address>.lock   flock(2); content "<pid> <containerID> <ifname> <unix time>\n" of the holder

The kernel drops a lock with its holder's last breath, so a dead holder is free at once; the file stays (removing
it would let two processes lock two files of one name). On tmpfs: none survives a boot.
"""

from __future__ import annotations

import os
import time

from ib_sriov_cni.core.errors import StateFailure, TryAgainLater

FIRST_PAUSE, LAST_PAUSE = 0.002, 0.05


class Locks:
    """Locks in a folder."""

    def __init__(self, folder: str = "/run/ib-sriov") -> None:
        """The folder is made when the first lock is taken."""
        self._folder = folder

    def take(self, pci: str, holder: str, seconds: float) -> Lock:
        """Take the VF's lock. TryAgainLater (11) names the holder; StateFailure (106) if the file cannot be made."""
        import fcntl

        path = f"{self._folder}/{pci}.lock"
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as fault:
            raise StateFailure(f"open lock {path}: {fault.strerror}", "is /run writable?") from None
        deadline = time.monotonic() + seconds
        pause = FIRST_PAUSE
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                left = deadline - time.monotonic()
                if left <= 0:
                    words = _describe(fd)
                    os.close(fd)
                    raise TryAgainLater(
                        f"lock VF {pci}: still held after {seconds:g} s by {words}",
                        "wait for that call, or end its process if it is stuck",
                    ) from None
            except OSError as fault:
                os.close(fd)
                raise StateFailure(f"lock {path}: {fault.strerror}") from None
            time.sleep(min(pause, left))
            pause = min(pause * 2, LAST_PAUSE)
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()} {holder} {int(time.time())}\n".encode(), 0)
        except OSError:
            pass  # a full tmpfs: the lock holds, only its holder stays unnamed
        return Lock(fd)

    def read_holder(self, pci: str) -> str:
        """Tell who holds the VF's lock, empty if nobody does. Raises StateFailure (106) if that cannot be seen."""
        import fcntl

        path = f"{self._folder}/{pci}.lock"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return ""
        except OSError as fault:
            raise StateFailure(f"open lock {path}: {fault.strerror}", "run it as root") from None
        try:
            # Held for a moment; a take at just that moment tries again.
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _describe(fd)
        except OSError as fault:
            raise StateFailure(f"lock {path}: {fault.strerror}") from None
        finally:
            os.close(fd)
        return ""

    def was_last_taken_by(self, pci: str, holder: str) -> bool:
        """Whether that is who has the VF's lock, or had it last."""
        try:
            fd = os.open(f"{self._folder}/{pci}.lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            return _read(fd)[1:-1] == holder.split()
        finally:
            os.close(fd)


class Lock:
    """A lock that is held; `with` lets go at the end."""

    def __init__(self, fd: int) -> None:
        """Take over the locked file."""
        self._fd = fd

    def __enter__(self) -> None:
        """Hold."""

    def __exit__(self, *_fault: object) -> None:
        """Let go."""
        os.close(self._fd)


def _read(fd: int) -> list[str]:
    """Give the words of a lock file, none if it cannot be read."""
    try:
        return os.pread(fd, 400, 0).decode(errors="replace").split()
    except OSError:
        return []


def _describe(fd: int) -> str:
    try:
        pid, container, ifname, since = _read(fd)
        return f"process {pid} (container {container}, {ifname}, for {int(time.time()) - int(since)} s)"
    except ValueError:
        return "a process that left no name"
