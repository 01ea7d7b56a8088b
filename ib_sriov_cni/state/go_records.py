"""Records of the Go ib-sriov-cni, which lie directly in the state directory (N6).

Layout: <stateDir>/<containerID>-<ifname>, one JSON object each. Either name may hold a hyphen, so the record
itself says where the second one begins.
"""

from __future__ import annotations

import os
import stat

from ib_sriov_cni.core.errors import StateFailure
from ib_sriov_cni.core.record import AttachmentKey
from ib_sriov_cni.state.directory import DEFAULT_STATE_DIR, MAX_RECORD, list_names, mark_damaged
from ipam.protocol.fastjson import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.core.values import PciAddress


class GoRecords:
    """The Go plugin's records in a state directory."""

    def __init__(self, state_dir: str = DEFAULT_STATE_DIR) -> None:
        """Nothing is opened."""
        self._state_dir = state_dir

    def file_of(self, key: AttachmentKey) -> str:
        """Give the path of the Go plugin's record of an attachment."""
        return f"{self._state_dir}/{key.container_id}-{key.ifname}"

    def read(self, key: AttachmentKey) -> tuple[dict[str, object], float] | None:
        """Give the Go plugin's record and when it was written; one that cannot be understood is set aside."""
        found = _read_file(self.file_of(key))
        if found is None:
            return None
        doc, written = found
        if not isinstance(doc, dict):
            self.mark_damaged(key)
            return None
        # The file's name says neither the network nor, with hyphens in it, where the interface's begins.
        ours = doc.get("name") in (None, "", key.network) and doc.get("ContIFNames") in (None, "", key.ifname)
        return (doc, written) if ours else None

    def read_keys(self, network: str) -> list[AttachmentKey]:
        """Give the attachments of a network that the Go plugin's records speak of."""
        keys = []
        for name in list_names(self._state_dir):
            cut = -1 if name.endswith(".damaged") else name.find("-")
            while cut > 0:  # either part may have a hyphen: the record itself says where the second one begins
                key = AttachmentKey(network=network, container_id=name[:cut], ifname=name[cut + 1 :])
                if os.path.isfile(f"{self._state_dir}/{name}") and self.read(key):
                    keys.append(key)
                cut = name.find("-", cut + 1)
        return keys

    def is_superseded(self, key: AttachmentKey, pci: PciAddress, written: float) -> bool:
        """Whether a later record of the Go plugin speaks of the same VF: it serves that one's pod."""
        own = self.file_of(key)
        for name in list_names(self._state_dir):
            path = f"{self._state_dir}/{name}"
            found = _read_file(path) if path != own and not name.endswith(".damaged") else None
            if found is None or not isinstance(found[0], dict):
                continue
            if found[0].get("deviceID") == pci and found[1] > written:
                return True
        return False

    def mark_damaged(self, key: AttachmentKey) -> None:
        """Rename the Go plugin's record so that it is never in the way."""
        mark_damaged(self.file_of(key))

    def forget(self, key: AttachmentKey) -> None:
        """Remove the Go plugin's record; absent is fine. Raises StateFailure (106)."""
        path = self.file_of(key)
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as fault:
            raise StateFailure(f"remove the Go plugin's record {path}: {fault.strerror}") from None


def _read_file(path: str) -> tuple[object, float] | None:
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
