"""Netlink answers of any bytes: the socket raises only NetlinkError, and its callers only KernelRefused.

The answers are the kernel's own, made-up ones for what this host does not have (VFs, RDMA devices), and damaged
versions of both.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from ib_sriov_cni.core.errors import KernelRefused
from ib_sriov_cni.core.values import Guid, Link, PodRoute, VfConfig
from ib_sriov_cni.kernel import netlink_messages as m
from ib_sriov_cni.kernel.netlink_socket import NetlinkError, NetlinkSocket, _decode, _messages, _raise_refusal
from ib_sriov_cni.kernel.rdma_netlink import Rdma, _users
from ib_sriov_cni.kernel.rtnetlink import Rtnl, _link, _paths, vf_configs
from ipam.protocol.result import Route
from tests.fuzz.budget import TALLY, search

HEADER = struct.Struct("IHHII")
SEQUENCE = 1
CLASSES = (m.linkmsg, m.addrmsg, m.routemsg, m.rdmamsg)
NEW = {m.linkmsg: m.RTM_NEWLINK, m.addrmsg: m.RTM_NEWADDR, m.routemsg: m.RTM_NEWROUTE, m.rdmamsg: 5 << 10 | 1}
LINK = Link(index=7, name="net1", kind=32, flags=0, mtu=2044, address=b"", operstate="up", pci="", altnames=())


def packet(kind: int, body: bytes, flags: int = 0, length: int | None = None) -> bytes:
    return HEADER.pack(16 + len(body) if length is None else length, kind, flags, SEQUENCE, 0) + body


def made(message: type[Any], attrs: list[tuple[str, Any]], **fields: int) -> bytes:
    """Return an answer as our own classes write it."""
    answer = message()
    for name, number in fields.items():
        answer[name] = number
    answer["attrs"] = attrs
    answer["header"]["type"] = NEW[message]
    answer["header"]["sequence_number"] = SEQUENCE
    answer.encode()
    return bytes(answer.data)


def ask_kernel(kind: int, body: bytes) -> list[bytes]:
    """Return what this host's kernel answers to a dump, datagram by datagram."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        link.settimeout(10)
        link.send(packet(kind, body, m.NLM_F_DUMP | 1))
        found: list[bytes] = []
        while not found or struct.unpack_from("IH", found[-1])[1] != m.NLMSG_DONE:
            found.append(link.recv(1 << 18))
    return found


def vf_info(index: int) -> tuple[str, Any]:
    attrs = [
        ("IFLA_VF_LINK_STATE", {"vf": index, "number": 2}),
        ("IFLA_VF_IB_NODE_GUID", {"vf": index, "guid": 0x0211223344556677}),
        ("IFLA_VF_IB_PORT_GUID", {"vf": index, "guid": 0x0211223344556678}),
    ]
    return "IFLA_VF_INFO", {"attrs": attrs}


PF = made(
    m.linkmsg,
    [
        ("IFLA_IFNAME", "ib0"),
        ("IFLA_ADDRESS", bytes(range(20))),
        ("IFLA_BROADCAST", bytes(range(20))),
        ("IFLA_MTU", 2044),
        ("IFLA_LINK", 5),
        ("IFLA_OPERSTATE", 6),
        ("IFLA_PARENT_DEV_NAME", "0000:3b:00.0"),
        ("IFLA_PROP_LIST", {"attrs": [("IFLA_ALT_IFNAME", "ibp59s0")]}),
        ("IFLA_VFINFO_LIST", {"attrs": [vf_info(0), vf_info(1)]}),
    ],
    index=7,
    ifi_type=32,
)
ADDRESS = made(m.addrmsg, [("IFA_LOCAL", bytes((10, 0, 0, 2)))], index=7, family=2, prefixlen=24)
HOP = struct.pack("HBBiHH4s", 16, 0, 0, 7, 8, 5, bytes((10, 0, 0, 1)))
ROUTE = made(
    m.routemsg,
    [
        ("RTA_DST", bytes((10, 9, 0, 0))),
        ("RTA_OIF", 7),
        ("RTA_GATEWAY", bytes((10, 0, 0, 1))),
        ("RTA_TABLE", 254),
        ("RTA_METRICS", {"attrs": [("RTAX_MTU", 2000)]}),
        ("RTA_MULTIPATH", HOP * 2),
    ],
    family=2,
    dst_len=16,
    type=1,
    table=254,
)
DEVICE = made(
    m.rdmamsg,
    [
        ("RDMA_NLDEV_ATTR_DEV_INDEX", 3),
        ("RDMA_NLDEV_ATTR_DEV_NAME", "mlx5_3"),
        ("RDMA_NLDEV_ATTR_PORT_STATE", 4),
        ("RDMA_NLDEV_SYS_ATTR_NETNS_MODE", 0),
        (
            "RDMA_NLDEV_ATTR_RES_PD",
            {"attrs": [("RDMA_NLDEV_ATTR_RES_PD_ENTRY", {"attrs": [("RDMA_NLDEV_ATTR_RES_KERN_NAME", "ib_ipoib")]})]},
        ),
    ],
)
DONE = packet(m.NLMSG_DONE, struct.pack("i", 0))
REASON = struct.pack("HH", 11, 1) + b"taken!\0\0"  # NLMSGERR_ATTR_MSG
REFUSAL = packet(m.NLMSG_ERROR, struct.pack("i", -errno.EEXIST) + HEADER.pack(32, 19, 5, 1, 0) + REASON, 0x300)
SEEDS = (
    *(PF, ADDRESS, ROUTE, DEVICE, DONE, REFUSAL, PF + DONE, ROUTE + ADDRESS + DONE),
    *[data for kind in (m.RTM_GETLINK, m.RTM_GETADDR, m.RTM_GETROUTE) for data in ask_kernel(kind, bytes(16))],
)

