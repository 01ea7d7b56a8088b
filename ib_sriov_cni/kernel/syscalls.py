"""setns, unshare and mount without the ctypes package, whose import costs more than all calls together.

Python 3.12 has os.setns and os.unshare; for 3.11, and for mount(2), `_ctypes` (the C half of ctypes) calls libc.
Its calls do not save errno, so a failure carries the likeliest one: EPERM without CAP_SYS_ADMIN, else EINVAL.
The packed program brings these calls as a module of its own (packaging/program/main.c).
"""

from __future__ import annotations

import errno
import os
import time

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 1 << 18
PR_SET_PDEATHSIG, SIGKILL = 1, 9
RTLD_NOW = 2
KILL_SECONDS = 2.0  # for a process to end that was killed: one that hangs in the kernel does not


def _call(name: str, *arguments: int | bytes | None) -> None:
    try:
        import _ib_sriov  # type: ignore[import-not-found]  # see above
    except ImportError:
        _call_libc(name, *arguments)
        return
    try:
        getattr(_ib_sriov, name)(*arguments)
    except OSError as fault:
        raise OSError(fault.errno, f"{name}: {fault.strerror}") from None


def _call_libc(name: str, *arguments: int | bytes | None) -> None:
    import _ctypes

    libc = _ctypes.dlopen(None, RTLD_NOW)  # type: ignore[arg-type]  # dlopen(NULL): what the process has loaded
    function = _ctypes.dlsym(libc, name)
    if _ctypes.call_function(function, arguments) != 0:
        number = errno.EINVAL if os.geteuid() == 0 else errno.EPERM
        raise OSError(number, f"{name}: {os.strerror(number)}")


def await_end(pid: int, deadline: float) -> int | None:
    """Wait for a child's end until `deadline` (time.monotonic); its wait status, None if it lives on."""
    pause = 0.0005
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        if time.monotonic() > deadline:
            return None
        time.sleep(pause)
        pause = min(2 * pause, 0.1)


def ignore_sigterm() -> None:
    """Let a SIGTERM pass that would raise an exception now; a process that has no handler for it keeps none."""
    import _signal  # type: ignore[import-not-found]  # signal itself brings enum

    if callable(_signal.getsignal(_signal.SIGTERM)):
        _signal.signal(_signal.SIGTERM, _signal.SIG_IGN)


def set_network_namespace(fd: int) -> None:
    """Put the calling thread into the network namespace of that open file (setns(2)); OSError."""
    setns = getattr(os, "setns", None)
    if setns:
        setns(fd, CLONE_NEWNET)
    else:
        _call("setns", fd, CLONE_NEWNET)


def end_with_parent(parent: int) -> None:
    """Have the kernel kill the process when its parent ends (prctl(2)); OSError if that has happened already."""
    _call("prctl", PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise OSError(errno.ESRCH, "the parent has ended")


def unshare_mounts() -> None:
    """Give the process mounts of its own, which nobody else sees (unshare(2), mount_namespaces(7)); OSError."""
    unshare = getattr(os, "unshare", None)
    if unshare:
        unshare(CLONE_NEWNS)
    else:
        _call("unshare", CLONE_NEWNS)
    try:
        _call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    except OSError:
        # Under a chroot "/" may be a plain folder; it is below /sys that something will be mounted.
        _call("mount", None, b"/sys", None, MS_REC | MS_PRIVATE, None)


def mount_sysfs() -> None:
    """Mount a sysfs over /sys that shows the devices of the thread's network namespace; OSError."""
    _call("mount", b"sysfs", b"/sys", b"sysfs", 0, None)
