"""The netlink messages that the plugin uses, declared with pyroute2's message classes.

They are based on pyroute2's `nlmsg` and `nla`, because its own ifinfmsg loads 15 plug-ins that no IPoIB netdev needs.
pyroute2_loader.py loads pyroute2.

Sources: include/uapi/linux/{netlink,rtnetlink,if_link,if_addr}.h, include/uapi/rdma/rdma_netlink.h.
"""

from __future__ import annotations

from struct import unpack_from

from ib_sriov_cni.kernel.pyroute2_loader import load_netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


_base = load_netlink()
_slot = _base.nla_slot  # type: ignore[attr-defined]  # no stubs


class _Sparse:
    """Skips attributes that are not in the map: a link has fifty, of which ten are read.

    pyroute2 makes an object for each one, which was half the cost of reading a link.
    """

    def decode_nlas(self: Any, offset: int) -> None:
        """Override nlmsg_base.decode_nlas: find the attributes, which are decoded on first access."""
        known = self._nlmsg_base__t_nla_map
        end = self.offset + self.length
        while offset + 4 <= end:
            length, kind = unpack_from("HH", self.data, offset)
            length = max(length, 4)
            attribute = known.get(kind & NLA_TYPE_MASK)
            if attribute is not None:
                size = min(length, end - offset)
                cell = attribute["class"](data=self.data, offset=offset, parent=self, length=size, init=None)
                self["attrs"].append(_slot(attribute["name"], cell))
            offset += (length + 3) & ~3


class nla(_Sparse, _base.nla):  # type: ignore[misc, name-defined]  # noqa: N801  # named as in pyroute2; no stubs
    """An attribute."""


class nlmsg(_Sparse, _base.nlmsg):  # type: ignore[misc, name-defined]  # noqa: N801  # likewise
    """A message."""


NLA_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER


def _nested(*nla_map: tuple[int, str, str], **inside: Any) -> type[nla]:
    """Return the class of an attribute of attributes: their numbers, names, types; `inside`: types not in pyroute2."""
    return type("nested", (nla,), {"nla_map": nla_map, **inside})


def _struct(*fields: tuple[str, str]) -> type[nla]:
    """Return the class of an attribute that is a struct: the names and formats of its fields."""
    return type("struct", (nla,), {"fields": fields})


NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
NLMSG_ERROR, NLMSG_DONE, NLM_F_DUMP_INTR, NLM_F_CAPPED, NLM_F_ACK_TLVS = 2, 3, 0x10, 0x100, 0x200

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWLINKPROP, RTM_DELLINKPROP = 108, 109


class linkmsg(nlmsg):  # noqa: N801  # named as pyroute2 names messages
    """struct ifinfomsg and the link attributes that the plugin reads or sets."""

    prefix = "IFLA_"
    fields = (("family", "B"), ("__align", "x"), ("ifi_type", "H"), ("index", "i"), ("flags", "I"), ("change", "I"))
    nla_map = (
        (1, "IFLA_ADDRESS", "cdata"),
        (2, "IFLA_BROADCAST", "cdata"),
        (3, "IFLA_IFNAME", "asciiz"),
        (4, "IFLA_MTU", "uint32"),
        (5, "IFLA_LINK", "uint32"),
        (16, "IFLA_OPERSTATE", "uint8"),
        (18, "IFLA_LINKINFO", "ipoibinfo"),
        (19, "IFLA_NET_NS_PID", "uint32"),
        (22, "IFLA_VFINFO_LIST", "vflist"),
        (28, "IFLA_NET_NS_FD", "uint32"),
        (29, "IFLA_EXT_MASK", "uint32"),
        (52, "IFLA_PROP_LIST", "proplist"),
        (53, "IFLA_ALT_IFNAME", "asciiz"),
        (56, "IFLA_PARENT_DEV_NAME", "asciiz"),
    )

    # Used to make a netdev. In answers it may be of any kind, and is not read.
    ipoibinfo = _nested(
        (1, "IFLA_INFO_KIND", "asciiz"),
        (2, "IFLA_INFO_DATA", "ipoib"),
        ipoib=_nested((1, "IFLA_IPOIB_PKEY", "uint16")),
    )
    proplist = _nested((53, "IFLA_ALT_IFNAME", "asciiz"), nla_flags=0x8000)  # NLA_F_NESTED
    # One IFLA_VF_INFO per VF of a PF. pyroute2's class encodes GUIDs with a wrong length.
    vflist = _nested(
        (1, "IFLA_VF_INFO", "vfinfo"),
        vfinfo=_nested(
            (5, "IFLA_VF_LINK_STATE", "vf_u32"),
            (10, "IFLA_VF_IB_NODE_GUID", "vf_guid"),
            (11, "IFLA_VF_IB_PORT_GUID", "vf_guid"),
            vf_u32=_struct(("vf", "I"), ("number", "I")),  # struct ifla_vf_link_state
            vf_guid=_struct(("vf", "I"), ("__pad", "4x"), ("guid", "Q")),  # struct ifla_vf_guid
        ),
    )


