"""A query to the subnet administrator: ClassPortInfo, which every subnet administrator must answer.

It is sent as a management datagram through the port's umad device, to the LID of the port's subnet manager.
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
    """Send the query through the umad device at that path; return "" for a good answer, else what went wrong.

    `lid` and `sl` are the subnet manager's LID and service level, `pkeys` the port's P_Key table. Raises OSError if the
    query could not be sent.
    """
    import fcntl

    fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, ENABLE_PKEY)
        wanted = bytearray(REGISTRATION.pack(0, bytes(16), GSI, SUBN_ADM, SA_VERSION, bytes(3), 0))
        fcntl.ioctl(fd, REGISTER_AGENT, wanted)
        agent = REGISTRATION.unpack(wanted)[0]
        timeout = int(seconds * 1000) // 2  # the kernel sends it twice: a datagram may be lost
        os.write(fd, make_query(agent, timeout, lid=lid, sl=sl, index=_pkey_index(pkeys)))
        return await_answer(fd, time.monotonic() + seconds + 0.5)
    finally:
        os.close(fd)


def _pkey_index(pkeys: Sequence[int]) -> int:
    """Return the index of the default partition's P_Key, with which the query is sent; 0 if the table lacks it."""
    return next((index for index, pkey in enumerate(pkeys) if normalize_pkey(pkey) == DEFAULT_PKEY), 0)


def make_query(agent: int, timeout: int, *, lid: int, sl: int, index: int) -> bytes:
    """Return the datagram as umad takes it; `timeout` is in milliseconds, `index` is the P_Key's."""
    header = HEADER.pack(
        agent, 0, timeout, 1, SIZE, struct.pack(">I", GSI), struct.pack(">I", GSI_QKEY), struct.pack(">H", lid),
        sl, 0, 0, 0, 0, 0, bytes(16), bytes(4), index,
    )  # fmt: skip
    # The kernel puts the agent's number into the upper half of the transaction ID.
    mad = MAD.pack(1, SUBN_ADM, SA_VERSION, GET, 0, 0, os.getpid() & 0xFFFF | 1, CLASS_PORT_INFO, 0, 0)
    return header + mad.ljust(SIZE, b"\0")


def await_answer(fd: int, deadline: float) -> str:
    """Wait for the answer until `deadline` (monotonic); return "" for a good answer, else what went wrong."""
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
            return f"the query could not be sent: {os.strerror(status)}"
        _, _, _, method, mad_status, *_ = MAD.unpack_from(answer, HEADER.size)
        if method == GET_RESP:
            return f"it answered with status {mad_status:#06x}" if mad_status else ""
    return "no answer"