attributes = st.recursive(
    st.tuples(st.integers(0, 70) | st.sampled_from((0x8034, 0xFFFF, 0x4001)), st.binary(max_size=24)),
    lambda inner: st.tuples(
        st.sampled_from((8, 9, 18, 22, 46, 47, 52, 1, 2)),
        st.lists(inner, max_size=4).map(lambda items: b"".join([attribute(*item) for item in items])),
    ),
    max_leaves=8,
)


def attribute(kind: int, content: bytes, length: int | None = None) -> bytes:
    size = 4 + len(content) if length is None else length
    return struct.pack("HH", size & 0xFFFF, kind) + content + bytes(-len(content) % 4)


@st.composite
def built(draw: st.DrawFn) -> bytes:
    """A message of attributes that no kernel would put together."""
    message = draw(st.sampled_from(CLASSES))
    size = {m.linkmsg: 16, m.addrmsg: 8, m.routemsg: 12, m.rdmamsg: 0}[message]
    fixed = draw(st.sampled_from((bytes(size), b"\2\x18\0\0\7\0\0\0\1\0\0\1" + bytes(8), b"\xff" * 16)))[:size]
    items = draw(st.lists(attributes, max_size=6))
    lengths = st.none() | st.sampled_from((0, 1, 3, 4, 5, 8, 200, 0xFFFF))
    return packet(NEW[message], fixed + b"".join([attribute(*item, draw(lengths)) for item in items]))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A datagram with some bytes overwritten, cut out or inserted."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data)))
        piece = draw(
            st.sampled_from((b"\0", b"\xff", b"\0\0\0\0", b"\xff\xff", b"\4\0", b"\5\0")) | st.binary(max_size=4)
        )
        data[at : at + draw(st.sampled_from((len(piece), 0, 4)))] = piece
    return bytes(data)


datagrams = damaged() | built() | st.binary(max_size=80)


def whole(answer: Any) -> Any:
    return answer


def names(answer: Any) -> Any:
    return answer.get_attr("RDMA_NLDEV_ATTR_DEV_NAME"), answer.get_attr("RDMA_NLDEV_ATTR_DEV_INDEX")


KEEPS: dict[type[Any], Sequence[Callable[[Any], Any]]] = {
    m.linkmsg: (whole, _link, lambda answer: vf_configs(answer, None)),
    m.addrmsg: (whole, lambda answer: answer.get_attr("IFA_LOCAL")),
    m.routemsg: (lambda answer: _paths(answer, 2), lambda answer: _paths(answer, 10)),
    m.rdmamsg: (_users, names),
}


def decode_all(part: bytes) -> list[int]:
    """Decode a message as each of the classes; return the errno of each refusal."""
    refusals = []
    for message, keeps in KEEPS.items():
        for keep in keeps:
            try:
                _decode(message, part, keep)
            except NetlinkError as fault:
                refusals.append(fault.errno)
    return refusals


