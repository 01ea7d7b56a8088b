"""Which attachment owns a VF: one symbolic link for each VF.

Layout: <stateDir>/devices/<PCI address> -> <network>/<containerID>:<ifname>, never followed. The link answers in one
system call who owns a VF, and keeps a late DEL from touching a VF that serves somebody else by now.
"""

from __future__ import annotations

import os

from ib_sriov_cni.core.errors import StateFailure
from ib_sriov_cni.core.record import AttachmentKey
from ib_sriov_cni.core.values import PciAddress
from ib_sriov_cni.state.directory import (
    DEFAULT_STATE_DIR,
    list_names,
    make_folders,
    remove_quietly,
    rename_planted_links,
    retry_if_folder_vanished,
)


class Ownership:
    """The owners of VFs, below a state directory."""

    def __init__(self, state_dir: str = DEFAULT_STATE_DIR) -> None:
        """Nothing is made before the first claim."""
        self._devices = f"{state_dir}/devices"

    def read_owner(self, pci: PciAddress) -> AttachmentKey | None:
        """Give the attachment that owns the VF, None if nobody does."""
        rename_planted_links(self._devices)
        try:
            return AttachmentKey.parse(os.readlink(f"{self._devices}/{pci}"))
        except OSError:
            return None

    def read_owners(self) -> list[tuple[str, AttachmentKey]]:
        """Give each owned VF's PCI address with its owner."""
        rename_planted_links(self._devices)
        names = [name for name in list_names(self._devices) if not name.endswith(".new")]  # what a killed claim left
        pairs = [(name, self.read_owner(PciAddress(name))) for name in names]
        return [(pci, key) for pci, key in pairs if key is not None]

    def claim(self, pci: PciAddress, key: AttachmentKey) -> None:
        """Make an attachment the owner of a VF. Raises StateFailure (106)."""
        path = f"{self._devices}/{pci}"
        try:
            retry_if_folder_vanished(lambda: self._claim(path, key))
        except OSError as fault:
            raise StateFailure(f"write owner of VF {path}: {fault.strerror}") from None

    def _claim(self, path: str, key: AttachmentKey) -> None:
        temporary = f"{path}.new"
        make_folders(self._devices, "", durable=False)
        try:
            os.symlink(key.path, temporary)
        except FileExistsError:  # a killed claim left it
            remove_quietly(temporary)
            os.symlink(key.path, temporary)
        os.rename(temporary, path)

    def disclaim(self, pci: PciAddress, key: AttachmentKey) -> None:
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
