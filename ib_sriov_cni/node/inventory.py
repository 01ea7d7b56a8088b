"""What there is on this node: PFs, VFs, and who holds which. Read and nothing else, so anybody may ask at any time.

No lock is taken: what is read may change under the reader's eyes, and whoever acts upon it looks again under the VF's
lock. What cannot be read, for want of rights mostly, is named in `unseen` and never guessed.
"""

from __future__ import annotations

from ipam.protocol.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.core.record import AttachmentKey, Record
    from ib_sriov_cni.core.values import Guid, Link, PciAddress, Port, VfConfig, VfFunction

# What a VF is doing. The order is that of a summary.
FREE, IN_USE, BUSY = "free", "in use", "busy"
LEFTOVER, UNBOUND, NO_NETDEV, NO_RDMA, FOREIGN, UNMANAGED, UNKNOWN = (
    *("leftover", "unbound", "no netdev", "no RDMA device", "foreign", "unmanaged", "unknown"),
)
STATES = {
    FREE: "at home with its devices, can be given to a pod",
    IN_USE: "a pod has it, and its attachment is alive",
    BUSY: "an ADD, a DEL or a repair is at work on it",
    LEFTOVER: "what owned it is dead: the next ADD, gc or repair releases it",
    UNBOUND: "has no driver",
    NO_NETDEV: "bound, but without netdev in the host's namespace: ib_ipoib is missing, or it was moved away",
    NO_RDMA: "bound, but without RDMA device",
    FOREIGN: "the Go plugin's record has it",
    UNMANAGED: "its devices are in another namespace, and no record tells whose",
    UNKNOWN: "could not be seen: run as root",
}


class Attachment(Value):
    """A record and what became of it."""

    record: Record
    alive: bool | None  # None: could not be seen
    why: str  # why it is not alive, or why that could not be seen
    busy: str  # who holds the VF's lock; "" nobody
    owner: bool  # whether the VF is its

    @property
    def key(self) -> AttachmentKey:
        """What names it."""
        return self.record.key

    @property
    def name(self) -> str:
        """What people call it: the pod, or the container."""
        return self.record.pod or self.record.key.container_id

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its addresses with their prefix lengths."""
        ips = self.record.result.get("ips")
        return tuple([str(ip.get("address")) for ip in ips if isinstance(ip, dict)]) if isinstance(ips, list) else ()

    @property
    def state(self) -> str:
        """One word for it: alive, dead, busy or unknown."""
        if self.alive is None:
            return UNKNOWN
        return "alive" if self.alive else BUSY if self.busy else "dead"


class VfEntry(Value):
    """A VF as it is."""

    function: VfFunction
    netdev: str  # in the host's namespace, "" if it has none there
    rdma: str  # wherever it is
    rdma_here: bool
    node_guid: Guid | None  # the VF's own; None where it cannot be asked from here
    port_guid: Guid | None
    config: VfConfig | None  # what the PF says; None where it does not
    state: str  # one of STATES
    attachment: Attachment | None  # that holds it, or held it
    note: str  # what else there is to say of its state

    @property
    def pci(self) -> PciAddress:
        """Its PCI address."""
        return self.function.pci


class PfEntry(Value):
    """A PF and its VFs."""

    pci: PciAddress
    driver: str
    netdev: str
    link: Link | None
    rdma: str
    node_guid: Guid | None
    port_guid: Guid | None
    port: Port | None
    total_vfs: int  # as many as it can have
    vfs: tuple[VfEntry, ...]
    num_vfs: int = 0  # as many as it has, of which `vfs` may be a choice


class Damaged(Value):
    """A file in the state directory that tells nothing."""

    path: str
    since: float  # Unix time it was last written
    words: str
    key: AttachmentKey | None  # of the attachment whose record it was, where the name tells
    pci: PciAddress | None  # the VF whose owner that attachment still is


class GoRecord(Value):
    """A record of the Go plugin (N6)."""

    path: str
    since: float
    pci: PciAddress | None
    network: str
    container_id: str
    ifname: str


class Inventory(Value):
    """All of it."""

    pfs: tuple[PfEntry, ...]
    attachments: tuple[Attachment, ...]
    damaged: tuple[Damaged, ...]
    foreign: tuple[GoRecord, ...]
    mode: str  # RDMA namespace mode; "" where it could not be asked
    unseen: tuple[str, ...]
    unreadable_records: str = ""  # why the records could not be read, which is the first of `unseen` then

    @property
    def vfs(self) -> list[VfEntry]:
        """The VFs of all PFs."""
        return [vf for pf in self.pfs for vf in pf.vfs]