@search("netlink")
@given(datagrams)
def test_a_datagram(data: bytes) -> None:
    """Also truncated after each of its bytes."""
    for length in range(len(data), max(0, len(data) - 200), -1):
        TALLY.add()
        number = errno.EBADMSG
        try:
            for part, kind, flags, _ in _messages(data[:length]):
                assert set(decode_all(part)) <= {errno.EBADMSG}
                _raise_refusal(part, kind, flags)
        except NetlinkError as fault:
            number = fault.errno
        assert number > 0


class Answering(NetlinkSocket):
    """A socket that receives these datagrams."""

    def __init__(self, data: Sequence[bytes]) -> None:
        self.data = list(data)
        self._sequence = SEQUENCE
        self._trace = None

    def close(self) -> None:
        pass

    def _send(self, *_request: object) -> None:
        pass

    def _read(self, deadline: float) -> bytes:
        assert deadline
        if not self.data:
            raise NetlinkError(errno.ETIMEDOUT)
        return self.data.pop(0)


def rtnl(data: Sequence[bytes]) -> Rtnl:
    door = Rtnl.__new__(Rtnl)
    door._socket = Answering(data)  # noqa: SLF001  # in the place of one that asks the kernel
    return door


def rdma(data: Sequence[bytes]) -> Rdma:
    door = Rdma.__new__(Rdma)
    door._socket = Answering(data)  # noqa: SLF001  # in the place of one that asks the kernel
    return door


QUESTIONS: dict[str, Callable[[Sequence[bytes]], object]] = {
    "link": lambda data: rtnl(data).read_link(7),
    "links": lambda data: rtnl(data).read_links(),
    "pf": lambda data: rtnl(data).read_pf("ib0", 7),
    "vf of pf": lambda data: rtnl(data).read_pf("ib0", 7, only=1),
    "addresses": lambda data: rtnl(data).read_addresses(LINK),
    "routes": lambda data: rtnl(data).read_routes(LINK),
    "routes to": lambda data: rtnl(data).read_routes_to({"0.0.0.0/0", "::/0", "10.9.0.0/16"}),
    "add route": lambda data: rtnl(data).add_route(LINK, Route(dst="10.9.0.0/16", gw="10.0.0.1")),
    "children": lambda data: rtnl(data).read_children_of(LINK),
    "set": lambda data: rtnl(data).set_mtu(LINK, 2044),
    "mode": lambda data: rdma(data).read_mode(),
    "devices": lambda data: rdma(data).read_devices(),
    "port": lambda data: rdma(data).read_port_state("mlx5_3"),
    "users": lambda data: rdma(data).read_users("mlx5_3"),
    "rename": lambda data: rdma(data).move_device("mlx5_3", 1, 3),
}


@search("netlink answers")
@given(st.lists(datagrams | st.sampled_from(SEEDS), min_size=1, max_size=4))
@example([DONE])  # an acknowledgement instead of an answer
@example([packet(m.RTM_NEWLINK, bytes(16))])  # a link without a name
@example([packet(NEW[m.rdmamsg], attribute(1, b"\3", 8))])  # a truncated number
@example([packet(NEW[m.rdmamsg], bytes(16) + b"\0\0\1\0"), DONE])  # an index that is not a number
def test_answers(data: list[bytes]) -> None:
    for question in QUESTIONS.values():
        TALLY.add()
        try:
            answer = question(data)
        except KernelRefused as refusal:
            answer = refusal.msg
        assert_typed(answer)


def assert_typed(answer: object) -> None:
    """Assert that what is declared as text is text, and so on: the callers rely on it."""
    if isinstance(answer, (list, tuple)):
        for item in answer:
            assert_typed(item)
    elif isinstance(answer, dict):
        assert all(isinstance(key, (int, str)) for key in answer), answer
        assert all(isinstance(item, (int, VfConfig, type(None))) for item in answer.values()), answer
    elif isinstance(answer, Link):
        assert all(isinstance(text, str) for text in (answer.name, answer.operstate, answer.pci, *answer.altnames))
        assert all(isinstance(number, int) for number in (answer.index, answer.kind, answer.mtu, answer.lower))
        assert isinstance(answer.address, bytes)
        assert isinstance(answer.port_guid, (Guid, type(None)))
    elif isinstance(answer, PodRoute):
        assert_typed(answer.route)
        assert all(isinstance(number, int) for number in (answer.index, answer.protocol)), answer
    elif isinstance(answer, Route):
        assert isinstance(answer.dst, str)
        assert isinstance(answer.gw, (str, type(None)))
        assert all(isinstance(number, (int, type(None))) for number in (answer.mtu, answer.priority, answer.table))
    else:
        assert isinstance(answer, (str, int, type(None))), answer
