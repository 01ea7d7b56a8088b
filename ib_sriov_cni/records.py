"""Door to the records: what an attachment was made of, kept for the DEL that may come much later.

Layout below stateDir (0700, files 0600, whatever the umask)::

    attachments/<network>/<containerID>:<ifname>.json   a record; neither name can hold a colon
    devices/<PCI address>  ->  <network>/<containerID>:<ifname>     a symbolic link, never followed: the
                                                        attachment that owns the VF
    <containerID>-<ifname>                              records of the Go plugin (N6)

The link answers in one system call who owns a VF, and keeps a late DEL from touching a VF that serves somebody
else by now. Files appear whole: temporary file, fsync, rename. A record that cannot be understood is set aside as
`<name>.damaged`, never in the way; so is a link in the place of a folder.

What is synced is what a power cut must not take (a killed process takes nothing). After one the VF's devices are as
the boot made them; what is left of an attachment are its addresses, and whose they are is in the record. So the
record is durable before the first effect: file, folder, and the folders above if they are new. Nothing else needs
the folder's fsync: an old record in the place of a committed one, a record that was forgotten already, an owner's link
too many or too few all belong to another boot, where DEL and GC release the addresses again or for the first time.
"""

from __future__ import annotations

import errno
import os
import stat

from ib_sriov_cni.errors import StateFailure
from ib_sriov_cni.model import Guid, PciAddress
from ib_sriov_cni.statedir import (
    make_folders,
    remove_quietly,
    set_aside,
    set_links_aside,
    sync_folder,
    write_whole,
)
from ipam.fastjson import dumps, loads
from ipam.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SCHEMA = 1
DEFAULT_STATE_DIR = "/var/lib/cni/ib-sriov"
MAX_RECORD = 1 << 24  # a configuration and a result of 1 MiB each, in ASCII
TRIES = 100
# There is none, and with a name too long for a file there never was one.
NO_RECORD = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


class Key(Value):
    """What names an attachment (C12)."""

    network: str
    container_id: str
    ifname: str

    @property
    def path(self) -> str:
        """Relative to attachments/, without the ending."""
        return f"{self.network}/{self.container_id}:{self.ifname}"

    @classmethod
    def parse(cls, path: str) -> Key | None:
        """Read `path` back; None if it is nothing of ours."""
        network, slash, rest = path.partition("/")
        container_id, colon, ifname = rest.partition(":")
        if not (slash and colon and network and container_id and ifname) or "/" in rest:
            return None
        return cls(network=network, container_id=container_id, ifname=ifname)


class Record(Value):
    """Everything DEL needs when nothing else is left. What was there before is `had_…`."""

    key: Key
    pci: PciAddress
    boot_id: str
    netns_path: str
    netns_cookie: int
    pod: str  # namespace/name, for people
    since: float  # Unix time
    committed: bool
    rdma_isolation: bool
    driver: str
    had_netdev: str
    had_altnames: tuple[str, ...]
    had_mtu: int
    had_up: bool
    had_rdma: str
    had_uverbs: str
    had_node_guid: Guid | None
    had_port_guid: Guid | None
    had_config_node_guid: Guid
    had_config_port_guid: Guid
    had_link_state: str
    guid: Guid  # the port GUID the attachment has
    node_guid: Guid
    set_guid: bool  # whether the two were set, or found there and kept
    link_state: str  # the planned one; "": left alone
    conf: dict[str, object]  # the network configuration, for the DEL of the IPAM plugin
    args: str  # CNI_ARGS, likewise
    result: dict[str, object]  # once committed: what this attachment made, prevResult left out, in the newest version
    child_pkey: int = 0  # of the IPoIB child that the attachment has, or is about to make; 0: none


_MAY_BE_UNKNOWN = ("had_node_guid", "had_port_guid")
_GUIDS = (*_MAY_BE_UNKNOWN, "had_config_node_guid", "had_config_port_guid", "guid", "node_guid")


def render_record(record: Record) -> dict[str, object]:
    """Give the JSON document of a record."""
    doc: dict[str, object] = {"schema": SCHEMA, **record.__dict__}
    doc["key"] = dict(record.key.__dict__)
    doc["had_altnames"] = list(record.had_altnames)
    for name in _GUIDS:
        guid = doc[name]
        doc[name] = None if guid is None else str(guid)
    return doc


def parse_record(doc: Any) -> Record:
    """Read a record's document; ValueError, KeyError or TypeError if it is none of this schema."""
    if doc["schema"] != SCHEMA:
        raise ValueError(f"schema {doc['schema']} is not {SCHEMA}")
    fields = {"child_pkey": 0, **{name: item for name, item in doc.items() if name != "schema"}}
    fields["key"] = Key(**doc["key"])
    fields["pci"] = PciAddress.parse(doc["pci"])
    for name, kind in _KINDS.items():
        if not isinstance(fields[name], kind):
            raise TypeError(f"{name} is {fields[name]!r}")
    fields["had_altnames"] = tuple([str(name) for name in doc["had_altnames"]])
    for name in _GUIDS:
        unknown = doc[name] is None and name in _MAY_BE_UNKNOWN
        fields[name] = None if unknown else Guid.parse(doc[name])
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
    "had_uverbs": str,
    "had_link_state": str,
    "set_guid": bool,
    "link_state": str,
    "conf": dict,
    "args": str,
    "result": dict,
    "child_pkey": int,
}


