"""The values of an inventory: PFs, VFs, and which attachment holds which VF. node/read_inventory.py reads them.

They are read without a lock, so they may be outdated at once; whoever acts on them reads again under the VF's lock.
What could not be read, mostly for lack of rights, is listed in `unseen` and never guessed.
"""

from __future__ import annotations

from ib_sriov_cni.attach.check import read_config
from ib_sriov_cni.node.contain import NAME_BYTES
from ipam.protocol.bounds import shorten
from ipam.protocol.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.errors import CniError
    from ib_sriov_cni.core.record import AttachmentKey, Record
    from ib_sriov_cni.core.values import Guid, Link, PciAddress, Port, VfConfig, VfFunction

# States of a VF, in the order of a summary.
FREE, IN_USE, BUSY = "free", "in use", "busy"
LEFTOVER, UNBOUND, NO_NETDEV, NO_RDMA, FOREIGN, UNMANAGED, UNKNOWN = (
    *("leftover", "unbound", "no netdev", "no RDMA device", "foreign", "unmanaged", "unknown"),
)
STATES = {
    FREE: "in the host's namespace with its devices; can be given to a pod",
    IN_USE: "a pod has it, and its attachment is alive",
    BUSY: "an ADD, a DEL or a repair is in progress",
    LEFTOVER: "its attachment is dead: the next ADD, gc or repair releases it",
    UNBOUND: "has no driver",
    NO_NETDEV: "bound, but without a netdev in the host's namespace: ib_ipoib is missing, or it was moved away",
    NO_RDMA: "bound, but without an RDMA device",
    FOREIGN: "attached by the Go plugin, according to its record",
    UNMANAGED: "its devices are in another namespace, and no record says whose it is",
    UNKNOWN: "cannot be decided from here: run as root, and where the namespaces of pods can be seen",
}


ADDRESS_MAX = 64  # characters; IPv6 with an embedded IPv4 address and a prefix length has 49


class Attachment(Value):
    """A record, and whether its attachment is alive."""

    record: Record
    alive: bool | None  # None: could not be read, or nothing proves it
    why: str  # why it is not alive, or why that could not be read
    busy: str  # who holds the VF's lock; "": nobody
    owner: bool  # whether it owns the VF

    @property
    def key(self) -> AttachmentKey:
        """Its key."""
        return self.record.key

    @property
    def name(self) -> str:
        """Its name for people: namespace/name of the pod, or the container ID."""
        return shorten(self.record.pod or self.record.key.container_id, NAME_BYTES)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its IP addresses with prefix lengths, from its result."""
        ips = self.record.result.get("ips")
        texts = [ip.get("address") for ip in ips if isinstance(ip, dict)] if isinstance(ips, list) else []
        return tuple([text for text in texts if isinstance(text, str) and len(text) <= ADDRESS_MAX])

    @property
    def state(self) -> str:
        """Return "alive", "dead", "busy" or "unknown"."""
        if self.alive is None:
            return UNKNOWN
        return "alive" if self.alive else BUSY if self.busy else "dead"


class VfEntry(Value):
    """A VF as it is now."""

    function: VfFunction
    netdev: str  # in the host's namespace, "" if it has none there
    rdma: str  # its RDMA device, in whatever namespace; "" if it has none
    rdma_here: bool  # whether that is in the host's namespace
    node_guid: Guid | None  # the VF's own; None if it cannot be read from the host
    port_guid: Guid | None
    config: VfConfig | None  # its settings on the PF; None if they cannot be read
    state: str  # one of STATES
    attachment: Attachment | None  # that holds it, or did
    note: str  # details of its state

    @property
    def pci(self) -> PciAddress:
        """Its PCI address."""
        return self.function.pci


class PfEntry(Value):
    """A PF and its VFs, or the VFs without a PF here."""

    pci: PciAddress | None  # None for the VFs without a PF
    driver: str
    netdev: str
    link: Link | None
    rdma: str
    node_guid: Guid | None
    port_guid: Guid | None
    port: Port | None
    total_vfs: int  # how many VFs it can have (sriov_totalvfs)
    vfs: tuple[VfEntry, ...]
    num_vfs: int = 0  # how many it has; `vfs` may be a selection
    refusal: CniError | None = None  # why its settings of its VFs could not be read


class Damaged(Value):
    """A file in the state directory that is not a readable record."""

    path: str
    since: float  # Unix time it was last written
    words: str  # what is wrong with it
    key: AttachmentKey | None  # of its attachment, if the file's name says which
    pci: PciAddress | None  # the VF that this attachment still owns


class GoRecord(Value):
    """A record of the Go plugin (N6)."""

    path: str
    since: float
    pci: PciAddress | None
    network: str
    container_id: str
    ifname: str


class Inventory(Value):
    """Everything that was read."""

    pfs: tuple[PfEntry, ...]
    attachments: tuple[Attachment, ...]
    damaged: tuple[Damaged, ...]
    foreign: tuple[GoRecord, ...]
    mode: str  # RDMA namespace mode; "" if it could not be read
    unseen: tuple[str, ...]  # what could not be read, and why
    unreadable_records: str = ""  # why the records could not be read; this is then also the first of `unseen`

    @property
    def vfs(self) -> list[VfEntry]:
        """The VFs of all PFs."""
        return [vf for pf in self.pfs for vf in pf.vfs]

    def read_config(self, host: Host, function: VfFunction) -> VfConfig | None:
        """Return the PF's settings of a VF as they were read, or read them if they were not; as attach/check.py does.

        For each read the kernel asks the firmware about every VF of the PF, so a pass over many VFs reads them once.
        """
        for pf in self.pfs:
            if pf.pci is not None and pf.pci == function.pf and pf.refusal is not None:
                raise pf.refusal
            if pf.pci is not None and pf.pci == function.pf and pf.link is not None:
                return next((vf.config for vf in pf.vfs if vf.pci == function.pci), None)
        return read_config(host, function)
