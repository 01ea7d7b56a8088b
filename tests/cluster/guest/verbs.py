"""One RDMA endpoint in a machine, driven from the host by a line of JSON for each step: `python3 -m … DEVICE PORT`.

A request is [name of a method, keyword arguments], the answer [true, value] or [false, words].
"""

from __future__ import annotations

import json
import socket
import sys
import time
from typing import Any

import pyverbs.enums as e
from pyverbs.addr import AH, AHAttr
from pyverbs.cq import CQ
from pyverbs.device import Context
from pyverbs.mr import MR
from pyverbs.pd import PD
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.wr import SGE, RecvWR, SendWR

SIZE = 1 << 21
QKEY = 0x1234
ACCESS = e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_WRITE | e.IBV_ACCESS_REMOTE_READ
OPCODES = {"send": e.IBV_WR_SEND, "write": e.IBV_WR_RDMA_WRITE, "read": e.IBV_WR_RDMA_READ}
STATUS = {
    getattr(e, name): name.removeprefix("IBV_WC_").removesuffix("_ERR")
    for name in dir(e)
    if name == "IBV_WC_SUCCESS" or (name.startswith("IBV_WC_") and name.endswith("_ERR"))
}


class Endpoint:
    """A queue pair, a completion queue, and one buffer for all."""

    def __init__(self, device: str) -> None:
        self.context = Context(name=device)
        self.pd = PD(self.context)
        self.mr = MR(self.pd, SIZE, ACCESS)
        self.cq = CQ(self.context, 256)
        self.qp: QP = None
        self.far: dict[str, int] = {}

    def make(self, *, kind: str = "RC") -> dict[str, int]:
        """A new queue pair; what the other end has to know of this one."""
        if self.qp is not None:
            self.qp.close()
        cap = QPCap(max_send_wr=64, max_recv_wr=64, max_send_sge=1, max_recv_sge=1)
        qp_type = getattr(e, f"IBV_QPT_{kind}")
        init = QPInitAttr(qp_type=qp_type, scq=self.cq, rcq=self.cq, cap=cap, sq_sig_all=1)
        self.qp = QP(self.pd, init)
        self.is_rc = kind == "RC"
        lid = self.context.query_port(1).lid
        return {"qpn": self.qp.qp_num, "lid": lid, "addr": self.mr.buf, "rkey": self.mr.rkey}

    def connect(self, *, far: dict[str, int], pkey_index: int = 0, rnr_retry: int = 7) -> None:
        self.far = far
        attr = QPAttr(port_num=1)
        attr.pkey_index = pkey_index
        attr.qkey = QKEY
        attr.qp_access_flags = ACCESS
        attr.dest_qp_num = far["qpn"]
        attr.path_mtu = e.IBV_MTU_4096
        attr.max_rd_atomic = attr.max_dest_rd_atomic = 4
        attr.timeout, attr.retry_cnt, attr.rnr_retry, attr.min_rnr_timer = 14, 7, rnr_retry, 12
        attr.ah_attr = AHAttr(dlid=far["lid"], port_num=1, is_global=0)
        self.qp.to_rts(attr)

    def fill(self, *, text: str, count: int = 1, offset: int = 0) -> None:
        self.mr.write(text * count, len(text) * count, offset)

    def text(self, *, length: int, offset: int = 0) -> str:
        return bytes(self.mr.read(length, offset)).decode(errors="replace")

    def receive(self, *, length: int = 4096, offset: int = 0) -> None:
        self.qp.post_recv(RecvWR(num_sge=1, sg=[SGE(self.mr.buf + offset, length, self.mr.lkey)]))

    def post(self, *, what: str = "send", length: int, offset: int = 0, rkey: int | None = None) -> None:
        sge = SGE(self.mr.buf + offset, length, self.mr.lkey)
        request = SendWR(num_sge=1, sg=[sge], opcode=OPCODES[what])
        if not self.is_rc:
            ah = AH(self.pd, attr=AHAttr(dlid=self.far["lid"], port_num=1, is_global=0))
            request.set_wr_ud(ah, self.far["qpn"], QKEY)
        elif what != "send":
            request.set_wr_rdma(self.far["rkey"] if rkey is None else rkey, self.far["addr"] + offset)
        self.qp.post_send(request)

    def completions(self, *, count: int, timeout: float) -> list[str]:
        """The statuses of the next completions; fewer if there are no more in time."""
        found: list[str] = []
        end = time.monotonic() + timeout
        while len(found) < count and time.monotonic() < end:
            number, entries = self.cq.poll(count - len(found))
            found += [STATUS[each.status] for each in entries]
            if not number:
                time.sleep(0.005)
        return found


def main(device: str, port: int) -> None:
    with socket.create_server(("", port)) as server:
        print("ready", flush=True)
        connection = server.accept()[0]
    endpoint = Endpoint(device)
    with connection, connection.makefile("rw", encoding="utf-8") as stream:
        for line in stream:
            name, arguments = json.loads(line)
            answer: list[Any]
            try:
                answer = [True, getattr(endpoint, name)(**arguments)]
            except Exception as fault:  # noqa: BLE001  the host reports it
                answer = [False, f"{type(fault).__name__}: {fault}"]
            stream.write(json.dumps(answer) + "\n")
            stream.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
