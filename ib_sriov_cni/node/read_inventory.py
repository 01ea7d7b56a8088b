"""Reading the inventory of a node. This changes nothing and takes no lock."""

from __future__ import annotations

from ib_sriov_cni.attach.liveness import HIDDEN, judge
from ib_sriov_cni.core.errors import CniError
from ib_sriov_cni.core.values import PciAddress, VfConfig, VfFunction, is_pass_through
from ib_sriov_cni.node.contain import describe_fault, name_attachment
from ib_sriov_cni.node.inventory import (
    BUSY,
    FOREIGN,
    FREE,
    IN_USE,
    LEFTOVER,
    NO_NETDEV,
    NO_RDMA,
    UNBOUND,
    UNKNOWN,
    UNMANAGED,
    Attachment,
    Damaged,
    GoRecord,
    Inventory,
    PfEntry,
    VfEntry,
)
from ipam.protocol.bounds import LOG_VALUE_BYTES, shorten
from ipam.protocol.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.record import AttachmentKey, Record
    from ib_sriov_cni.core.values import Link, Port, RdmaDevice


def read_inventory(host: Host) -> Inventory:
    """Read everything. What cannot be read is listed in `unseen` instead of raised, whatever the reason is."""
    reader = _Reader(host)
    attachments = reader.read_attachments()
    foreign = reader.read_foreign()
    return Inventory(
        pfs=tuple(reader.read_pfs(attachments, foreign)),
        attachments=tuple(attachments),
        damaged=tuple(reader.read_damaged()),
        foreign=tuple(foreign),
        mode=reader.read_mode(),
        unseen=tuple(dict.fromkeys(reader.unseen)),
        unreadable_records=reader.unreadable_records,
    )


def read_attachment(host: Host, record: Record) -> Attachment | None:
    """Return a record with the state of its attachment; None if it has been released since it was read.

    Raises StateFailure (106) if the VF's lock cannot be read.
    """
    try:
        verdict = judge(host, record)
        alive, why = None if verdict.state == HIDDEN else not verdict.is_over, verdict.why
    except Exception as fault:  # noqa: BLE001  # see node/contain.py
        alive, why = None, describe_fault(fault)
    busy = host.locks.read_holder(record.pci)
    if not alive and not busy:
        # A call that has ended meanwhile, a DEL for example, makes the world differ from a record that is older.
        present = host.records.inspect(record.key)
        if present != record:
            return read_attachment(host, present) if present is not None else None
    return Attachment(
        record=record,
        alive=alive,
        why=shorten(why, LOG_VALUE_BYTES),
        busy=busy,
        owner=host.ownership.read_owner(record.pci) == record.key,
    )


