"""Door to network namespaces: opening one, identifying it, and entering it for a while.

Sources: man 7 network_namespaces, man 2 ioctl_ns, net/core/net_namespace.c (cookies).
"""

from __future__ import annotations

import errno
import os
from _signal import (  # type: ignore[import-not-found]  # signal itself imports enum
    SIG_BLOCK,
    SIG_SETMASK,
    SIGINT,
    SIGTERM,
    pthread_sigmask,
)

from ib_sriov_cni.core.errors import InvalidEnvironment, KernelRefused, UnknownContainer
from ib_sriov_cni.kernel.syscalls import CLONE_NEWNET, set_network_namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from types import TracebackType
    from typing import Self

NS_GET_NSTYPE = 0xB703
SOL_SOCKET, SO_NETNS_COOKIE = 1, 71  # include/uapi/asm-generic/socket.h; SO_NETNS_COOKIE since Linux 5.14
OWN = "/proc/thread-self/ns/net"
# Reasons why something cannot be opened that may be there.
HIDDEN = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EINTR)


class Netns:
    """An open network namespace, which the open file keeps alive."""

    def __init__(self, fd: int, path: str) -> None:
        """Take ownership of `fd`; `path` names the namespace in messages."""
        self.fd = fd
        self.path = path
        status = os.fstat(fd)
        self.inode = (status.st_dev, status.st_ino)  # reused once the namespace is gone, unlike `cookie`

    def close(self) -> None:
        """Close the file; does nothing the second time."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        """Return the namespace; the end of the block closes it."""
        return self

    def __exit__(self, *_fault: object) -> None:
        """Close the file."""
        self.close()

    def cookie(self) -> int:
        """Return the namespace's cookie (see `read_cookie`). Raises KernelRefused (102) if it cannot be entered."""
        import _socket

        with Inside(self):
            probe = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        try:
            return read_cookie(probe)
        finally:
            probe.close()


class Inside:
    """`with Inside(netns):` moves the calling thread into that namespace for the block, and back at its end.

    SIGTERM and SIGINT are blocked meanwhile: a handler that raised between two instructions of the way back would leave
    the process in the pod's namespace, and what follows, an undo above all, would act there.
    """

    def __init__(self, netns: Netns) -> None:
        """Keep the namespace; nothing happens before the block starts."""
        self._netns = netns
        self._previous = -1
        self._mask: set[int] = set()

    def __enter__(self) -> None:
        """Enter the namespace. Raises KernelRefused (102)."""
        self._mask = pthread_sigmask(SIG_BLOCK, ())
        try:
            self._previous = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as fault:
            raise KernelRefused("open", "our own network namespace", fault.errno or errno.EIO) from None
        try:
            # A signal that has come by now is handled before this returns, so its exception may come from here.
            pthread_sigmask(SIG_BLOCK, (SIGTERM, SIGINT))
            set_network_namespace(self._netns.fd)
        except BaseException as fault:
            os.close(self._previous)
            pthread_sigmask(SIG_SETMASK, self._mask)
            if not isinstance(fault, OSError):
                raise
            raise KernelRefused(
                "enter", f"network namespace {self._netns.path}", fault.errno or errno.EINVAL, details="run as root"
            ) from None

    def __exit__(
        self, _kind: type[BaseException] | None, _fault: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Go back to the previous namespace. Raises OSError."""
        try:
            set_network_namespace(self._previous)
        finally:
            os.close(self._previous)
            pthread_sigmask(SIG_SETMASK, self._mask)


def read_cookie(sock: socket) -> int:
    """Return a number that identifies a socket's network namespace and is not reused before a reboot.

    0 before Linux 5.14, which has none.
    """
    try:
        return int.from_bytes(sock.getsockopt(SOL_SOCKET, SO_NETNS_COOKIE, 8), "little")
    except OSError:
        return 0


def open_own() -> Netns:
    """Return the calling thread's namespace, opened."""
    return Netns(os.open(OWN, os.O_RDONLY | os.O_CLOEXEC), "the host's namespace")


def open_netns(path: str) -> Netns:
    """Return the namespace at a path, opened.

    Raises UnknownContainer (3) if nothing is there, InvalidEnvironment (4) if it is not a network namespace: after a
    reboot, an ordinary file is left where one was mounted (C13). KernelRefused (102) if it cannot be seen for want of
    rights, descriptors or memory, which says nothing about the namespace.
    """
    import fcntl

    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise UnknownContainer(
            f"open network namespace {path}: {os.strerror(errno.ENOENT)}", "the container is gone; nothing was changed"
        ) from None
    except (OSError, ValueError) as fault:
        if isinstance(fault, OSError) and fault.errno in HIDDEN:
            raise KernelRefused("open", f"network namespace {path}", fault.errno) from None
        raise InvalidEnvironment(f"open network namespace {path!r}: {fault}", "CNI_NETNS must be its path") from None
    try:
        kind = fcntl.ioctl(fd, NS_GET_NSTYPE)
    except OSError:
        kind = 0
    if kind != CLONE_NEWNET:
        os.close(fd)
        raise InvalidEnvironment(f"{path} is not a network namespace", "CNI_NETNS must be the path of one")
    return Netns(fd, path)


def try_open_netns(path: str) -> Netns | None:
    """Return the namespace at a path, opened; None if there is none or it cannot be opened."""
    if not path:
        return None
    try:
        return open_netns(path)
    except (UnknownContainer, InvalidEnvironment):
        return None
