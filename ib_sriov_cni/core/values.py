"""The words of the trade as values: GUIDs, PCI addresses, VFs and netdevs as they were read. No I/O."""

from __future__ import annotations

from ipam.protocol.value import Value

ARPHRD_INFINIBAND = 32  # include/uapi/linux/if_arp.h
IFF_UP = 1
IFF_LOWER_UP = 0x10000
GUID_MAX = (1 << 64) - 1
HEX = frozenset("0123456789abcdefABCDEF")

# Configuration's word -> IFLA_VF_LINK_STATE_* (include/uapi/linux/if_link.h).
LINK_STATES = {"auto": 0, "enable": 1, "disable": 2}
# enum ib_port_state (IBA 14.2.5.6)
PORT_STATES = {0: "NOP", 1: "DOWN", 2: "INIT", 3: "ARMED", 4: "ACTIVE", 5: "ACTIVE_DEFER"}
LINK_STATE_NAMES = {number: name for name, number in LINK_STATES.items()}


class Guid(int):
    """A 64-bit InfiniBand GUID; its text is eight pairs of hexadecimal digits with colons."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Guid:
        """Read `00:11:…:77`, `0011:2233:4455:6677`, `0011223344556677` or the same behind `0x`, in any case.

        Raises ValueError for anything else. Any 64 bits are accepted here; see `fault` for what may be set.
        """
        digits = text.strip()
        if digits[:2] in {"0x", "0X"}:
            digits = digits[2:]
        groups = digits.split(":")
        width = {1: 16, 4: 4, 8: 2}.get(len(groups))
        if width is None or any(len(group) != width or not HEX.issuperset(group) for group in groups):
            raise ValueError(f"{text!r} is not a GUID (eight bytes like 00:11:22:33:44:55:66:77)")
        return cls(int("".join(groups), 16))

    @property
    def fault(self) -> str:
        """Why a port cannot have this GUID; empty when it can.

        Zero means none, all ones means unassigned (RTM_SETLINK takes both). ff in front is what a multicast
        GID starts with.
        """
        if self == 0:
            return "is all zero, which means no GUID"
        if self == GUID_MAX:
            return "is all ones, which means unassigned"
        if self >> 56 == 0xFF:
            return "starts with ff, as multicast GIDs do"
        return ""

    def __str__(self) -> str:
        """Give the form that iproute2 and the kernel's sysfs setter take."""
        return self.to_bytes(8, "big").hex(":")

    def __repr__(self) -> str:
        return f"Guid({self})"


class PciAddress(str):
    """A full PCI address in the kernel's own form, dddd:bb:dd.f."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> PciAddress:
        """Read a PCI address; upper case is folded, needless zeros of the domain are dropped.

        Raises ValueError for anything else, paths included.
        """
        parts = text.replace(".", ":").split(":")
        widths = [len(part) for part in parts]
        good = (
            len(parts) == 4
            and 4 <= widths[0] <= 8
            and widths[1:] == [2, 2, 1]
            and text.count(".") == 1
            and text[-2] == "."
            and all(HEX.issuperset(part) for part in parts)
            and int(parts[2], 16) < 32
            and parts[3] in "01234567"
        )
        if not good:
            raise ValueError(f"{text!r} is not a PCI address (like 0000:3b:00.2)")
        # Domains that need no fifth digit have four (pci_setup_device: %04x).
        return cls(f"{int(parts[0], 16):04x}{text[widths[0] :].lower()}")


class VfFunction(Value):
    """What the PCI tree says of a VF (Documentation/PCI/pci-iov-howto.rst)."""

    pci: PciAddress
    pf: PciAddress
    index: int  # N of the PF's virtfnN
    driver: str  # "" when unbound
    pf_driver: str
    pf_netdev: str  # "" when the PF has none in this namespace
    pf_index: int = 0  # its number, which stays when udev or a person renames it; 0 with none


class VfConfig(Value):
    """What the PF says of a VF: the driver's memory of what was set, not what the VF has (style: facts)."""

    node_guid: Guid
    port_guid: Guid
    link_state: str  # a key of LINK_STATES, or "" where the PF does not tell


class RdmaDevice(Value):
    """An RDMA device as sysfs shows it, from whatever namespace."""

    name: str
    uverbs: str  # uverbsN, "" without ib_uverbs
    node_guid: Guid | None  # None where it cannot be read (device in another namespace)
    port_guid: Guid | None


class Port(Value):
    """What sysfs says of an RDMA device's port; texts are empty where it says nothing."""

    state: str  # DOWN, INIT, ARMED, ACTIVE …
    physical: str  # Disabled, Polling, LinkUp …
    rate: str  # "200 Gb/sec (4X HDR)"
    link_layer: str  # InfiniBand, Ethernet
    lid: int
    sm_lid: int


class Link(Value):
    """A netdev. `pci` is empty on kernels that do not report the parent device (before 5.14)."""

    index: int
    name: str
    kind: int  # ARPHRD_*
    flags: int
    mtu: int
    address: bytes
    operstate: str
    pci: str
    altnames: tuple[str, ...]
    lower: int = 0  # a P_Key child's parent (ifindex in that one's namespace); 0 for a netdev of its own
    broadcast: bytes = b""

    @property
    def pkey(self) -> int | None:
        """The P_Key, membership bit set: bytes 8 and 9 of IPoIB's broadcast address (RFC 4391, section 4)."""
        if self.kind != ARPHRD_INFINIBAND or len(self.broadcast) != 20:
            return None
        return int.from_bytes(self.broadcast[8:10], "big")

    @property
    def up(self) -> bool:
        """Whether it is administratively up."""
        return bool(self.flags & IFF_UP)

    @property
    def mac(self) -> str:
        """The hardware address as text; 20 bytes for IPoIB (flags and QPN, subnet prefix, port GUID)."""
        return self.address.hex(":")

    @property
    def port_guid(self) -> Guid | None:
        """Last eight bytes of an IPoIB hardware address: the only part that survives a re-creation."""
        if self.kind != ARPHRD_INFINIBAND or len(self.address) != 20:
            return None
        return Guid.from_bytes(self.address[12:], "big")


class PortReport(Value):
    """What verbs say of an opened device's first port."""

    device: str
    node_guid: Guid
    port_guid: Guid
    link_layer: str  # InfiniBand, Ethernet or a number
    state: str  # DOWN, INIT, ARMED, ACTIVE …
    lid: int
    sm_lid: int
    pkeys: tuple[int, ...] = ()


def normalize_pkey(number: int) -> int:
    """Drop the membership bit (0x8000): full and limited members of a partition share the rest."""
    return number & 0x7FFF


# Drivers that hand a VF to a virtual machine: no netdev, no RDMA device, and no rebind by us.
PASS_THROUGH_DRIVERS = frozenset(("vfio-pci", "pci-stub", "uio_pci_generic", "igb_uio"))