class _Reader:
    """Reads the parts of an inventory, and collects what could not be read."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.unseen: list[str] = []
        self.unread: set[AttachmentKey] = set()  # attachments among `unseen`
        self.unreadable_records = ""
        if why := host.stray_files.why_unreadable():
            self._note_unreadable_records(why)
        self.damaged_records: list[Damaged] = []

    def read_mode(self) -> str:
        try:
            return self.host.rdma.read_mode()
        except CniError as fault:
            self.unseen.append(f"the RDMA namespace mode: {fault.msg}")
        except Exception as fault:  # noqa: BLE001  # see node/contain.py
            self.unseen.append(f"the RDMA namespace mode: {describe_fault(fault)}")
        return ""

    def read_attachments(self) -> list[Attachment]:
        found = [self._read_attachment(key) for key in self._read_keys()]
        return [attachment for attachment in found if attachment is not None]

    def _read_attachment(self, key: AttachmentKey) -> Attachment | None:
        try:
            record = self._inspect(key)
            return read_attachment(self.host, record) if record is not None else None
        except Exception as fault:  # noqa: BLE001  # see node/contain.py
            self.unseen.append(f"attachment {key.path}: {describe_fault(fault)}")
            self.unread.add(key)
        return None

    def _read_keys(self) -> list[AttachmentKey]:
        try:
            return self.host.records.read_keys()
        except Exception as fault:  # noqa: BLE001  # see node/contain.py
            if not self.unreadable_records:
                self._note_unreadable_records(describe_fault(fault))
            return []

    def _note_unreadable_records(self, why: str) -> None:
        self.unreadable_records = why
        self.unseen.insert(0, f"the records ({why}): which pod holds which VF")

    def _inspect(self, key: AttachmentKey) -> Record | None:
        """Return a record. One that is damaged is noted, and None returned."""
        try:
            return self.host.records.inspect(key)
        except ValueError as fault:
            path = self.host.records.file_of(key)
            words = f"the record is damaged ({shorten(str(fault), LOG_VALUE_BYTES)})"
            self.damaged_records.append(Damaged(path=path, since=0.0, words=words, key=key, pci=self._owned_by(key)))
            return None

    def _owned_by(self, key: AttachmentKey | None) -> PciAddress | None:
        return next((PciAddress(pci) for pci, owner in self.host.ownership.read_owners() if owner == key), None)

    def read_damaged(self) -> list[Damaged]:
        found = list(self.damaged_records)
        try:
            found += self._read_stray_files()
        except Exception as fault:  # noqa: BLE001  # see node/contain.py
            self.unseen.append(f"damaged records: {describe_fault(fault)}")
        return found

    def _read_stray_files(self) -> list[Damaged]:
        found = []
        for path, since in self.host.stray_files.read():
            key = self.host.stray_files.key_of(path)
            unfinished = path.endswith(".new")
            words = "left by a process that was killed while writing" if unfinished else "a damaged record"
            found.append(Damaged(path=path, since=since, words=words, key=key, pci=self._owned_by(key)))
        return found

    def read_foreign(self) -> list[GoRecord]:
        try:
            return self._read_foreign()
        except Exception as fault:  # noqa: BLE001  # see node/contain.py
            self.unseen.append(f"records of the Go plugin: {describe_fault(fault)}")
            return []

    def _read_foreign(self) -> list[GoRecord]:
        found = []
        for path, understood, since in self.host.stray_files.read_foreign():
            doc = understood or {}
            name = path.rpartition("/")[2]
            ifname = doc.get("ContIFNames")
            ifname = ifname if isinstance(ifname, str) else ""
            # <containerID>-<ifname>. Both may contain hyphens: the record has the interface's name.
            cut = -len(ifname) - 1 if ifname and name.endswith(f"-{ifname}") else name.rfind("-")
            found.append(
                GoRecord(
                    path=path,
                    since=since,
                    pci=_parse_pci(doc.get("deviceID")),
                    network=str(doc.get("name") or ""),
                    container_id=name[:cut],
                    ifname=ifname or name[cut + 1 :],
                )
            )
        return found

    def read_pfs(self, attachments: list[Attachment], foreign: list[GoRecord]) -> list[PfEntry]:
        found = []
        for pci in self.host.sysfs.read_pfs():
            try:
                rdma = self.host.sysfs.read_rdma(pci)
                port = self.host.sysfs.read_port(rdma.name) if rdma else None
                # A port of an HCA may be set to Ethernet (RoCE); such VFs belong to other plugins.
                if port is None or port.link_layer != "Ethernet":
                    found.append(self._read_pf(pci, rdma, port, attachments, foreign))
            except Exception as fault:  # noqa: BLE001  # see node/contain.py
                self.unseen.append(f"PF {pci}: {describe_fault(fault)}")
        lone = self._read_vfs(self.host.sysfs.read_lone_vfs(), {}, attachments, foreign)
        return [*found, _lone_group(lone)] if lone else found

    def _read_pf(
        self,
        pci: PciAddress,
        rdma: RdmaDevice | None,
        port: Port | None,
        attachments: list[Attachment],
        foreign: list[GoRecord],
    ) -> PfEntry:
        sysfs = self.host.sysfs
        netdev = sysfs.read_netdev(pci)
        link: Link | None = None
        refusal: CniError | None = None
        configs: dict[int, VfConfig] = {}
        vfs = sysfs.read_vfs(pci)
        if netdev:
            pf = VfFunction(pci=pci, pf=pci, index=-1, driver="", pf_driver="", pf_netdev=netdev)
            try:
                link, configs = self.host.vf_configs.read(pf)
            except CniError as fault:
                refusal = fault
                self.unseen.append(fault.msg)
        return PfEntry(
            pci=pci,
            driver=sysfs.read_driver(pci),
            netdev=netdev,
            link=link,
            rdma=rdma.name if rdma else "",
            node_guid=rdma.node_guid if rdma else None,
            port_guid=rdma.port_guid if rdma else None,
            port=port,
            total_vfs=sysfs.read_counts(pci)[1],
            vfs=tuple(self._read_vfs(vfs, configs, attachments, foreign)),
            num_vfs=len(vfs),
            refusal=refusal,
        )

    def _read_vfs(
        self,
        addresses: list[PciAddress],
        configs: dict[int, VfConfig],
        attachments: list[Attachment],
        foreign: list[GoRecord],
    ) -> list[VfEntry]:
        vfs = []
        functions = [self._read_function(pci) for pci in addresses]
        for function in [function for function in functions if function is not None]:
            try:
                vfs.append(self._read_vf(function, configs, attachments, foreign))
            except Exception as fault:  # noqa: BLE001  # see node/contain.py
                self.unseen.append(f"VF {function.pci}: {describe_fault(fault)}")
                vfs.append(_unknown_vf(function, attachments, describe_fault(fault)))
        return vfs

    def _read_function(self, pci: PciAddress) -> VfFunction | None:
        try:
            return self.host.sysfs.read_function(pci)
        except CniError:
            return None  # the VF is just being removed

    def _read_vf(
        self,
        function: VfFunction,
        configs: dict[int, VfConfig],
        attachments: list[Attachment],
        foreign: list[GoRecord],
    ) -> VfEntry:
        pci = function.pci
        rdma = self.host.sysfs.read_rdma(pci)
        netdev = self.host.sysfs.read_netdev(pci)
        self._read_new_owner(pci, attachments)
        entry = VfEntry(
            function=function,
            netdev=netdev,
            rdma=rdma.name if rdma else "",
            rdma_here=rdma is not None and rdma.node_guid is not None,
            node_guid=rdma.node_guid if rdma else None,
            port_guid=rdma.port_guid if rdma else None,
            config=configs.get(function.index),
            state=UNKNOWN,
            attachment=_find_holder(pci, attachments),
            note="",
        )
        state, note = self._state(entry, foreign)
        return replace(entry, state=state, note=note)

    def _read_new_owner(self, pci: PciAddress, attachments: list[Attachment]) -> None:
        """Add the attachment that owns the VF if it was made after the others were read."""
        owner = self.host.ownership.read_owner(pci)
        known = {*self.unread, *[held.key for held in attachments], *[damaged.key for damaged in self.damaged_records]}
        if owner is not None and owner not in known:
            new = self._read_attachment(owner)
            attachments += [new] if new is not None else []

    def _state(self, vf: VfEntry, foreign: list[GoRecord]) -> tuple[str, str]:
        """Return a VF's state, and details of it."""
        held, busy = vf.attachment, ""
        if not self.unreadable_records:
            try:
                busy = self.host.locks.read_holder(vf.pci)
            except CniError as fault:
                self.unseen.append(str(fault))
        if held is not None and held.alive is not False:
            return (IN_USE, "") if held.alive else (UNKNOWN, held.why)
        if busy:
            return BUSY, busy
        if held is not None and held.owner:
            return LEFTOVER, f"{name_attachment(held.record)}: {held.why}"
        owner = self.host.ownership.read_owner(vf.pci)
        if owner in self.unread:
            return UNKNOWN, f"the attachment of its owner {owner.path} cannot be read"
        if owner is not None and _is_in_host_namespace(vf):
            return LEFTOVER, f"its owner {owner.path} has no record"
        return self._state_by_devices(vf, foreign)

    def _state_by_devices(self, vf: VfEntry, foreign: list[GoRecord]) -> tuple[str, str]:
        """Return the state, and details, of a VF for which we have no record."""
        if not vf.function.driver:
            return UNBOUND, ""
        if is_pass_through(vf.function.driver) or _is_in_host_namespace(vf):
            return FREE, ""
        theirs = next((record for record in foreign if record.pci == vf.pci), None)
        if theirs is not None:
            return FOREIGN, f"container {theirs.container_id} ({theirs.ifname}), attached by the Go plugin"
        if not vf.rdma:
            return NO_RDMA, ""
        if self.unreadable_records:
            return UNKNOWN, ""
        if not vf.rdma_here:
            return UNMANAGED, ""
        return NO_NETDEV, ""


