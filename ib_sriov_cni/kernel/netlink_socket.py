"""A small netlink socket: sends one request at a time and returns its answers, or raises the kernel's refusal.

pyroute2's socket classes need asyncio; a CNI call sends a dozen messages, one after the other.
Source: include/uapi/linux/netlink.h, Documentation/userspace-api/netlink/intro.rst.
"""

from __future__ import annotations

import _socket
import errno
import time
from struct import error as struct_error
from struct import pack, unpack_from

from ib_sriov_cni.kernel import netlink_messages as m
from ib_sriov_cni.kernel.netns import SOL_SOCKET, read_cookie
from ipam.protocol.bounds import NETLINK_ANSWERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any, TypeVar

    T = TypeVar("T")

AF_NETLINK, SOCK_RAW, SOCK_CLOEXEC, SOL_NETLINK = 16, 3, 0o2000000, 270
NETLINK_ROUTE, NETLINK_RDMA = 0, 20
NETLINK_ADD_MEMBERSHIP, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 1, 10, 11, 12
SO_RCVTIMEO = 20  # include/uapi/asm-generic/socket.h
RTNLGRP_LINK = 1
KERNEL = 0  # its port number
MSG_DONTWAIT = 0x40
DISCARD_MAX = 1000  # events that one wait drops; if there are more, the next wait returns at once
BUFFER = 1 << 18  # bytes; the answer about a PF with 127 VFs has about 40 KiB
ANSWER_SECONDS = 30  # the kernel needs rtnl_lock to answer, which others may hold for seconds
INTERRUPTED_TRIES = 5


class NetlinkError(Exception):
    """A refusal by the kernel: errno and, if there is one, the text of its extended acknowledgement."""

    def __init__(self, number: int, reason: str = "") -> None:
        """`number`: the errno, positive."""
        super().__init__(number, reason)
        self.errno = number
        self.reason = reason


class NetlinkSocket:
    """A netlink socket of one protocol, in the network namespace that the thread is in when it is made.

    It accepts messages from the kernel only. In a pod's namespace, a process with CAP_NET_ADMIN can send to any netlink
    socket, so this one is connected to the kernel's port: then the kernel rejects what others send
    (netlink_getsockbyportid in net/netlink/af_netlink.c). connect() assigns our port number just before that, so what
    may arrive in between is dropped by its sender.
    """

    _seconds: float = ANSWER_SECONDS

    def __init__(self, protocol: int, *, group: int = 0, trace: Callable[[str], None] | None = None) -> None:
        """Open and connect the socket, and join a multicast group if it is not 0. Raises OSError.

        `trace` is called with one line per request.
        """
        self._socket = _socket.socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol)
        self._socket.connect((KERNEL, 0))
        if group:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        # A timeout in the kernel. Python's settimeout would cost three more system calls per message.
        self._socket.setsockopt(SOL_SOCKET, SO_RCVTIMEO, pack("ll", ANSWER_SECONDS, 0))
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
            try:
                self._socket.setsockopt(SOL_NETLINK, option, 1)
            except OSError:
                pass  # before Linux 4.12 refusals have no text; before 4.20 dumps are not filtered
        self._sequence = 0
        self._trace = trace

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def fileno(self) -> int:
        """Return the descriptor, for poll()."""
        return self._socket.fileno()

    def netns_cookie(self) -> int:
        """Return the cookie of the socket's network namespace (see `read_cookie`); 0 before Linux 5.14."""
        return read_cookie(self._socket)

    def wait(self, seconds: float) -> None:
        """Sleep until a message arrives, for at most that long, and drop all that have arrived."""
        from select import POLLIN, poll

        waiter = poll()
        waiter.register(self._socket.fileno(), POLLIN)
        waiter.poll(max(0, int(seconds * 1000)))
        for _ in range(DISCARD_MAX):
            try:
                self._socket.recv(BUFFER, MSG_DONTWAIT)
            except OSError:  # nothing left; or ENOBUFS: events were lost, so there were some
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
        most: int = NETLINK_ANSWERS,
    ) -> list[T]:
        """Send a request and return the decoded answers (none if the kernel only acknowledges it).

        `message` is the class of request and answers, `kind` the message type, `attrs` (name, value) pairs. `keep`
        turns an answer into what is returned of it, None to drop it, so that a long dump is never in memory as a whole.
        Raises NetlinkError: the kernel's refusal; E2BIG for more than `most` answers; EBADMSG for a message that cannot
        be decoded; ENOBUFS; ETIMEDOUT. A dump that the kernel marks as inconsistent is requested again.
        """
        # Sending does not count: the kernel carries out the request in it, which may take long (rtnl_lock, firmware).
        seconds = self._seconds
        tries = INTERRUPTED_TRIES
        while True:
            tries -= 1
            self._send(message, kind, flags, fields or {}, attrs)
            start = time.monotonic()
            dump = flags & m.NLM_F_DUMP == m.NLM_F_DUMP
            got, is_interrupted = self._receive(message, start + seconds, keep or _whole, most, dump=dump)
            seconds -= time.monotonic() - start
            if not is_interrupted or not tries:
                break
        if not got and not flags & (m.NLM_F_DUMP | m.NLM_F_ACK):
            raise NetlinkError(errno.EBADMSG, "an acknowledgement came in the place of the answer")
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
        # A GET of one object is answered without an acknowledgement; everything else is acknowledged.
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
                    continue  # left over from a request that timed out
                is_interrupted = is_interrupted or bool(flags & m.NLM_F_DUMP_INTR)
                if kind in (m.NLMSG_ERROR, m.NLMSG_DONE):
                    _raise_refusal(part, kind, flags)
                    if seen > most:
                        raise NetlinkError(errno.E2BIG, f"{seen} answers, the limit is {most}")
                    return got, is_interrupted
                seen += 1
                if seen > most:
                    continue  # the dump has to be read to its end, or the socket accepts no other one
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


def _whole(answer: Any) -> Any:
    return answer


def _messages(data: bytes) -> Iterator[tuple[bytes, int, int, int]]:
    """Yield the messages of one datagram, each with its type, flags and sequence number. Raises NetlinkError."""
    offset = 0
    while offset < len(data):
        length, kind, flags, sequence = unpack_from("IHHI", data, offset) if len(data) - offset >= 16 else (0, 0, 0, 0)
        if not 16 <= length <= len(data) - offset:
            raise NetlinkError(errno.EBADMSG, f"message length is {length}, {len(data) - offset} bytes are left")
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
    # The attributes follow the request, of which NETLINK_CAP_ACK leaves only the header.
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
    """Waits for any netdev of the namespace to appear, change or disappear (RTNLGRP_LINK)."""

    def __init__(self) -> None:
        """Subscribe; events are queued until `wait`. Raises OSError."""
        self._socket = NetlinkSocket(NETLINK_ROUTE, group=RTNLGRP_LINK)

    def fileno(self) -> int:
        """Return the descriptor, for poll()."""
        return self._socket.fileno()

    def wait(self, seconds: float) -> None:
        """Sleep until there is an event, for at most that long, and drop all that are queued."""
        self._socket.wait(seconds)

    def close(self) -> None:
        """Unsubscribe."""
        self._socket.close()
