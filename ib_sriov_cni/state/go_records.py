"""Door to the records of the Go ib-sriov-cni, which are directly in the state directory (N6).

Layout: <stateDir>/<containerID>-<ifname>, one JSON object each. Both parts may contain a hyphen; only the record says
where the second one starts.
"""

from __future__ import annotations

import os

from ib_sriov_cni.core.record import AttachmentKey
from ib_sriov_cni.state.directory import DEFAULT_STATE_DIR, list_names, mark_damaged, read_json, remove_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.core.values import PciAddress


class GoRecords:
    """The Go plugin's records in a state directory."""

    def __init__(self, state_dir: str = DEFAULT_STATE_DIR) -> None:
        """Open nothing yet."""
        self._state_dir = state_dir

    def file_of(self, key: AttachmentKey) -> str:
        """Return the path of the Go plugin's record of an attachment."""
        return f"{self._state_dir}/{key.container_id}-{key.ifname}"

    def read(self, key: AttachmentKey) -> tuple[dict[str, object], float] | None:
        """Return the Go plugin's record and when it was written (Unix time, seconds); None if there is none.

        A record that cannot be parsed is renamed (see `mark_damaged`).
        """
        found = read_json(self.file_of(key))
        if found is None:
            return None
        doc, written = found
        if not isinstance(doc, dict):
            self.mark_damaged(key)
            return None
        # The file's name does not have the network, nor, if there are hyphens in it, where the interface name starts.
        ours = doc.get("name") in (None, "", key.network) and doc.get("ContIFNames") in (None, "", key.ifname)
        return (doc, written) if ours else None

    def read_keys(self, network: str) -> list[AttachmentKey]:
        """Return the attachments of a network that have a record of the Go plugin."""
        keys = []
        for name in list_names(self._state_dir):
            cut = -1 if name.endswith(".damaged") else name.find("-")
            while cut > 0:  # both parts may contain a hyphen: try each
                key = AttachmentKey(network=network, container_id=name[:cut], ifname=name[cut + 1 :])
                if os.path.isfile(f"{self._state_dir}/{name}") and self.read(key):
                    keys.append(key)
                cut = name.find("-", cut + 1)
        return keys

    def is_superseded(self, key: AttachmentKey, pci: PciAddress, written: float) -> bool:
        """Return whether a later record of the Go plugin has the same VF, which then belongs to that pod."""
        own = self.file_of(key)
        for name in list_names(self._state_dir):
            path = f"{self._state_dir}/{name}"
            found = read_json(path) if path != own and not name.endswith(".damaged") else None
            if found is None or not isinstance(found[0], dict):
                continue
            if found[0].get("deviceID") == pci and found[1] > written:
                return True
        return False

    def mark_damaged(self, key: AttachmentKey) -> None:
        """Rename a record that cannot be parsed to <path>.damaged, out of the way. Raises StateFailure (106)."""
        mark_damaged(self.file_of(key))

    def forget(self, key: AttachmentKey) -> None:
        """Remove the Go plugin's record; does nothing if there is none. Raises StateFailure (106)."""
        remove_file("remove the Go plugin's record", self.file_of(key))
