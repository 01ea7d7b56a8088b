"""GUIDs, PCI addresses, and facts about VFs, netdevs and RDMA devices, as value classes. No I/O."""

from __future__ import annotations

from ipam.protocol.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipam.protocol.result import Route

ARPHRD_INFINIBAND = 32  # include/uapi/linux/if_arp.h
IFF_UP = 1
IFF_LOWER_UP = 0x10000
GUID_MAX = (1 << 64) - 1
HEX = frozenset("0123456789abcdefABCDEF")
GUID_FORM = "a GUID like 00:11:22:33:44:55:66:77"
PCI_FORM = "a PCI address like 0000:3b:00.2"

# Value of `link_state` -> IFLA_VF_LINK_STATE_* (include/uapi/linux/if_link.h).
LINK_STATES = {"auto": 0, "enable": 1, "disable": 2}
# enum ib_port_state (IBA 14.2.5.6)
PORT_STATES = {0: "NOP", 1: "DOWN", 2: "INIT", 3: "ARMED", 4: "ACTIVE", 5: "ACTIVE_DEFER"}
LINK_STATE_NAMES = {number: name for name, number in LINK_STATES.items()}


def describe_value(found: object) -> str:
    """Return a JSON value as Python writes it, at most 80 characters, for messages."""
    try:
        return repr(found)[:80]
    except RecursionError:  # the JSON parser can go deeper than the stack that is left here
        return "a deeply nested value"


class Guid(int):
    """A 64-bit InfiniBand GUID; its text is eight pairs of hexadecimal digits with colons."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Guid:
        """Return the GUID in `00:11:…:77`, `0011:2233:4455:6677` or `0011223344556677`, in any case, 0x or not.

        Raises ValueError for anything else. Accepts any 64 bits; `fault` says which of them a port cannot have.
        """
        digits = text.strip()
        if digits[:2] in {"0x", "0X"}:
            digits = digits[2:]
        groups = digits.split(":")
        width = {1: 16, 4: 4, 8: 2}.get(len(groups))
        if width is None or any(len(group) != width or not HEX.issuperset(group) for group in groups):
            raise ValueError(f"{text!r} is not {GUID_FORM}")
        return cls(int("".join(groups), 16))

    @classmethod
    def parse_or_none(cls, text: str) -> Guid | None:
        """Return what `parse` returns, None where it raises ValueError."""
        try:
            return cls.parse(text)
        except ValueError:
            return None

    @property
    def fault(self) -> str:
        """Why a port cannot have this GUID; empty if it can.

        RTM_SETLINK accepts all of them: zero stands for no GUID, all ones for an unassigned one, and multicast GIDs
        start with ff.
        """
        if self == 0:
            return "is all zeros (no GUID)"
        if self == GUID_MAX:
            return "is all ones (unassigned)"
        if self >> 56 == 0xFF:
            return "starts with ff, as multicast GIDs do"
        return ""

    def __str__(self) -> str:
        """Return eight pairs with colons: the form that iproute2 and OFED's sysfs files accept."""
        return self.to_bytes(8, "big").hex(":")

    def __repr__(self) -> str:
        return f"Guid({self})"


class PciAddress(str):
    """A full PCI address in the kernel's own form, dddd:bb:dd.f."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> PciAddress:
        """Return the address in lower case, without superfluous zeros in the domain.

        Raises ValueError for anything else, such as a path.
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
            raise ValueError(f"{text!r} is not {PCI_FORM}")
        # A domain has four digits unless it needs more (pci_setup_device: %04x).
        return cls(f"{int(parts[0], 16):04x}{text[widths[0] :].lower()}")


# What a PCI function is.
VIRTUAL = "virtual"  # a VF, whose PF is on this machine
LONE = "lone"  # a VF without a PF here: in a virtual machine, which may also have a whole HCA without SR-IOV
PHYSICAL = "physical"  # a PF, or on hardware a network controller without SR-IOV
OTHER = "other"  # not a network controller


