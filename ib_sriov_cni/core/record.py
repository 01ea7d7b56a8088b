"""The record of an attachment, its key, and their JSON form. state/records.py stores them."""

from __future__ import annotations

from ib_sriov_cni.core.values import GUID_MAX, Guid, PciAddress
from ipam.protocol.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


SCHEMA = 1
AWAITS_PORT = "awaitsPort"  # see Record.undone_at


class AttachmentKey(Value):
    """What identifies an attachment (C12)."""

    network: str
    container_id: str
    ifname: str

    @property
    def path(self) -> str:
        """The record's path relative to attachments/, without .json."""
        return f"{self.network}/{self.container_id}:{self.ifname}"

    @property
    def holder(self) -> str:
        """How the file of a VF's lock names the attachment at work (state/locks.py)."""
        return f"{self.container_id} {self.ifname}"

    @classmethod
    def parse(cls, path: str) -> AttachmentKey | None:
        """Return the key whose `path` this is; None if there is none."""
        network, slash, rest = path.partition("/")
        container_id, colon, ifname = rest.partition(":")
        if not (slash and colon and network and container_id and ifname) or "/" in rest:
            return None
        return cls(network=network, container_id=container_id, ifname=ifname)


class Record(Value):
    """All that DEL needs to release an attachment. `had_…` is how the VF was before."""

    key: AttachmentKey
    pci: PciAddress
    boot_id: str
    netns_path: str
    netns_cookie: int
    pod: str  # namespace/name, for messages
    since: float  # Unix time, seconds
    committed: bool
    rdma_isolation: bool
    driver: str
    had_netdev: str
    had_altnames: tuple[str, ...]
    had_mtu: int
    had_up: bool
    had_rdma: str
    had_char_devices: tuple[str, ...]  # stored as "had_uverbs": one text, with spaces
    had_node_guid: Guid | None
    had_port_guid: Guid | None
    had_config_node_guid: Guid | None  # on the PF; None if it did not report it
    had_config_port_guid: Guid | None
    had_link_state: str  # "": the PF did not report it
    port_guid: Guid  # the VF's while attached; stored as "guid"
    node_guid: Guid
    sets_guid: bool  # False: the VF kept the GUIDs it had
    link_state: str  # as planned; "": not changed
    conf: dict[str, object]  # the network configuration, for the IPAM plugin's DEL
    args: str  # CNI_ARGS, likewise
    result: dict[str, object]  # once committed: our own part of ADD's result (no prevResult), in the newest version
    child_pkey: int = 0  # P_Key of the IPoIB child that the attachment has or is about to make; 0: none

    @property
    def why_unfinished(self) -> str:
        """Why its ADD made no attachment, "" if it did."""
        if self.undone_at is not None:
            return "its port was not ACTIVE in time, and its VF keeps the GUID for the next try"
        return "" if self.committed else "its ADD was never finished"

    @property
    def undone_at(self) -> float | None:
        """When the ADD was undone but for GUID and link state, so that the port comes up for the next try; Unix time.

        None for any other record. It is kept in `result`, which such an ADD does not have otherwise: older versions
        read it as an ADD that was never finished, and restore everything.
        """
        found = self.result.get(AWAITS_PORT)
        return float(found) if isinstance(found, (int, float)) and not isinstance(found, bool) else None


_MAY_BE_UNKNOWN = ("had_node_guid", "had_port_guid")
# Older versions refuse a record with null in these two, so None is stored as "unassigned". A PF that really had all
# ones is no loss: nothing can be compared with them, and what DEL restores is the VF's own GUID.
_MAY_BE_UNASSIGNED = ("had_config_node_guid", "had_config_port_guid")
_GUIDS = (*_MAY_BE_UNKNOWN, *_MAY_BE_UNASSIGNED, "port_guid", "node_guid")
# Fields that are stored under an older name: nodes are upgraded and downgraded while pods run.
_STORED_AS = {"port_guid": "guid", "sets_guid": "set_guid", "had_char_devices": "had_uverbs"}
_FIELD_OF = {stored: field for field, stored in _STORED_AS.items()}


def render_record(record: Record) -> dict[str, object]:
    """Return a record's JSON document, with the stored names of its fields."""
    doc: dict[str, object] = {"schema": SCHEMA, **record.__dict__}
    doc["key"] = dict(record.key.__dict__)
    doc["had_altnames"] = list(record.had_altnames)
    doc["had_char_devices"] = " ".join(record.had_char_devices)
    for name in _GUIDS:
        guid = doc[name]
        if guid is None and name in _MAY_BE_UNASSIGNED:
            guid = Guid(GUID_MAX)
        doc[name] = None if guid is None else str(guid)
    return {_STORED_AS.get(name, name): item for name, item in doc.items()}


def parse_record(doc: Any) -> Record:
    """Return the record in a JSON document. Raises ValueError, KeyError or TypeError if it is not of this schema."""
    if doc["schema"] != SCHEMA:
        raise ValueError(f"schema must be {SCHEMA} (got {doc['schema']})")
    doc = {_FIELD_OF.get(name, name): item for name, item in doc.items()}
    fields = {"child_pkey": 0, **{name: item for name, item in doc.items() if name != "schema"}}
    fields["key"] = AttachmentKey(**doc["key"])
    fields["pci"] = PciAddress.parse(doc["pci"])
    for name, kind in _KINDS.items():
        if not isinstance(fields[name], kind):
            raise TypeError(f"{name} has the wrong type (got {fields[name]!r})")
        if kind is str and "\0" in fields[name]:
            raise ValueError(f"{name} contains a NUL byte")
    fields["had_altnames"] = tuple([str(name) for name in doc["had_altnames"]])
    fields["had_char_devices"] = tuple(doc["had_char_devices"].split())
    for name in _GUIDS:
        is_unknown = doc[name] is None and name in (*_MAY_BE_UNKNOWN, *_MAY_BE_UNASSIGNED)
        guid = None if is_unknown else Guid.parse(doc[name])
        fields[name] = None if guid == GUID_MAX and name in _MAY_BE_UNASSIGNED else guid
    return Record(**fields)


_KINDS: dict[str, type | tuple[type, ...]] = {
    "boot_id": str,
    "netns_path": str,
    "netns_cookie": int,
    "pod": str,
    "since": (int, float),
    "committed": bool,
    "rdma_isolation": bool,
    "driver": str,
    "had_netdev": str,
    "had_altnames": list,
    "had_mtu": int,
    "had_up": bool,
    "had_rdma": str,
    "had_char_devices": str,
    "had_link_state": str,
    "sets_guid": bool,
    "link_state": str,
    "conf": dict,
    "args": str,
    "result": dict,
    "child_pkey": int,
}


def describe_attachment(record: Record) -> str:
    """Return words that name an attachment in a message."""
    who = f"pod {record.pod}" if record.pod else f"container {record.key.container_id}"
    return f"{who} (network {record.key.network}, {record.key.ifname})"
