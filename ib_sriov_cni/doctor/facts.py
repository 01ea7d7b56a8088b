"""What is known of a node, as values; `None` for a topic that could not be read. No I/O."""

from __future__ import annotations

from ipam.protocol.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ib_sriov_cni.core.record import AttachmentKey
    from ib_sriov_cni.core.values import Guid, PciAddress, PortReport, VfConfig


class Roots(Value):
    """Where the node's trees are. `root` goes before every other path (a node's file system mounted at /host)."""

    root: str = ""
    sysfs: str = "/sys"
    proc: str = "/proc"

    def path(self, path: str) -> str:
        """Give where a path of the node is found from here."""
        return f"{self.root}{path}"


class Options(Value):
    """What the doctor was asked."""

    cni_path: tuple[str, ...] = ("/opt/cni/bin",)
    config_files: tuple[str, ...] = ()  # given by hand: NetworkAttachmentDefinitions or CNI configurations
    seconds: float = 5.0  # for each of the two rounds of reading
    # What is to be said of a configuration's keys that nobody reads; the command line has the table of keys.
    unknown_keys: Callable[[dict[str, object]], list[str]] | None = None


# ---- the HCA, from sysfs, without asking its firmware


class Netdev(Value):
    """A function's IPoIB netdev in the host's namespace."""

    name: str
    up: bool
    carrier: bool  # IPoIB has one when it has joined its broadcast group


class VfFacts(Value):
    """A VF. Its RDMA device may be in a pod: then its GUIDs are unknown."""

    pci: PciAddress
    index: int
    driver: str
    override: str  # the one driver that may have it, "" for any
    netdev: Netdev | None
    rdma: str
    rdma_here: bool
    node_guid: Guid | None
    port_guid: Guid | None


class Hca(Value):
    """A physical function that is, or may be, an InfiniBand HCA."""

    pci: PciAddress
    device: str  # "15b3:101b"
    driver: str
    link_layer: str  # "InfiniBand", "Ethernet", "" without RDMA device
    rdma: str
    umad: str
    firmware: str
    board: str
    node_guid: Guid | None
    port_guid: Guid | None
    netdev: Netdev | None
    total_vfs: int | None  # None: no SR-IOV capability
    num_vfs: int
    autoprobe: bool  # new VFs are given to their driver
    ofed: bool  # its VFs are set by OFED's files
    vfs: tuple[VfFacts, ...]

    @property
    def label(self) -> str:
        """Name it for a message."""
        return f"PF {self.netdev.name} ({self.pci})" if self.netdev else f"PF {self.pci}"


class HcaFacts(Value):
    """Everything on the PCI bus that matters."""

    hcas: tuple[Hca, ...]
    ethernet: tuple[str, ...]  # RDMA devices that are no InfiniBand
    modules: frozenset[str]
    rdma_mode: str  # "shared" or "exclusive"; "" without ib_core
    verbs_nodes: tuple[str, ...]  # uverbs devices that have no node in /dev/infiniband


# ---- what firmware and fabric say


class PortFacts(Value):
    """Port 1 of an RDMA device."""

    state: str  # "ACTIVE", "DOWN", "INIT" ..., "" when it does not say
    physical: str  # "LinkUp", "Polling", "Disabled" ...
    lid: int
    sm_lid: int
    sm_sl: int
    pkeys: tuple[int, ...]  # the table by index, 0 where nothing is set; empty if it was not read


class SmAnswer(Value):
    """What became of a question to the subnet administrator."""

    fault: str  # "" when it answered
    seen: bool  # False: the question could not be asked (rights, ib_umad)


# ---- configurations


class Network(Value):
    """A network configuration of type ib-sriov, wherever it was found."""

    origin: str  # its file, or whose record has it
    name: str
    faults: tuple[str, ...]
    unknown: tuple[str, ...] = ()  # what is to be said of keys that nobody reads
    isolation: bool = False
    link_state: str = ""
    pkey: int | None = None
    ipam_type: str = ""
    ib_kubernetes: bool = False
    log_file: str = ""
    state_dir: str = ""
    data_dir: str = ""  # of host-local's leases
    guid: str = ""  # named in the configuration itself: every pod would get the same one


