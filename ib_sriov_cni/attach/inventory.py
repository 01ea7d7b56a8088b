"""What there is on this node: PFs, VFs, and who holds which. Read and nothing else, so anybody may ask at any time.

No lock is taken: what is read may change under the reader's eyes, and whoever acts upon it looks again under the VF's
lock. What cannot be read, for want of rights mostly, is named in `unseen` and never guessed.
"""

from __future__ import annotations

from ib_sriov_cni.attach.check import record_differences
from ib_sriov_cni.attach.release import open_sandbox, why_dead
from ib_sriov_cni.attach.vf import pod_of
from ib_sriov_cni.errors import CniError
from ib_sriov_cni.model import Guid, PciAddress, VfConfig, VfFunction
from ib_sriov_cni.plan import PASS_THROUGH_DRIVERS, Difference
from ipam.value import Value, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.host import Host
    from ib_sriov_cni.model import Link, Port
    from ib_sriov_cni.records import Key, Record

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
    def key(self) -> Key:
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
    key: Key | None  # of the attachment whose record it was, where the name tells
    pci: PciAddress | None  # the VF whose owner that attachment still is


class Foreign(Value):
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
    foreign: tuple[Foreign, ...]
    mode: str  # RDMA namespace mode; "" where it could not be asked
    unseen: tuple[str, ...]
    blind: str = ""  # why the records could not be read, which is the first of `unseen` then

    @property
    def vfs(self) -> list[VfEntry]:
        """The VFs of all PFs."""
        return [vf for pf in self.pfs for vf in pf.vfs]


def read_inventory(host: Host) -> Inventory:
    """Read what there is. Raises nothing for what is missing: that is in `unseen`."""
    reader = _Reader(host)
    attachments = reader.read_attachments()
    foreign = reader.read_foreign()
    pfs = [reader.read_pf(pf, attachments, foreign) for pf in host.sysfs.read_pfs()]
    return Inventory(
        # The same HCAs speak Ethernet (RoCE); those VFs are other plugins' business.
        pfs=tuple([pf for pf in pfs if pf.port is None or pf.port.link_layer != "Ethernet"]),
        attachments=tuple(attachments),
        damaged=tuple(reader.read_damaged()),
        foreign=tuple(foreign),
        mode=reader.read_mode(),
        unseen=tuple(dict.fromkeys(reader.unseen)),
        blind=reader.blind,
    )


def read_attachment(host: Host, record: Record) -> Attachment:
    """Give a record with what became of it. Raises StateFailure (106) if the VF's lock cannot be seen."""
    try:
        why = why_dead(host, record)
        alive: bool | None = not why
    except CniError as fault:
        alive, why = None, str(fault)
    return Attachment(
        record=record,
        alive=alive,
        why=why,
        busy=host.locks.read_holder(record.pci),
        owner=host.records.read_owner(record.pci) == record.key,
    )


