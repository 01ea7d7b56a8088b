"""One small netlink socket: a request, its answers, the kernel's reason when it says no.

pyroute2's own socket classes bring asyncio; a CNI call sends a dozen messages, one after the other.
Source: include/uapi/linux/netlink.h, Documentation/userspace-api/netlink/intro.rst.
"""

from __future__ import annotations

import _socket
import errno
import time
from struct import error as struct_error
from struct import pack, unpack_from

from ib_sriov_cni.kernel import netlink_messages as m

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any, TypeVar

    T = TypeVar("T")

AF_NETLINK, SOCK_RAW, SOCK_CLOEXEC, SOL_NETLINK = 16, 3, 0o2000000, 270
NETLINK_ROUTE, NETLINK_RDMA = 0, 20
NETLINK_ADD_MEMBERSHIP, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 1, 10, 11, 12
SOL_SOCKET, SO_RCVTIMEO, SO_NETNS_COOKIE = 1, 20, 71  # include/uapi/asm-generic/socket.h; the last since Linux 5.14
RTNLGRP_LINK = 1
KERNEL = 0  # its port number
MSG_DONTWAIT = 0x40
DISCARD_MAX = 1000  # events that one wait throws away; the rest wakes the next one
ANSWERS_MAX = 20_000  # of one dump; a node has a few hundred links, a pod a handful
BUFFER = 1 << 18  # a PF with 127 VFs answers in about 40 KiB
ANSWER_SECONDS = 30  # the kernel answers within its own locks; rtnl may be held by others for seconds
INTERRUPTED_TRIES = 5


class NetlinkError(Exception):
    """The kernel's refusal: errno and, where it gives one, its sentence (extended acknowledgement)."""

    def __init__(self, number: int, reason: str = "") -> None:
        """Keep errno (positive) and reason."""
        super().__init__(number, reason)
        self.errno = number
        self.reason = reason


class NetlinkSocket:
    """A netlink socket of one protocol in the network namespace the thread was in when it was made.

    Only the kernel is believed. A process in a pod's namespace that has CAP_NET_ADMIN there may send to any netlink
    socket of that namespace, so the socket is connected to the kernel's port before it has a port number of its own:
    the kernel then refuses what anybody else sends (netlink_getsockbyportid in net/netlink/af_netlink.c).
    """

    def __init__(self, protocol: int, *, group: int = 0, trace: Callable[[str], None] | None = None) -> None:
        """Open and connect the socket, and join a multicast group if one is named; `trace` gets a line per message.

        Raises OSError.
        """
        self._socket = _socket.socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol)
        self._socket.connect((KERNEL, 0))
        if group:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
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
        """Return the number of its network namespace, never used again before a reboot; 0 before Linux 5.14."""
        try:
            return int.from_bytes(self._socket.getsockopt(SOL_SOCKET, SO_NETNS_COOKIE, 8), "little")
        except OSError:
            return 0

    def wait(self, seconds: float) -> None:
        """Sleep until something comes, or that long, and throw away what came."""
        from select import POLLIN, poll

        waiter = poll()
        waiter.register(self._socket.fileno(), POLLIN)
        waiter.poll(max(0, int(seconds * 1000)))
        for _ in range(DISCARD_MAX):
            try:
                self._socket.recv(BUFFER, MSG_DONTWAIT)
            except OSError:  # nothing left; or ENOBUFS: events were lost, which only says that there were some
                break

    def ask(
        self,
        message: type[Any],
        kind: int,
        *,
        flags: int = 0,
        fields: dict[str, int] | None = None,
        attrs: Sequence[tuple[str, object]] = (),
        keep: Callable[[Any], T | None] | None = None,
        most: int = ANSWERS_MAX,
    ) -> list[T]:
        """Send one message and return the decoded answers (none for a plain acknowledgement).

        `keep` makes of each answer what is to be kept of it, None for nothing; the messages of a long dump are never
        all in memory. Raises NetlinkError: the kernel's refusal; E2BIG for more than `most` answers; EBADMSG for what
        cannot be decoded; ENOBUFS, ETIMEDOUT. A dump that the kernel calls inconsistent is asked for again.
        """
        deadline = time.monotonic() + ANSWER_SECONDS
        tries = INTERRUPTED_TRIES
        while True:
            tries -= 1
            self._send(message, kind, flags, fields or {}, attrs)
            dump = flags & m.NLM_F_DUMP == m.NLM_F_DUMP
            got, is_interrupted = self._receive(message, deadline, keep or _as_it_is, most, dump=dump)
            if not is_interrupted or not tries:
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

    def _receive(
        self, answers: type[Any], deadline: float, keep: Callable[[Any], T | None], most: int, *, dump: bool
    ) -> tuple[list[T], bool]:
        got: list[T] = []
        seen = 0
        is_interrupted = False
        while True:
            for part, kind, flags, sequence in _messages(self._read(deadline)):
                if sequence != self._sequence:
                    continue  # the rest of an answer given up earlier
                is_interrupted = is_interrupted or bool(flags & m.NLM_F_DUMP_INTR)
                if kind in (m.NLMSG_ERROR, m.NLMSG_DONE):
                    _raise_refusal(part, kind, flags)
                    if seen > most:
                        raise NetlinkError(errno.E2BIG, f"{seen} answers, of which at most {most} are looked at")
                    return got, is_interrupted
                seen += 1
                if seen > most:
                    continue  # read to its end, undecoded: the socket takes no new dump before
                kept = _decode(answers, part, keep)
                if kept is not None:
                    got.append(kept)
                if not dump:
                    return got, is_interrupted

    def _read(self, deadline: float) -> bytes:
        while time.monotonic() < deadline:
            try:
                data, sender = self._socket.recvfrom(BUFFER)
            except BlockingIOError:
                break
            except OSError as fault:
                raise NetlinkError(fault.errno or errno.EIO) from None
            if sender[0] == KERNEL:
                return data
        raise NetlinkError(errno.ETIMEDOUT, f"no answer from the kernel within {ANSWER_SECONDS} s")


def _as_it_is(answer: Any) -> Any:
    return answer


def _messages(data: bytes) -> Iterator[tuple[bytes, int, int, int]]:
    """Walk through the messages of one datagram: each with its type, flags and sequence number."""
    offset = 0
    while offset < len(data):
        length, kind, flags, sequence = unpack_from("IHHI", data, offset) if len(data) - offset >= 16 else (0, 0, 0, 0)
        if not 16 <= length <= len(data) - offset:
            raise NetlinkError(errno.EBADMSG, f"a message of {length} bytes in {len(data) - offset}")
        yield data[offset : offset + length], kind, flags, sequence
        offset += (length + 3) & ~3


def _decode(answers: type[Any], part: bytes, keep: Callable[[Any], T | None]) -> T | None:
    try:
        answer = answers(part)
        answer.decode()
        return keep(answer)
    except (struct_error, ValueError, LookupError, TypeError, AttributeError) as fault:
        raise NetlinkError(errno.EBADMSG, f"{type(fault).__name__}: {fault}") from None


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
        """Subscribe; events from now on are kept until `wait`. Raises OSError."""
        self._socket = NetlinkSocket(NETLINK_ROUTE, group=RTNLGRP_LINK)

    def fileno(self) -> int:
        """For poll()."""
        return self._socket.fileno()

    def wait(self, seconds: float) -> None:
        """Sleep until an event comes, or that long."""
        self._socket.wait(seconds)

    def close(self) -> None:
        """Unsubscribe."""
        self._socket.close()