class Pool(Value):
    """A set of addresses on this node."""

    network: str
    ranges: str
    size: int
    used: int
    exhausted: bool


class BrokenFile(Value):
    """A configuration file that cannot be read as one."""

    path: str
    reason: str
    ours: bool  # it names ib-sriov, or was given by hand


class ConfigFacts(Value):
    """The configurations on this node and those given by hand."""

    networks: tuple[Network, ...]
    broken: tuple[BrokenFile, ...]
    unread: tuple[str, ...]  # without the right to
    given: bool  # some were given by hand
    files: tuple[str, ...]  # in /etc/cni/net.d, in the order in which runtimes look
    multus: tuple[tuple[str, dict[str, object]], ...]  # path and content of Multus's own configurations
    multus_missing: tuple[str, ...]  # files that these name and that are not there
    pools: tuple[Pool, ...]
    slice_faults: tuple[tuple[str, str], ...]  # message and hint
    slices: tuple[str, ...]  # the slices that were found, for people


# ---- what the plugin keeps


class Lease(Value):
    """A lease of host-local in a network of ours."""

    network: str
    address: str
    path: str
    container_id: str
    ifname: str


class RecordFacts(Value):
    """A record, and whether its attachment lives."""

    key: AttachmentKey
    pci: str
    pod: str
    since: float
    guid: Guid
    alive: bool
    busy: bool  # its VF's lock is held: a call is on its way
    this_boot: bool
    vf_there: bool

    @property
    def label(self) -> str:
        """Name it for a message."""
        return self.pod or f"container {self.key.container_id[:12]}"


class Folder(Value):
    """A folder the plugin writes to."""

    path: str
    exists: bool
    writable: bool
    reason: str  # why not
    mode: int
    uid: int
    free_bytes: int
    free_files: int


class HeldLock(Value):
    """A VF's lock that is held now."""

    pci: str
    pid: int
    container_id: str
    ifname: str
    seconds: float


class StateFacts(Value):
    """State directories, records, owners, leases and locks."""

    folders: tuple[Folder, ...]
    readable: bool
    records: tuple[RecordFacts, ...]
    owners: tuple[tuple[str, AttachmentKey], ...]  # PCI address, attachment
    damaged: tuple[str, ...]
    loose: tuple[str, ...]  # files that others can read or write
    go_records: tuple[str, ...]
    leases: tuple[Lease, ...]
    locks: tuple[HeldLock, ...]


# ---- the node


class ProgramFacts(Value):
    """An executable in CNI_PATH."""

    path: str
    executable: bool
    kind: str  # "ours", "go", "unknown"
    version: str
    fault: str


class DevicePlugin(Value):
    """What kubelet's device manager knows."""

    kubelet: bool
    sockets: tuple[str, ...]
    resources: tuple[tuple[str, tuple[str, ...]], ...] | None  # name, devices; None: not read
    devinfo: tuple[tuple[str, str, str], ...]  # file, PCI address, RDMA device named there
    reason: str  # why resources were not read


class NodeFacts(Value):
    """Kernel, programs, kubelet."""

    kernel: tuple[int, int]
    release: str
    root: bool
    plugin: ProgramFacts | None
    programs: frozenset[str]  # names in CNI_PATH
    multus: tuple[str, ...]  # paths of Multus's programs
    multus_socket: bool
    device_plugin: DevicePlugin
    log_folders: tuple[tuple[str, str], ...]  # log file, why it cannot be written


class AllFacts(Value):
    """All topics. `unseen` tells of each topic that is None why."""

    hca: HcaFacts | None = None
    ports: dict[str, PortFacts] | None = None  # by RDMA device
    vf_configs: dict[str, dict[int, VfConfig]] | None = None  # by PF, VF index
    sm: dict[str, SmAnswer] | None = None  # by PF's RDMA device
    verbs: dict[str, PortReport | str] | None = None  # by RDMA device; a text is why it could not be opened
    config: ConfigFacts | None = None
    state: StateFacts | None = None
    node: NodeFacts | None = None
    unseen: dict[str, str] = {}  # noqa: RUF012  # topic to reason
    hung: tuple[str, ...] = ()  # topics that did not answer in time
    seconds: float = 5.0
    own_version: str = ""
