"""What is known about a node, as values; `None` for a topic that could not be read. No I/O."""

from __future__ import annotations

from ib_sriov_cni.core.values import PciAddress
from ipam.protocol.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ib_sriov_cni.core.record import AttachmentKey
    from ib_sriov_cni.core.values import Guid, PortReport, VfConfig


DEFAULT_CNI_PATH = "/opt/cni/bin"
LOCK_FOLDER = "/run/ib-sriov"
PLUGIN = "ib-sriov"  # the `type` in a configuration, and the name of the program
RUNTIME_FOLDER, MULTUS_FOLDER = "/etc/cni/net.d", "/etc/cni/multus/net.d"
MULTUS_PROGRAMS = ("multus", "multus-shim")  # thin Multus, and the shim that calls the daemon of thick Multus


class Roots(Value):
    """Where the node's trees are. `root` is prepended to every other path (a node's file system mounted at /host)."""

    root: str = ""
    sysfs: str = "/sys"
    proc: str = "/proc"

    def path(self, path: str) -> str:
        """Return where this process finds a path of the node."""
        return f"{self.root}{path}"


class Options(Value):
    """What the command line asks for."""

    cni_path: tuple[str, ...] = (DEFAULT_CNI_PATH,)
    config_files: tuple[str, ...] = ()  # --config: NetworkAttachmentDefinitions or CNI configurations
    seconds: float = 5.0  # for each of the two stages of reading
    # Returns a warning for each unknown key of a configuration; the command line has the table of keys.
    describe_unknown_keys: Callable[[dict[str, object]], list[str]] | None = None


# ---- the HCA, from sysfs, without queries to its firmware


class Netdev(Value):
    """A function's IPoIB netdev in the host's namespace."""

    name: str
    up: bool
    carrier: bool  # IPoIB has one once it has joined its broadcast group


class HcaVf(Value):
    """A VF of an HCA. Its RDMA device may be in a pod: then its GUIDs are None."""

    pci: PciAddress
    index: int
    driver: str
    override: str  # the only driver that may bind it, "" for any
    netdev: Netdev | None
    rdma: str
    rdma_here: bool  # in the host's namespace
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
    autoprobe: bool  # new VFs are bound to their driver
    ofed: bool  # its VFs are configured through OFED's files
    vfs: tuple[HcaVf, ...]

    @property
    def label(self) -> str:
        """What messages call it."""
        if not self.pci:
            return "VFs without a PF"
        return f"PF {self.netdev.name} ({self.pci})" if self.netdev else f"PF {self.pci}"


class HcaFacts(Value):
    """HCAs, and the kernel's RDMA subsystem."""

    hcas: tuple[Hca, ...]
    ethernet: tuple[str, ...]  # RDMA devices that are Ethernet (RoCE)
    modules: frozenset[str]
    rdma_mode: str  # "shared" or "exclusive"; "" without ib_core
    verbs_nodes: tuple[str, ...]  # uverbs devices without a node in /dev/infiniband
    lone: tuple[HcaVf, ...] = ()  # VFs without a PF on this machine

    @property
    def groups(self) -> tuple[Hca, ...]:
        """The HCAs with their VFs, and the VFs without a PF as those of an HCA of which nothing is known."""
        if not self.lone:
            return self.hcas
        unknown = Hca(
            pci=PciAddress(""),
            device="",
            driver="",
            link_layer="",
            rdma="",
            umad="",
            firmware="",
            board="",
            node_guid=None,
            port_guid=None,
            netdev=None,
            total_vfs=None,
            num_vfs=len(self.lone),
            autoprobe=True,
            ofed=False,
            vfs=self.lone,
        )
        return (*self.hcas, unknown)


# ---- what firmware and fabric say


class PortFacts(Value):
    """Port 1 of an RDMA device."""

    state: str  # "ACTIVE", "DOWN", "INIT" ..., "" if it reports none
    physical: str  # "LinkUp", "Polling", "Disabled" ...
    lid: int
    sm_lid: int
    sm_sl: int
    pkeys: tuple[int, ...]  # the table by index, 0 for an empty entry; () if it was not read

    @property
    def is_active(self) -> bool:
        """Whether the port can carry traffic."""
        return self.state == "ACTIVE"