def _lone_group(vfs: list[VfEntry]) -> PfEntry:
    """Return the entry of the VFs without a PF."""
    return PfEntry(
        pci=None,
        driver="",
        netdev="",
        link=None,
        rdma="",
        node_guid=None,
        port_guid=None,
        port=None,
        total_vfs=len(vfs),
        vfs=tuple(vfs),
        num_vfs=len(vfs),
    )


def _unknown_vf(function: VfFunction, attachments: list[Attachment], note: str) -> VfEntry:
    return VfEntry(
        function=function,
        netdev="",
        rdma="",
        rdma_here=False,
        node_guid=None,
        port_guid=None,
        config=None,
        state=UNKNOWN,
        attachment=_find_holder(function.pci, attachments),
        note=note,
    )


def _is_in_host_namespace(vf: VfEntry) -> bool:
    return bool(vf.netdev) and vf.rdma_here


def _find_holder(pci: PciAddress, attachments: list[Attachment]) -> Attachment | None:
    """Return the attachment that holds the VF: preferably a live one, then the owner, then the latest that names it."""
    candidates = [held for held in attachments if held.record.pci == pci]
    return max(candidates, key=lambda held: (held.alive is True, held.owner, held.record.since), default=None)


def _parse_pci(found: object) -> PciAddress | None:
    try:
        return PciAddress.parse(found) if isinstance(found, str) else None
    except ValueError:
        return None