class Records:
    """The records below a state directory."""

    def __init__(self, state_dir: str = DEFAULT_STATE_DIR) -> None:
        """Nothing is made before the first write."""
        self._state_dir = state_dir
        self._attachments = f"{state_dir}/attachments"
        self._devices = f"{state_dir}/devices"

    def file_of(self, key: Key) -> str:
        """Give the path of a record, for messages."""
        return f"{self._attachments}/{key.path}.json"

    def read(self, key: Key) -> Record | None:
        """Give the record of an attachment, None if there is none or it was set aside as damaged.

        Raises StateFailure (106) if it is there but cannot be read.
        """
        path = self.file_of(key)
        set_links_aside(self._attachments, os.path.dirname(path))
        try:
            return self.inspect(key)
        except ValueError:
            set_aside(path)
            return None

    def inspect(self, key: Key) -> Record | None:
        """Give a record as `read` does, but leave a damaged one where it is: ValueError tells what is wrong with it."""
        path = self.file_of(key)
        if os.path.islink(self._attachments) or os.path.islink(os.path.dirname(path)):
            raise ValueError("its folder is a link, which somebody planted")
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as fault:
            if fault.errno in NO_RECORD:
                return None
            if fault.errno == errno.ELOOP:
                raise ValueError("it is a link, which somebody planted") from None
            raise StateFailure(f"read record {path}: {fault.strerror}") from None
        try:
            text = os.read(fd, MAX_RECORD)
        except OSError as fault:
            raise StateFailure(f"read record {path}: {fault.strerror}") from None
        finally:
            os.close(fd)
        try:
            record = parse_record(loads(text))
        except (ValueError, KeyError, TypeError, AttributeError) as fault:
            raise ValueError(f"{type(fault).__name__}: {fault}") from None
        return record if record.key == key else None

    def write(self, record: Record) -> None:
        """Write or replace a record, durably if it is new. Raises StateFailure (106); then nothing changed."""
        path = self.file_of(record.key)
        try:
            text = dumps(render_record(record)).encode() + b"\n"
            _try_again(lambda: self._write(record, path, text))
        except (OSError, ValueError) as fault:
            hint = "the state directory must be writable and have room"
            reason = fault.strerror if isinstance(fault, OSError) else fault
            raise StateFailure(f"write record {path}: {reason}", hint) from None

    def _write(self, record: Record, path: str, text: bytes) -> None:
        temporary = f"{path}.new"
        if not record.committed:  # else the record is there, and its folder
            make_folders(self._attachments, record.key.network)
        try:
            fd = _create(temporary)
        except FileNotFoundError:
            make_folders(self._attachments, record.key.network)
            fd = _create(temporary)
        try:
            try:
                os.fchmod(fd, 0o600)
                write_whole(fd, text)
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(temporary, path)
        except OSError:
            remove_quietly(temporary)
            raise
        if not record.committed:
            sync_folder(os.path.dirname(path))

    def forget(self, key: Key) -> None:
        """Remove a record; absent is fine. Raises StateFailure (106)."""
        path = self.file_of(key)
        try:
            os.unlink(path)
        except OSError as fault:
            if fault.errno not in NO_RECORD:
                raise StateFailure(f"remove record {path}: {fault.strerror}") from None
        _remove_empty(os.path.dirname(path), self._attachments)

    def sweep(self, network: str, key: Key | None = None) -> None:
        """Remove what writes cut short have left, of a network or one attachment; a live one begins again."""
        folder = f"{self._attachments}/{network}"
        torn = [name for name in _names(folder) if name.endswith(".json.new")]
        for path in [f"{folder}/{name}" for name in torn]:
            if key is None or path == f"{self.file_of(key)}.new":
                remove_quietly(path)
        if torn:
            _remove_empty(folder, self._attachments)

    def read_keys(self) -> list[Key]:
        """Give the keys of all records."""
        set_links_aside(self._attachments)
        keys = []
        for network in _names(self._attachments):
            if os.path.islink(f"{self._attachments}/{network}"):
                continue
            for name in _names(f"{self._attachments}/{network}"):
                key = Key.parse(f"{network}/{name[:-5]}") if name.endswith(".json") else None
                if key:
                    keys.append(key)
        return keys

    # ---- the Go plugin's records (N6), directly in the state directory

    def foreign_file_of(self, key: Key) -> str:
        """Give the path of the Go plugin's record of an attachment."""
        return f"{self._state_dir}/{key.container_id}-{key.ifname}"

    def read_foreign(self, key: Key) -> tuple[dict[str, object], float] | None:
        """Give the Go plugin's record and when it was written; one that cannot be understood is set aside."""
        found = _read_foreign(self.foreign_file_of(key))
        if found is None:
            return None
        doc, written = found
        if not isinstance(doc, dict):
            self.set_foreign_aside(key)
            return None
        # The file's name says neither the network nor, with hyphens in it, where the interface's begins.
        ours = doc.get("name") in (None, "", key.network) and doc.get("ContIFNames") in (None, "", key.ifname)
        return (doc, written) if ours else None

    def read_foreign_keys(self, network: str) -> list[Key]:
        """Give the attachments of a network that the Go plugin's records speak of."""
        keys = []
        for name in _names(self._state_dir):
            cut = -1 if name.endswith(".damaged") else name.find("-")
            while cut > 0:  # either part may have a hyphen: the record itself says where the second one begins
                key = Key(network=network, container_id=name[:cut], ifname=name[cut + 1 :])
                if os.path.isfile(f"{self._state_dir}/{name}") and self.read_foreign(key):
                    keys.append(key)
                cut = name.find("-", cut + 1)
        return keys

    def is_superseded(self, key: Key, pci: PciAddress, written: float) -> bool:
        """Whether a later record of the Go plugin speaks of the same VF: it serves that one's pod."""
        own = self.foreign_file_of(key)
        for name in _names(self._state_dir):
            path = f"{self._state_dir}/{name}"
            found = _read_foreign(path) if path != own and not name.endswith(".damaged") else None
            if found is None or not isinstance(found[0], dict):
                continue
            if found[0].get("deviceID") == pci and found[1] > written:
                return True
        return False

    def set_foreign_aside(self, key: Key) -> None:
        """Rename the Go plugin's record so that it is never in the way."""
        set_aside(self.foreign_file_of(key))

    def forget_foreign(self, key: Key) -> None:
        """Remove the Go plugin's record; absent is fine. Raises StateFailure (106)."""
        path = self.foreign_file_of(key)
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as fault:
            raise StateFailure(f"remove the Go plugin's record {path}: {fault.strerror}") from None

    # ---- who owns a VF

    def read_owner(self, pci: PciAddress) -> Key | None:
        """Give the attachment that owns the VF, None if nobody does."""
        set_links_aside(self._devices)
        try:
            return Key.parse(os.readlink(f"{self._devices}/{pci}"))
        except OSError:
            return None

    def read_owners(self) -> list[tuple[str, Key]]:
        """Give each owned VF's PCI address with its owner."""
        set_links_aside(self._devices)
        names = [name for name in _names(self._devices) if not name.endswith(".new")]  # what a killed claim left
        pairs = [(name, self.read_owner(PciAddress(name))) for name in names]
        return [(pci, key) for pci, key in pairs if key is not None]

    def claim(self, pci: PciAddress, key: Key) -> None:
        """Make an attachment the owner of a VF. Raises StateFailure (106)."""
        path = f"{self._devices}/{pci}"
        try:
            _try_again(lambda: self._claim(path, key))
        except OSError as fault:
            raise StateFailure(f"write owner of VF {path}: {fault.strerror}") from None

    def _claim(self, path: str, key: Key) -> None:
        temporary = f"{path}.new"
        make_folders(self._devices, "", durable=False)
        try:
            os.symlink(key.path, temporary)
        except FileExistsError:  # a killed claim left it
            remove_quietly(temporary)
            os.symlink(key.path, temporary)
        os.rename(temporary, path)

    def disclaim(self, pci: PciAddress, key: Key) -> None:
        """Let go of a VF if it is ours. Raises StateFailure (106)."""
        if self.read_owner(pci) != key:
            return
        try:
            os.unlink(f"{self._devices}/{pci}")
        except FileNotFoundError:
            pass
        except OSError as fault:
            raise StateFailure(f"remove owner of VF {self._devices}/{pci}: {fault.strerror}") from None
        try:
            os.rmdir(self._devices)
        except OSError:
            pass  # other VFs are in use


def _remove_empty(*folders: str) -> None:
    for folder in folders:
        try:
            os.rmdir(folder)
        except OSError:
            break  # other attachments are in it


def _read_foreign(path: str) -> tuple[object, float] | None:
    """Give a file's JSON value and when it was written; None if there is no such file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        return (_read_json(fd), status.st_mtime) if stat.S_ISREG(status.st_mode) else None
    finally:
        os.close(fd)


def _read_json(fd: int) -> object:
    try:
        return loads(os.read(fd, MAX_RECORD))
    except (OSError, ValueError):
        return None


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _try_again(action: Callable[[], None]) -> None:
    """Act, and again where a folder vanished: whoever removes the last record in it removes it too."""
    for _ in range(TRIES):
        try:
            action()
        except FileNotFoundError:
            continue
        return
    action()


def _create(path: str) -> int:
    """Create a file that nobody else has open, in the place of one that a killed process left."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags, 0o600)
    except FileExistsError:
        remove_quietly(path)
        return os.open(path, flags, 0o600)