class SmAnswer(Value):
    """The result of a query to the subnet administrator."""

    fault: str  # "" if it answered
    asked: bool  # False: the query could not be sent (rights, ib_umad)


# ---- configurations


class Network(Value):
    """A network configuration of type ib-sriov."""

    origin: str  # its file, or the record that contains it
    name: str
    faults: tuple[str, ...]
    unknown: tuple[str, ...] = ()  # a warning for each unknown key, and for values that mean nothing
    isolation: bool = False
    link_state: str = ""
    pkey: int | None = None
    ipam_type: str = ""
    ib_kubernetes: bool = False
    log_file: str = ""
    state_dir: str = ""
    data_dir: str = ""  # of host-local's leases
    guid: str = ""  # set in the configuration itself: every pod would get the same one


class Pool(Value):
    """A range set of host-local, as far as this node allocates from it."""

    network: str
    ranges: str
    size: int
    used: int
    exhausted: bool


class BrokenFile(Value):
    """A configuration file that cannot be parsed."""

    path: str
    reason: str
    ours: bool  # it mentions ib-sriov, or was passed with --config


class ConfigFacts(Value):
    """The configurations on this node and those passed with --config."""

    networks: tuple[Network, ...]
    broken: tuple[BrokenFile, ...]
    unread: tuple[str, ...]  # files and folders that only root can read
    files: tuple[str, ...]  # in /etc/cni/net.d, in the order in which runtimes read them
    multus: tuple[tuple[str, dict[str, object]], ...]  # path and content of Multus's own configurations
    multus_missing: tuple[str, ...]  # kubeconfigs that these name and that do not exist
    pools: tuple[Pool, ...]
    slice_faults: tuple[tuple[str, str], ...]  # message and hint
    slices: tuple[str, ...]  # this node's slices, in words


# ---- what the plugin keeps


class Lease(Value):
    """A lease of host-local in a network of this plugin."""

    network: str
    address: str
    path: str
    container_id: str
    ifname: str


class RecordFacts(Value):
    """A record, and whether its attachment is alive."""

    key: AttachmentKey
    pci: str
    pod: str
    since: float
    guid: Guid
    alive: bool
    busy: bool  # its VF's lock is held: a call is in progress
    this_boot: bool  # the attachment was made since the last boot
    vf_exists: bool

    @property
    def label(self) -> str:
        """What messages call it: the pod, or the container."""
        return self.pod or f"container {self.key.container_id[:12]}"


class Folder(Value):
    """A folder that the plugin writes to."""

    path: str
    exists: bool
    writable: bool
    reason: str  # why not
    mode: int
    uid: int
    free_bytes: int
    free_files: int
    private: bool = False  # process 1 sees another folder there: we are in a container that does not share it


class HeldLock(Value):
    """A VF's lock that is held at the moment."""

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
    locks_unread: str = ""  # why the locks could not be read, or not all of them


# ---- the node


class ProgramFacts(Value):
    """An executable in CNI_PATH."""

    path: str
    executable: bool
    kind: str  # "ours", "go", "unknown"
    version: str
    fault: str
    slow: str = ""  # that it did not answer in time


class DevicePlugin(Value):
    """What kubelet's device manager knows about device plugins."""

    kubelet: bool
    sockets: tuple[str, ...]
    resources: tuple[tuple[str, tuple[str, ...]], ...] | None  # name, devices; None if not read
    devinfo: tuple[tuple[str, str, str], ...]  # file, and the PCI address and RDMA device it names
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
    """All topics; `unread` has the reason for each topic that is None."""

    hca: HcaFacts | None = None
    ports: dict[str, PortFacts] | None = None  # by RDMA device
    vf_configs: dict[str, dict[int, VfConfig]] | None = None  # by PF and VF index
    sm: dict[str, SmAnswer] | None = None  # by PF's RDMA device
    verbs: dict[str, PortReport | str] | None = None  # by RDMA device; a str is why it could not be opened
    config: ConfigFacts | None = None
    state: StateFacts | None = None
    node: NodeFacts | None = None
    unread: dict[str, str] = {}  # noqa: RUF012  # topic to reason
    hung: tuple[str, ...] = ()  # topics that did not answer in time
    seconds: float = 5.0
    own_version: str = ""
