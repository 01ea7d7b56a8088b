"""A question to the subnet administrator: ClassPortInfo, the one thing that every one of them answers.

It goes as a management datagram by the port's umad device, to the LID that the port knows as its subnet manager's.
Sources: include/uapi/rdma/ib_user_mad.h; InfiniBand Architecture Specification, 13.4 (datagrams) and 15.2 (SA).
"""

from __future__ import annotations

import errno
import os
import struct
import time
from select import POLLIN, poll

from ib_sriov_cni.core.values import normalize_pkey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

REGISTER_AGENT, ENABLE_PKEY = 0xC01C1B01, 0x1B03  # _IOWR(0x1b, 1, 28 bytes), _IO(0x1b, 3)
REGISTRATION = struct.Struct("=I16sBBB3sBx")  # id, methods, QP, class, version, OUI, RMPP version
HEADER = struct.Struct("=IIIII4s4s2sBBBBBB16s4sH6x")  # ib_user_mad_hdr
MAD = struct.Struct(">BBBBHHQHHI")  # the common header
SIZE = 256
SUBN_ADM, SA_VERSION, GET, GET_RESP = 3, 2, 0x01, 0x81
CLASS_PORT_INFO = 1
GSI, GSI_QKEY = 1, 0x80010000
DEFAULT_PKEY = 0x7FFF


def ask_class_port_info(device: str, *, lid: int, sl: int, pkeys: Sequence[int], seconds: float) -> str:
    """Ask by the umad device at that path; "" if it answered, else why not. OSError if it could not be asked."""
    import fcntl

    fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, ENABLE_PKEY)
        wanted = bytearray(REGISTRATION.pack(0, bytes(16), GSI, SUBN_ADM, SA_VERSION, bytes(3), 0))
        fcntl.ioctl(fd, REGISTER_AGENT, wanted)
        agent = REGISTRATION.unpack(wanted)[0]
        timeout = int(seconds * 1000) // 2  # sent twice: a datagram may be lost
        os.write(fd, make_question(agent, timeout, lid=lid, sl=sl, index=_pkey_index(pkeys)))
        return await_answer(fd, time.monotonic() + seconds + 0.5)
    finally:
        os.close(fd)


def _pkey_index(pkeys: Sequence[int]) -> int:
    """The subnet administrator is asked in the default partition."""
    return next((index for index, pkey in enumerate(pkeys) if normalize_pkey(pkey) == DEFAULT_PKEY), 0)


def make_question(agent: int, timeout: int, *, lid: int, sl: int, index: int) -> bytes:
    """Give the datagram as umad takes it; `timeout` in milliseconds, `index` of the P_Key."""
    header = HEADER.pack(
        agent, 0, timeout, 1, SIZE, struct.pack(">I", GSI), struct.pack(">I", GSI_QKEY), struct.pack(">H", lid),
        sl, 0, 0, 0, 0, 0, bytes(16), bytes(4), index,
    )  # fmt: skip
    # The kernel puts the agent into the upper half of the transaction's number.
    mad = MAD.pack(1, SUBN_ADM, SA_VERSION, GET, 0, 0, os.getpid() & 0xFFFF | 1, CLASS_PORT_INFO, 0, 0)
    return header + mad.ljust(SIZE, b"\0")


def await_answer(fd: int, deadline: float) -> str:
    """Wait for the answer; "" for a good one, else what came of it."""
    waiter = poll()
    waiter.register(fd, POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        if not waiter.poll(int(left * 1000) + 1):
            break
        answer = os.read(fd, HEADER.size + SIZE)
        status = HEADER.unpack_from(answer)[1]
        if status == errno.ETIMEDOUT:
            break
        if status:
            return f"the question could not be sent: {os.strerror(status)}"
        _, _, _, method, mad_status, *_ = MAD.unpack_from(answer, HEADER.size)
        if method == GET_RESP:
            return f"it answered with status {mad_status:#06x}" if mad_status else ""
    return "no answer"