class _Reader:
    """Reads one thing after the other and notes what it could not."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.unseen: list[str] = []
        self.blind = host.leftovers.why_unreadable()
        if self.blind:
            self.unseen.append(f"the records ({self.blind}): who holds which VF")
        self.damaged_records: list[Damaged] = []

    def read_mode(self) -> str:
        try:
            return self.host.rdma.read_mode()
        except CniError as fault:
            self.unseen.append(f"the RDMA namespace mode: {fault.msg}")
            return ""

    def read_attachments(self) -> list[Attachment]:
        found = []
        for key in self.host.records.read_keys():
            try:
                record = self.host.records.inspect(key)
                if record is not None:
                    found.append(read_attachment(self.host, record))
            except ValueError as fault:
                path = self.host.records.file_of(key)
                words = f"the record cannot be understood ({fault})"
                self.damaged_records.append(
                    Damaged(path=path, since=0.0, words=words, key=key, pci=self._owned_by(key))
                )
            except CniError as fault:
                self.unseen.append(str(fault))
        return found

    def _owned_by(self, key: Key | None) -> PciAddress | None:
        return next((PciAddress(pci) for pci, owner in self.host.records.read_owners() if owner == key), None)

    def read_damaged(self) -> list[Damaged]:
        found = list(self.damaged_records)
        for path, since in self.host.leftovers.read():
            key = self.host.leftovers.key_of(path)
            half = path.endswith(".new")
            words = "a write that was killed left it" if half else "a record that could not be understood, set aside"
            found.append(Damaged(path=path, since=since, words=words, key=key, pci=self._owned_by(key)))
        return found

    def read_foreign(self) -> list[Foreign]:
        found = []
        for path, understood, since in self.host.leftovers.read_foreign():
            doc = understood or {}
            name = path.rpartition("/")[2]
            ifname = doc.get("ContIFNames")
            ifname = ifname if isinstance(ifname, str) else ""
            # <containerID>-<ifname>, and either may have a hyphen: the record says where the second one begins.
            cut = -len(ifname) - 1 if ifname and name.endswith(f"-{ifname}") else name.rfind("-")
            found.append(
                Foreign(
                    path=path,
                    since=since,
                    pci=_pci(doc.get("deviceID")),
                    network=str(doc.get("name") or ""),
                    container_id=name[:cut],
                    ifname=ifname or name[cut + 1 :],
                )
            )
        return found

    def read_pf(self, pci: PciAddress, attachments: list[Attachment], foreign: list[Foreign]) -> PfEntry:
        sysfs = self.host.sysfs
        rdma, netdev = sysfs.read_rdma(pci), sysfs.read_netdev(pci)
        link: Link | None = None
        configs: dict[int, VfConfig] = {}
        functions = [self._function(vf) for vf in sysfs.read_vfs(pci)]
        if netdev:
            pf = VfFunction(pci=pci, pf=pci, index=-1, driver="", pf_driver="", pf_netdev=netdev)
            try:
                link, configs = self.host.vf_configs.read(pf)
            except CniError as fault:
                self.unseen.append(fault.msg)
        vfs = [self._vf(function, configs, attachments, foreign) for function in functions if function]
        return PfEntry(
            pci=pci,
            driver=sysfs.read_driver(pci),
            netdev=netdev,
            link=link,
            rdma=rdma.name if rdma else "",
            node_guid=rdma.node_guid if rdma else None,
            port_guid=rdma.port_guid if rdma else None,
            port=sysfs.read_port(rdma.name) if rdma else None,
            total_vfs=sysfs.read_counts(pci)[1],
            vfs=tuple(vfs),
            num_vfs=len(functions),
        )

    def _function(self, pci: PciAddress) -> VfFunction | None:
        try:
            return self.host.sysfs.read_function(pci)
        except CniError:
            return None  # going just now

    def _vf(
        self,
        function: VfFunction,
        configs: dict[int, VfConfig],
        attachments: list[Attachment],
        foreign: list[Foreign],
    ) -> VfEntry:
        pci = function.pci
        rdma = self.host.sysfs.read_rdma(pci)
        entry = VfEntry(
            function=function,
            netdev=self.host.sysfs.read_netdev(pci),
            rdma=rdma.name if rdma else "",
            rdma_here=rdma is not None and rdma.node_guid is not None,
            node_guid=rdma.node_guid if rdma else None,
            port_guid=rdma.port_guid if rdma else None,
            config=configs.get(function.index),
            state=UNKNOWN,
            attachment=_holder(pci, attachments),
            note="",
        )
        state, note = self._state(entry, foreign)
        return replace(entry, state=state, note=note)

    def _state(self, vf: VfEntry, foreign: list[Foreign]) -> tuple[str, str]:
        """Give a VF's state, and what else there is to say of it."""
        held, busy = vf.attachment, ""
        if not self.blind:
            try:
                busy = self.host.locks.read_holder(vf.pci)
            except CniError as fault:
                self.unseen.append(str(fault))
        if held is not None and held.alive is not False:
            return (IN_USE, "") if held.alive else (UNKNOWN, held.why)
        if busy:
            return BUSY, busy
        if held is not None and held.owner:
            return LEFTOVER, f"{pod_of(held.record)}: {held.why}"
        owner = self.host.records.read_owner(vf.pci)
        if owner is not None and _is_home(vf):
            return LEFTOVER, f"its owner {owner.path} has no record"
        return self._state_by_devices(vf, foreign)

    def _state_by_devices(self, vf: VfEntry, foreign: list[Foreign]) -> tuple[str, str]:
        """Give the state of a VF that no record of ours explains."""
        if not vf.function.driver:
            return UNBOUND, ""
        if vf.function.driver in PASS_THROUGH_DRIVERS or _is_home(vf):
            return FREE, ""
        theirs = next((record for record in foreign if record.pci == vf.pci), None)
        if theirs is not None:
            return FOREIGN, f"container {theirs.container_id} ({theirs.ifname}), attached by the Go plugin"
        if not vf.rdma:
            return NO_RDMA, ""
        if self.blind:
            return UNKNOWN, ""
        if not vf.rdma_here:
            return UNMANAGED, ""
        return NO_NETDEV, ""


def _is_home(vf: VfEntry) -> bool:
    return bool(vf.netdev) and vf.rdma_here


def _holder(pci: PciAddress, attachments: list[Attachment]) -> Attachment | None:
    """Give the attachment that has the VF: a living one before an owner, an owner before what merely names it."""
    candidates = [held for held in attachments if held.record.pci == pci]
    return max(candidates, key=lambda held: (held.alive is True, held.owner, held.record.since), default=None)


def _pci(found: object) -> PciAddress | None:
    try:
        return PciAddress.parse(found) if isinstance(found, str) else None
    except ValueError:
        return None


# ---- one attachment, from near


class Live(Value):
    """What the kernel has of an attachment now."""

    link: Link | None  # in the pod, under whatever name
    addresses: tuple[str, ...]
    routes: tuple[str, ...]  # "10.0.0.0/8 via 10.1.2.1"
    rdma: str
    rdma_in_pod: bool
    driver: str
    config: VfConfig | None


def read_live(host: Host, record: Record) -> Live:
    """Read what the pod and the PF have of it. Raises KernelRefused (102) without the right to enter the pod."""
    rdma = host.sysfs.read_rdma(record.pci)
    config, driver = None, ""
    if host.sysfs.exists(record.pci):
        try:
            function = host.sysfs.read_function(record.pci)
            driver = function.driver
            config = host.vf_configs.read(function)[1].get(function.index)
        except CniError:
            pass  # its PF has no netdev; the differences say so
    live = Live(
        link=None,
        addresses=(),
        routes=(),
        rdma=rdma.name if rdma else "",
        rdma_in_pod=record.rdma_isolation and rdma is not None and rdma.node_guid is None,
        driver=driver,
        config=config,
    )
    netns = open_sandbox(record)
    if netns is None:
        return live
    with netns:
        pod = host.open_rtnl(netns)
        try:
            link = pod.read_link(record.key.ifname) or pod.find_link(record.pci)
            if link is None:
                return live
            routes = [f"{route.dst} via {route.gw}" if route.gw else route.dst for route in pod.read_routes(link)]
            return replace(live, link=link, addresses=tuple(pod.read_addresses(link)), routes=tuple(routes))
        finally:
            pod.close()


def differences(host: Host, attachment: Attachment) -> list[Difference]:
    """Give what is not as the record has it; of a dead attachment that it is dead."""
    if attachment.alive is False:
        return [Difference("dead", attachment.why)]
    return record_differences(host, attachment.record)
