"""setns(2), unshare(2), mount(2) and prctl(2) without the ctypes package, which is slow to import; waiting for a child.

Python 3.12 has os.setns and os.unshare. For 3.11, and for the other two calls, `_ctypes` (the C half of ctypes) calls
libc. The packed program has these calls in a module of its own (packaging/program/main.c).
"""

from __future__ import annotations

import errno
import os
import time

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 1 << 18
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
SIGKILL = 9
RTLD_NOW = 2
KILL_SECONDS = 2.0  # how long to wait for a killed process to end; one that hangs in the kernel never does
FUNCFLAG_CDECL, FUNCFLAG_USE_ERRNO = 0x1, 0x8  # Modules/_ctypes/ctypes.h


def _call(name: str, *arguments: int | bytes | None) -> None:
    """Make a system call by the name of its function in libc. Raises OSError with the kernel's errno."""
    try:
        import _ib_sriov  # type: ignore[import-not-found]  # the packed program's own
    except ImportError:
        _call_libc(name, *arguments)
        return
    try:
        getattr(_ib_sriov, name)(*arguments)
    except OSError as fault:
        raise OSError(fault.errno, f"{name}: {fault.strerror}") from None


def _call_libc(name: str, *arguments: int | bytes | None) -> None:
    import _ctypes

    class Function(_ctypes.CFuncPtr):
        _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO

    libc = _ctypes.dlopen(None, RTLD_NOW)  # type: ignore[arg-type]  # dlopen(NULL): what the process has loaded
    if Function(_ctypes.dlsym(libc, name))(*arguments) != 0:
        number = _ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def await_end(pid: int, deadline: float) -> int | None:
    """Return a child's wait status, or None if it has not ended by `deadline` (time.monotonic, seconds)."""
    pause = 0.0005
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        if time.monotonic() > deadline:
            return None
        time.sleep(pause)
        pause = min(2 * pause, 0.1)


class Terminated(BaseException):
    """SIGTERM arrived. Not a CniError: nothing that collects or ignores faults may go on after it."""

    details = ""  # as of a CniError: what else is to be said

    def __str__(self) -> str:
        return "SIGTERM"


def raise_on_sigterm() -> None:
    """Make SIGTERM raise Terminated, once; a second one is ignored."""
    import _signal  # type: ignore[import-not-found]  # the signal module would import enum

    def interrupt(number: int, _frame: object) -> None:
        _signal.signal(number, _signal.SIG_IGN)
        raise Terminated

    _signal.signal(_signal.SIGTERM, interrupt)


def ignore_sigterm() -> None:
    """Ignore SIGTERM from now on if the process has a handler for it, which would raise an exception."""
    import _signal  # the signal module would import enum

    if callable(_signal.getsignal(_signal.SIGTERM)):
        _signal.signal(_signal.SIGTERM, _signal.SIG_IGN)


def set_network_namespace(fd: int) -> None:
    """Move the calling thread into the network namespace of an open file (setns(2)). Raises OSError."""
    setns = getattr(os, "setns", None)
    if setns:
        setns(fd, CLONE_NEWNET)
    else:
        _call("setns", fd, CLONE_NEWNET)


def end_with_parent(parent: int) -> None:
    """Have the kernel kill the process when its parent ends (prctl(2)). Raises OSError ESRCH if it has ended."""
    _call("prctl", PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise OSError(errno.ESRCH, "the parent has ended")


def adopt_orphans() -> None:
    """Make a child of ours of each descendant whose parent ends (prctl(2)). Raises OSError."""
    _call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def unshare_mounts() -> None:
    """Give the process a private mount namespace (unshare(2), mount_namespaces(7)). Raises OSError."""
    unshare = getattr(os, "unshare", None)
    if unshare:
        unshare(CLONE_NEWNS)
    else:
        _call("unshare", CLONE_NEWNS)
    try:
        _call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    except OSError:
        # In a chroot, "/" need not be a mount point; /sys is where something will be mounted.
        _call("mount", None, b"/sys", None, MS_REC | MS_PRIVATE, None)


def mount_sysfs() -> None:
    """Mount a sysfs over /sys that shows the devices of the thread's network namespace. Raises OSError."""
    _call("mount", b"sysfs", b"/sys", b"sysfs", 0, None)
