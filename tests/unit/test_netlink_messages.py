"""kernel.netlink_messages: pyroute2's encoder without pyroute2, against bytes written down from the kernel's headers.

The expected bytes are little-endian, as on every machine an HCA of this kind is plugged into: struct nlmsghdr
(length, type, flags, sequence, port), the family's header, attributes of (length, type, data, padding to 4).
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from ib_sriov_cni.kernel import netlink_messages as m
from ib_sriov_cni.kernel.netlink_socket import NetlinkError, _raise_refusal

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))


def encode(message: Any, kind: int, flags: int, fields: dict[str, int], attrs: list[tuple[str, Any]]) -> bytes:
    request = message()
    for name, number in fields.items():
        request[name] = number
    request["attrs"] = attrs
    request["header"]["type"] = kind
    request["header"]["flags"] = flags
    request["header"]["sequence_number"] = 0x01020304
    request.encode()
    return bytes(request.data)


def decode(message: Any, data: bytes) -> Any:
    found = message(data)
    found.decode()
    return found


def header(length: int, kind: int, flags: int) -> str:
    number = [length.to_bytes(4, "little"), kind.to_bytes(2, "little"), flags.to_bytes(2, "little")]
    return b"".join(number).hex() + "04030201" + "00000000"


def vf_info(name: str, **content: int) -> tuple[str, Any]:
    return "IFLA_VFINFO_LIST", {"attrs": [("IFLA_VF_INFO", {"attrs": [(name, content)]})]}


GUID = 0x0211223344556677
CASES: list[tuple[str, Any, int, int, dict[str, int], list[tuple[str, Any]], str]] = [
    (
        "RTM_GETLINK of an index",
        m.linkmsg,
        m.RTM_GETLINK,
        1,
        {"index": 7},
        [("IFLA_EXT_MASK", 9)],
        header(0x28, 18, 1) + "00000000" + "07000000" + "00000000" + "00000000" + "0800" + "1d00" + "09000000",
    ),
    (
        "RTM_SETLINK up",
        m.linkmsg,
        m.RTM_SETLINK,
        5,
        {"index": 7, "flags": 1, "change": 1},
        [],
        header(0x20, 19, 5) + "00000000" + "07000000" + "01000000" + "01000000",
    ),
    (
        "RTM_SETLINK mtu, namespace, name",
        m.linkmsg,
        m.RTM_SETLINK,
        5,
        {"index": 7},
        [("IFLA_MTU", 2044), ("IFLA_NET_NS_FD", 5), ("IFLA_IFNAME", "net1")],
        header(0x3C, 19, 5)
        + ("00000000" + "07000000" + "00000000" + "00000000")
        + ("0800" + "0400" + "fc070000")
        + ("0800" + "1c00" + "05000000")
        + ("0900" + "0300" + "6e65743100" + "000000"),
    ),
    (
        "RTM_NEWLINKPROP",
        m.linkmsg,
        m.RTM_NEWLINKPROP,
        0xE05,
        {"index": 7},
        [("IFLA_PROP_LIST", {"attrs": [("IFLA_ALT_IFNAME", "alt")]})],
        header(0x2C, 108, 0xE05)
        + ("00000000" + "07000000" + "00000000" + "00000000")
        + ("0c00" + "3480" + "0800" + "3500" + "616c7400"),
    ),
    (
        "RTM_SETLINK of a VF's port GUID",
        m.linkmsg,
        m.RTM_SETLINK,
        5,
        {},
        [
            ("IFLA_IFNAME", "ib0"),
            vf_info("IFLA_VF_IB_PORT_GUID", vf=2, guid=GUID),
        ],
        # struct ifla_vf_guid has four bytes of padding before its u64.
        header(0x44, 19, 5)
        + ("00000000" + "00000000" + "00000000" + "00000000")
        + ("0800" + "0300" + "69623000")
        + ("1c00" + "1600" + "1800" + "0100")
        + ("1400" + "0b00" + "02000000" + "00000000" + "7766554433221102"),
    ),
    (
        "RTM_SETLINK of a VF's link state",
        m.linkmsg,
        m.RTM_SETLINK,
        5,
        {},
        [vf_info("IFLA_VF_LINK_STATE", vf=2, number=1)],
        header(0x34, 19, 5)
        + ("00000000" + "00000000" + "00000000" + "00000000")
        + ("1400" + "1600" + "1000" + "0100" + "0c00" + "0500" + "02000000" + "01000000"),
    ),
    (
        "RTM_NEWADDR",
        m.addrmsg,
        m.RTM_NEWADDR,
        0x605,
        {"family": 2, "prefixlen": 24, "index": 7},
        [("IFA_LOCAL", b"\x0a\x01\x02\x03"), ("IFA_ADDRESS", b"\x0a\x01\x02\x03"), ("IFA_FLAGS", 2)],
        header(0x30, 20, 0x605)
        + ("02180000" + "07000000")
        + ("0800" + "0200" + "0a010203")
        + ("0800" + "0100" + "0a010203")
        + ("0800" + "0800" + "02000000"),
    ),
    (
        "RTM_NEWROUTE",
        m.routemsg,
        m.RTM_NEWROUTE,
        0x605,
        {"family": 2, "dst_len": 16, "table": 254, "proto": 4, "scope": 253, "type": 1},
        [
            ("RTA_OIF", 7),
            ("RTA_DST", b"\x0a\x09\x00\x00"),
            ("RTA_METRICS", {"attrs": [("RTAX_MTU", 1500), ("RTAX_ADVMSS", 1460)]}),
        ],
        header(0x40, 24, 0x605)
        + ("02100000" + "fe04fd01" + "00000000")
        + ("0800" + "0400" + "07000000")
        + ("0800" + "0100" + "0a090000")
        + ("1400" + "0800" + "0800" + "0200" + "dc050000" + "0800" + "0800" + "b4050000"),
    ),
    (
        "RDMA_NLDEV_CMD_SET of a namespace",
        m.rdmamsg,
        5 << 10 | 2,
        5,
        {},
        [("RDMA_NLDEV_ATTR_DEV_INDEX", 3), ("RDMA_NLDEV_NET_NS_FD", 5)],
        header(0x20, 0x1402, 5) + "0800" + "0100" + "03000000" + "0800" + "4400" + "05000000",
    ),
    (
        "RDMA_NLDEV_CMD_SET of a name",
        m.rdmamsg,
        5 << 10 | 2,
        5,
        {},
        [("RDMA_NLDEV_ATTR_DEV_INDEX", 3), ("RDMA_NLDEV_ATTR_DEV_NAME", "mlx5_3")],
        header(0x24, 0x1402, 5) + "0800" + "0100" + "03000000" + "0b00" + "0200" + "6d6c78355f3300" + "00",
    ),
    (
        "RTM_NEWLINK of a P_Key child",
        m.linkmsg,
        m.RTM_NEWLINK,
        0x605,
        {},
        [
            ("IFLA_IFNAME", "net1"),
            ("IFLA_LINK", 7),
            (
                "IFLA_LINKINFO",
                {"attrs": [("IFLA_INFO_KIND", "ipoib"), ("IFLA_INFO_DATA", {"attrs": [("IFLA_IPOIB_PKEY", 0x8001)]})]},
            ),
        ],
        header(0x50, 16, 0x605)
        + ("00000000" + "00000000" + "00000000" + "00000000")
        + ("0900" + "0300" + "6e65743100" + "000000")
        + ("0800" + "0500" + "07000000")
        # The kind, and in the data a 16-bit P_Key (include/uapi/linux/if_link.h, IFLA_IPOIB_PKEY).
        + ("1c00" + "1200" + "0a00" + "0100" + "69706f696200" + "0000")
        + ("0c00" + "0200" + "0600" + "0100" + "0180" + "0000"),
    ),
    (
        "RTM_DELLINK",
        m.linkmsg,
        m.RTM_DELLINK,
        5,
        {"index": 7},
        [],
        header(0x20, 17, 5) + "00000000" + "07000000" + "00000000" + "00000000",
    ),
]


@pytest.mark.parametrize(
    ("message", "kind", "flags", "fields", "attrs", "expected"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_messages_are_the_kernels(
    message: Any, kind: int, flags: int, fields: dict[str, int], attrs: list[tuple[str, Any]], expected: str
) -> None:
    assert encode(message, kind, flags, fields, attrs).hex(" ", 4) == bytes.fromhex(expected).hex(" ", 4)


def test_a_link_is_read() -> None:
    data = bytes.fromhex(
        "c0000000" + "10000000" + "04030201" + "00000000"
        + "0000" + "2000" + "07000000" + "43100100" + "00000000"  # struct ifinfomsg: ARPHRD_INFINIBAND, index 7
        + "0800" + "0300" + "69623000"  # IFLA_IFNAME
        + "1800" + "0100" + "000102030405060708090a0b0c0d0e0f10111213"  # IFLA_ADDRESS, 20 bytes
        + "0800" + "0400" + "fc070000"  # IFLA_MTU
        + "1800" + "0200" + "00ffffffff12401b8001000000000000ffffffff"  # IFLA_BROADCAST
        + "0800" + "0500" + "05000000"  # IFLA_LINK
        + "1400" + "1200" + "0900" + "0100" + "7665746800" + "000000" + "0400" + "0200"  # IFLA_LINKINFO of another kind
        + "0500" + "1000" + "06000000"  # IFLA_OPERSTATE
        + "1100" + "3800" + "303030303a33623a30302e3000" + "000000"  # IFLA_PARENT_DEV_NAME
        + "1400" + "3480" + "0800" + "3500" + "616c7400" + "0700" + "3500" + "616200" + "00"  # IFLA_PROP_LIST
        + "0600" + "f77f" + "ffff0000"  # an attribute of some future kernel
        + "3400" + "1600" + "3000" + "0100"  # IFLA_VFINFO_LIST, IFLA_VF_INFO
        + "0c00" + "0500" + "02000000" + "02000000"
        + "1400" + "0a00" + "02000000" + "00000000" + "7766554433221102"
        + "0c00" + "0100" + "02000000" + "ffffffff"  # IFLA_VF_MAC, which is not wanted
    )  # fmt: skip
    data = len(data).to_bytes(4, "little") + data[4:]
    link = decode(m.linkmsg, data)
    assert (link["index"], link["ifi_type"], link["flags"]) == (7, 32, 0x11043)
    assert link.get_attr("IFLA_IFNAME") == "ib0"
    assert link.get_attr("IFLA_ADDRESS") == bytes(range(20))
    assert link.get_attr("IFLA_BROADCAST")[8:10] == b"\x80\x01"
    assert link.get_attr("IFLA_LINK") == 5
    assert (link.get_attr("IFLA_MTU"), link.get_attr("IFLA_OPERSTATE")) == (2044, 6)
    assert link.get_attr("IFLA_PARENT_DEV_NAME") == "0000:3b:00.0"
    assert list(link.get_attr("IFLA_PROP_LIST").get_attrs("IFLA_ALT_IFNAME")) == ["alt", "ab"]
    (info,) = link.get_attr("IFLA_VFINFO_LIST").get_attrs("IFLA_VF_INFO")
    state, node = info.get_attr("IFLA_VF_LINK_STATE"), info.get_attr("IFLA_VF_IB_NODE_GUID")
    assert (state["vf"], state["number"], node["vf"], node["guid"]) == (2, 2, 2, GUID)
    assert info.get_attr("IFLA_VF_IB_PORT_GUID") is None


def test_addresses_and_routes_are_read() -> None:
    address = decode(m.addrmsg, bytes.fromhex(CASES[6][6]))
    assert (address["family"], address["prefixlen"], address["index"]) == (2, 24, 7)
    assert (address.get_attr("IFA_LOCAL"), address.get_attr("IFA_FLAGS")) == (b"\x0a\x01\x02\x03", 2)
    route = decode(m.routemsg, bytes.fromhex(CASES[7][6]))
    assert (route["dst_len"], route["table"], route["scope"], route["type"]) == (16, 254, 253, 1)
    assert (route.get_attr("RTA_DST"), route.get_attr("RTA_OIF")) == (b"\x0a\x09\x00\x00", 7)
    assert route.get_attr("RTA_METRICS").get_attr("RTAX_MTU") == 1500


def test_an_rdma_device_is_read() -> None:
    data = bytes.fromhex(
        header(0x40, 0x1401, 2)
        + "0800" + "0100" + "03000000"
        + "0b00" + "0200" + "6d6c78355f3300" + "00"
        + "0c00" + "0600" + "7766554433221102"
        + "0500" + "0c00" + "04000000"
        + "0500" + "4200" + "00000000"
    )  # fmt: skip
    device = decode(m.rdmamsg, data)
    assert device.get_attr("RDMA_NLDEV_ATTR_DEV_INDEX") == 3
    assert device.get_attr("RDMA_NLDEV_ATTR_DEV_NAME") == "mlx5_3"
    assert device.get_attr("RDMA_NLDEV_ATTR_NODE_GUID") == GUID
    assert device.get_attr("RDMA_NLDEV_ATTR_PORT_STATE") == 4
    assert device.get_attr("RDMA_NLDEV_SYS_ATTR_NETNS_MODE") == 0


# ---- refusals (struct nlmsgerr)

REASON = "1900" + "0100" + b"Device is taken now!\0".hex() + "000000"  # NLMSGERR_ATTR_MSG
REQUEST = "20000000" + "13000500" + "01000000" + "00000000"  # the header of the request, 32 bytes with its body


@pytest.mark.parametrize(
    ("flags", "body", "reason"),
    [
        (0, "", ""),
        (0x100, REQUEST, ""),
        (0x300, REQUEST + REASON, "Device is taken now!"),
        (0x300, REQUEST + "08000200" + "04000000" + REASON, "Device is taken now!"),  # NLMSGERR_ATTR_OFFS before it
        (0x200, REQUEST + "ff7f0100" * 4 + REASON, "Device is taken now!"),  # the whole request is sent back
        (0x300, REQUEST + "0000", ""),
        (0x300, REQUEST + "00000000", ""),
    ],
)
def test_the_kernels_reason(flags: int, body: str, reason: str) -> None:
    part = bytes.fromhex(header(0, 2, flags) + "efffffff" + body)
    with pytest.raises(NetlinkError) as caught:
        _raise_refusal(part, m.NLMSG_ERROR, flags)
    assert (caught.value.errno, caught.value.reason) == (17, reason)


def test_a_dump_that_ends_with_a_refusal() -> None:
    part = bytes.fromhex(header(0, 3, 0x200) + "efffffff" + REASON)
    with pytest.raises(NetlinkError) as caught:
        _raise_refusal(part, m.NLMSG_DONE, 0x200)
    assert (caught.value.errno, caught.value.reason) == (17, "Device is taken now!")


@pytest.mark.parametrize("body", ["", "00000000", "00000000" + REQUEST])
def test_an_acknowledgement_is_no_refusal(body: str) -> None:
    _raise_refusal(bytes.fromhex(header(0, 2, 0) + body), m.NLMSG_ERROR, 0)


# ---- what importing it does to the process


def run(code: str) -> str:
    env = {**os.environ, "PYTHONPATH": ROOT}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


ASK = """
answers = NetlinkSocket(0).ask(m.linkmsg, m.RTM_GETLINK, attrs=[("IFLA_IFNAME", "lo")])
assert [answer.get_attr("IFLA_IFNAME") for answer in answers] == ["lo"]
"""


def test_no_stand_in_stays_behind() -> None:
    code = """