class addrmsg(nlmsg):  # noqa: N801  # see linkmsg
    """struct ifaddrmsg."""

    prefix = "IFA_"
    fields = (("family", "B"), ("prefixlen", "B"), ("flags", "B"), ("scope", "B"), ("index", "I"))
    nla_map = (
        (1, "IFA_ADDRESS", "cdata"),
        (2, "IFA_LOCAL", "cdata"),
        (4, "IFA_BROADCAST", "cdata"),
        (8, "IFA_FLAGS", "uint32"),
    )


class routemsg(nlmsg):  # noqa: N801  # see linkmsg
    """struct rtmsg."""

    prefix = "RTA_"
    fields = (
        ("family", "B"),
        ("dst_len", "B"),
        ("src_len", "B"),
        ("tos", "B"),
        ("table", "B"),
        ("proto", "B"),
        ("scope", "B"),
        ("type", "B"),
        ("flags", "I"),
    )
    nla_map = (
        (1, "RTA_DST", "cdata"),
        (4, "RTA_OIF", "uint32"),
        (5, "RTA_GATEWAY", "cdata"),
        (6, "RTA_PRIORITY", "uint32"),
        (8, "RTA_METRICS", "metrics"),
        (9, "RTA_MULTIPATH", "cdata"),
        (15, "RTA_TABLE", "uint32"),
    )

    metrics = _nested((2, "RTAX_MTU", "uint32"), (8, "RTAX_ADVMSS", "uint32"))


class rdmamsg(nlmsg):  # noqa: N801  # see linkmsg
    """A message of NETLINK_RDMA's nldev client, which pyroute2 lacks: only attributes, no fixed header."""

    prefix = "RDMA_NLDEV_"
    fields = ()
    nla_map = (
        (1, "RDMA_NLDEV_ATTR_DEV_INDEX", "uint32"),
        (2, "RDMA_NLDEV_ATTR_DEV_NAME", "asciiz"),
        (3, "RDMA_NLDEV_ATTR_PORT_INDEX", "uint32"),
        (6, "RDMA_NLDEV_ATTR_NODE_GUID", "uint64"),
        (12, "RDMA_NLDEV_ATTR_PORT_STATE", "uint8"),
        (46, "RDMA_NLDEV_ATTR_RES_PD", "pds"),
        (66, "RDMA_NLDEV_SYS_ATTR_NETNS_MODE", "uint8"),
        (68, "RDMA_NLDEV_NET_NS_FD", "uint32"),
    )

    # Protection domains: who has one uses the device. Kernel users have a name, others a process number.
    pds = _nested(
        (47, "RDMA_NLDEV_ATTR_RES_PD_ENTRY", "pd"),
        pd=_nested((28, "RDMA_NLDEV_ATTR_RES_PID", "uint32"), (29, "RDMA_NLDEV_ATTR_RES_KERN_NAME", "asciiz")),
    )


class errormsg(nlmsg):  # noqa: N801  # see linkmsg
    """struct nlmsgerr up to the errno; the rest, which starts with the echoed request, is parsed by hand."""

    fields = (("error", "i"),)
