"""Door to network namespaces: open files that stand for one, and entering it for a moment.

Sources: man 7 network_namespaces, man 2 ioctl_ns, net/core/net_namespace.c (cookies).
"""

from __future__ import annotations

import errno
import os

from ib_sriov_cni.core.errors import InvalidEnvironment, KernelRefused, UnknownContainer
from ib_sriov_cni.kernel.syscalls import CLONE_NEWNET, set_network_namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

NS_GET_NSTYPE = 0xB703
SOL_SOCKET, SO_NETNS_COOKIE = 1, 71  # include/uapi/asm-generic/socket.h, Linux 5.14
OWN = "/proc/thread-self/ns/net"


class Netns:
    """An open network namespace; it lives at least as long as this does."""

    def __init__(self, fd: int, path: str) -> None:
        """Take over `fd`; `path` is what people know it by."""
        self.fd = fd
        self.path = path
        status = os.fstat(fd)
        self.inode = (status.st_dev, status.st_ino)  # the numbers are used again after its death: see cookie

    def close(self) -> None:
        """Let go of it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        """For `with`: closes at the end."""
        return self

    def __exit__(self, *_fault: object) -> None:
        """Close."""
        self.close()

    def cookie(self) -> int:
        """Give the number the kernel never uses again before a reboot; 0 where it has none (before 5.14)."""
        import _socket

        with Inside(self):
            probe = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        try:
            return int.from_bytes(probe.getsockopt(SOL_SOCKET, SO_NETNS_COOKIE, 8), "little")
        except OSError:
            return 0
        finally:
            probe.close()


class Inside:
    """`with Inside(netns):` runs the calling thread in that namespace, then back in its own."""

    def __init__(self, netns: Netns) -> None:
        """Remember where to go."""
        self._netns = netns
        self._home = -1

    def __enter__(self) -> None:
        """Enter."""
        self._home = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            set_network_namespace(self._netns.fd)
        except OSError as fault:
            os.close(self._home)
            raise KernelRefused(
                "enter", f"network namespace {self._netns.path}", fault.errno or errno.EINVAL, details="run as root"
            ) from None

    def __exit__(
        self, _kind: type[BaseException] | None, _fault: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Return."""
        try:
            set_network_namespace(self._home)
        finally:
            os.close(self._home)


def open_own() -> Netns:
    """Open the calling thread's namespace."""
    return Netns(os.open(OWN, os.O_RDONLY | os.O_CLOEXEC), "the host's namespace")


def open_netns(path: str) -> Netns:
    """Open the namespace at a path.

    Raises UnknownContainer (3) if nothing is there, InvalidEnvironment (4) if it is something else: an
    ordinary file is what stays of a bind mount after a reboot (C13).
    """
    import fcntl

    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise UnknownContainer(
            f"open network namespace {path}: {os.strerror(errno.ENOENT)}", "the container is gone; nothing was touched"
        ) from None
    except (OSError, ValueError) as fault:
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
    """Open the namespace at a path, None when there is none (any more)."""
    if not path:
        return None
    try:
        return open_netns(path)
    except (UnknownContainer, InvalidEnvironment):
        return None