class VfFunction(Value):
    """A VF and its PF in sysfs' PCI tree (Documentation/PCI/pci-iov-howto.rst), or a function that has no PF."""

    pci: PciAddress
    pf: PciAddress | None  # None only if `kind` is not VIRTUAL
    index: int  # N of the PF's virtfnN; -1 without a PF
    driver: str  # "" when unbound
    pf_driver: str
    pf_netdev: str  # "" if the PF has none in this namespace
    pf_index: int = 0  # ifindex of `pf_netdev`, which survives a rename; 0 if there is none
    kind: str = VIRTUAL

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{'PF' if self.kind == PHYSICAL else 'VF'} {self.pci}"


def render_bind_commands(pci: str, driver: str) -> str:
    """Return the commands that bind a VF to its driver; driver_override lets them pass where autoprobe is off."""
    devices = f"/sys/bus/pci/devices/{pci}"
    return f"echo {driver} > {devices}/driver_override; echo {pci} > /sys/bus/pci/drivers_probe"


class VfConfig(Value):
    """A VF's settings as its PF reports them: what was last set, which need not be what the VF has.

    What the PF does not report is unknown, and neither zero nor a difference from anything: no GUIDs before Linux 5.6
    without OFED's files, nothing at all where the PF leaves the VF out of its list (mlx4, hosts of a DPU, a VF whose
    policy mlx5 cannot translate).
    """

    node_guid: Guid | None = None
    port_guid: Guid | None = None
    link_state: str = ""  # a key of LINK_STATES; "" if the PF does not report it


class RdmaDevice(Value):
    """An RDMA device as sysfs shows it, in whatever namespace it is."""

    name: str
    char_devices: tuple[str, ...]  # its files in /dev/infiniband: uverbsN, umadN, issmN, as far as there are any
    node_guid: Guid | None  # None if it cannot be read (device in another namespace)
    port_guid: Guid | None


class Port(Value):
    """An RDMA device's port in sysfs; a text that sysfs does not have is empty."""

    state: str  # DOWN, INIT, ARMED, ACTIVE …
    physical: str  # Disabled, Polling, LinkUp …
    rate: str  # "200 Gb/sec (4X HDR)"
    link_layer: str  # InfiniBand, Ethernet
    lid: int
    sm_lid: int


class Link(Value):
    """A netdev. `pci` is empty on kernels before 5.14, which do not report the parent device."""

    index: int
    name: str
    kind: int  # ARPHRD_*
    flags: int
    mtu: int
    address: bytes
    operstate: str
    pci: str
    altnames: tuple[str, ...]
    lower: int = 0  # a P_Key child's parent (ifindex in the parent's namespace); 0 if it is not a child
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
        """The last eight bytes of an IPoIB hardware address, which stay the same when the netdev is made anew."""
        if self.kind != ARPHRD_INFINIBAND or len(self.address) != 20:
            return None
        return Guid.from_bytes(self.address[12:], "big")


MAIN_TABLE = 254  # RT_TABLE_MAIN
OWN_PROTOCOL = 4  # RTPROT_STATIC marks our routes; CNI plugins in Go leave 3 (RTPROT_BOOT)


class PodRoute(Value):
    """One path of a route that a network namespace has, with the ifindex of its link."""

    route: Route
    index: int
    protocol: int


class PortReport(Value):
    """What libibverbs reports about an open device and its first port."""

    device: str
    node_guid: Guid
    port_guid: Guid
    link_layer: str  # InfiniBand, Ethernet or a number
    state: str  # DOWN, INIT, ARMED, ACTIVE …
    lid: int
    sm_lid: int
    pkeys: tuple[int, ...] = ()


def normalize_pkey(number: int) -> int:
    """Return the P_Key without the membership bit (0x8000), as full and limited members of a partition share it."""
    return number & 0x7FFF


def is_pass_through(driver: str) -> bool:
    """Return whether a driver passes its function through to a virtual machine or a user-space driver.

    Such a function has no netdev and no RDMA device, and is never rebound by us. VFIO has a driver for all devices
    (vfio-pci) and others for some (mlx5_vfio_pci, which can migrate a virtual machine), with vfio in their names.
    """
    return "vfio" in driver or driver in {"pci-stub", "uio_pci_generic", "igb_uio", "pciback"}
