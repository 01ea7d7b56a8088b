"""One small netlink socket: a request, its answers, the kernel's reason when it says no.

pyroute2's own socket classes bring asyncio; a CNI call sends a dozen messages, one after the other.
Source: include/uapi/linux/netlink.h, Documentation/userspace-api/netlink/intro.rst.
"""

from __future__ import annotations

import _socket
from struct import pack, unpack_from

from ib_sriov_cni.kernel import netlink_messages as m

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

AF_NETLINK, SOCK_RAW, SOCK_CLOEXEC, SOL_NETLINK = 16, 3, 0o2000000, 270
NETLINK_ROUTE, NETLINK_RDMA = 0, 20
NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 10, 11, 12
SOL_SOCKET, SO_RCVTIMEO, SO_NETNS_COOKIE = 1, 20, 71  # include/uapi/asm-generic/socket.h; the last since Linux 5.14
RTMGRP_LINK = 1
BUFFER = 1 << 18  # a PF with 127 VFs answers in about 40 KiB
ANSWER_SECONDS = 30  # the kernel answers within its own locks; rtnl may be held by others for seconds
INTERRUPTED_TRIES = 5


class NetlinkError(Exception):
    """The kernel's refusal: errno and, where it gives one, its sentence (extended acknowledgement)."""

    def __init__(self, errno: int, reason: str = "") -> None:
        """Keep errno (positive) and reason."""
        super().__init__(errno, reason)
        self.errno = errno
        self.reason = reason


class NetlinkSocket:
    """A netlink socket of one protocol in the network namespace the thread was in when it was made."""

    def __init__(self, protocol: int, *, groups: int = 0, trace: Callable[[str], None] | None = None) -> None:
        """Open and bind the socket; `trace` is told a line per message."""
        self._socket = _socket.socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol)
        self._socket.bind((0, groups))
        # The kernel keeps this time; Python's own way takes three system calls for each message more.
        self._socket.setsockopt(SOL_SOCKET, SO_RCVTIMEO, pack("ll", ANSWER_SECONDS, 0))
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
            try:
                self._socket.setsockopt(SOL_NETLINK, option, 1)
            except OSError:
                pass  # before 4.3 and 4.12: refusals have no sentence; before 4.20: dumps have everything
        self._sequence = 0
        self._trace = trace

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def fileno(self) -> int:
        """For poll()."""
        return self._socket.fileno()

    def netns_cookie(self) -> int:
        """Give the number of its network namespace, never used again before a reboot; 0 before Linux 5.14."""
        try:
            return int.from_bytes(self._socket.getsockopt(SOL_SOCKET, SO_NETNS_COOKIE, 8), "little")
        except OSError:
            return 0

    def ask(
        self,
        message: type[Any],
        kind: int,
        *,
        flags: int = 0,
        fields: dict[str, int] | None = None,
        attrs: Sequence[tuple[str, object]] = (),
    ) -> list[Any]:
        """Send one message and give the decoded answers (none for a plain acknowledgement).

        Raises NetlinkError. A dump that the kernel calls inconsistent is asked for again.
        """
        tries = INTERRUPTED_TRIES
        while True:
            tries -= 1
            self._send(message, kind, flags, fields or {}, attrs)
            got, interrupted = self._receive(message, dump=flags & m.NLM_F_DUMP == m.NLM_F_DUMP)
            if not interrupted or not tries:
                break
        if self._trace:
            names = [name for name, _ in attrs]
            self._trace(f"{message.__name__} type={kind} {fields or {}} {names}: {len(got)} answers")
        return got

    def _send(
        self, message: type[Any], kind: int, flags: int, fields: dict[str, int], attrs: Iterable[tuple[str, object]]
    ) -> None:
        self._sequence += 1
        request = message()
        for name, number in fields.items():
            request[name] = number
        request["attrs"] = list(attrs)
        header = request["header"]
        header["type"] = kind
        # An answer to a plain GET comes without an acknowledgement; everything else is acknowledged.
        header["flags"] = m.NLM_F_REQUEST | flags
        header["sequence_number"] = self._sequence
        request.encode()
        self._socket.send(request.data)

    def _receive(self, answers: type[Any], *, dump: bool) -> tuple[list[Any], bool]:
        got: list[Any] = []
        interrupted = False
        while True:
            try:
                data = self._socket.recv(BUFFER)
            except BlockingIOError:
                raise NetlinkError(110, f"no answer from the kernel within {ANSWER_SECONDS} s") from None
            offset = 0
            while offset < len(data):
                length, kind, flags, sequence = unpack_from("IHHI", data, offset)
                part = data[offset : offset + length]
                offset += (length + 3) & ~3
                if sequence != self._sequence:
                    continue  # the rest of an answer given up earlier
                interrupted = interrupted or bool(flags & m.NLM_F_DUMP_INTR)
                if kind in (m.NLMSG_ERROR, m.NLMSG_DONE):
                    _raise_refusal(part, kind, flags)
                    return got, interrupted
                answer = answers(part)
                answer.decode()
                got.append(answer)
                if not dump:
                    return got, interrupted


def _raise_refusal(part: bytes, kind: int, flags: int) -> None:
    (number,) = unpack_from("i", part, 16) if len(part) >= 20 else (0,)
    if number >= 0:
        return
    reason = ""
    # After the request, or with NETLINK_CAP_ACK after the request's header, the attributes follow.
    offset = 20
    if kind == m.NLMSG_ERROR and len(part) >= 36:
        offset += 16 if flags & m.NLM_F_CAPPED else (unpack_from("I", part, 20)[0] + 3) & ~3
    while flags & m.NLM_F_ACK_TLVS and offset + 4 <= len(part):
        length, attribute = unpack_from("HH", part, offset)
        if attribute == 1:  # NLMSGERR_ATTR_MSG
            reason = part[offset + 4 : offset + length].rstrip(b"\0").decode(errors="replace")
        offset += max(4, (length + 3) & ~3)
    raise NetlinkError(-number, reason)


class LinkEvents:
    """Wakes a waiter when any netdev of the namespace appears, changes or goes (RTNLGRP_LINK)."""

    def __init__(self) -> None:
        """Subscribe; events from now on are kept until `wait`."""
        self._socket = NetlinkSocket(NETLINK_ROUTE, groups=RTMGRP_LINK)
        self._socket._socket.setblocking(False)  # noqa: SLF001  # one module, one socket

    def fileno(self) -> int:
        """For poll()."""
        return self._socket.fileno()

    def wait(self, seconds: float) -> None:
        """Sleep until an event comes, or that long."""
        from select import POLLIN, poll

        waiter = poll()
        waiter.register(self._socket.fileno(), POLLIN)
        waiter.poll(max(0, int(seconds * 1000)))
        try:
            while True:
                self._socket._socket.recv(BUFFER)  # noqa: SLF001  # as above
        except BlockingIOError:
            pass
        except OSError:  # ENOBUFS: events were lost, which only says that there were some
            pass

    def close(self) -> None:
        """Unsubscribe."""
        self._socket.close()