import sys
from ib_sriov_cni.kernel import netlink_messages as m
from ib_sriov_cni.kernel.netlink_socket import NetlinkSocket
names = [name for name, module in sys.modules.items() if getattr(module, "__spec__", None) is None]
# typing registers two of its own without a spec; a .pth file may have imported it when the interpreter started
assert set(names) - {"typing.io", "typing.re"} == {"__main__"}, names
import collections, functools, logging, socket, threading, traceback, types, typing, weakref
for module in (collections, functools, logging, socket, threading, traceback, types, typing, weakref):
    assert module.__file__, module
assert logging.getLogger("x").name == "x"
assert socket.AF_INET.name == "AF_INET"
assert threading.Thread is not None and typing.Any is not None
"""
    run(code + ASK)


PYROUTE2 = """
from pyroute2 import IPRoute
with IPRoute() as ip:
    assert [link.get_attr("IFLA_IFNAME") for link in ip.link("get", index=1)] == ["lo"]
    assert ip.link_lookup(ifname="lo") == [1]
    assert list(ip.get_addr(index=1)) is not None
"""
OURS = """
from ib_sriov_cni.kernel import netlink_messages as m
from ib_sriov_cni.kernel.netlink_socket import NetlinkSocket
"""


@pytest.mark.parametrize("code", [PYROUTE2 + OURS + ASK, OURS + ASK + PYROUTE2, OURS + PYROUTE2 + ASK + PYROUTE2])
def test_beside_the_whole_of_pyroute2(code: str) -> None:
    """The command line and the tests use the full pyroute2, imported before ours or after."""
    run(code)


def test_after_it_an_exception_of_pyroute2_is_its_own() -> None:
    run(
        OURS
        + """
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
try:
    IPRoute().link("get", index=12345678)
except NetlinkError as fault:
    assert fault.code == 19
else:
    raise AssertionError("there is such an index")
"""
    )


def test_pyroute2_that_is_not_installed() -> None:
    code = """
import sys
sys.path = [path for path in sys.path if "-packages" not in path]
try:
    import ib_sriov_cni.kernel.netlink_messages
except ImportError as fault:
    print(fault)
"""
    assert run(code) == "pyroute2 is not installed"
