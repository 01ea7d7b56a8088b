"""Door to the owners of VFs: for each VF, a symbolic link to the attachment that owns it.

Layout: <stateDir>/devices/<PCI address> -> <network>/<containerID>:<ifname>, never followed. Reading the owner takes
one system call. A late DEL that is not the owner any more does not touch the VF.
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
    remove_file,
    remove_quietly,
    rename_planted_links,
    retry_if_folder_vanished,
)


class Ownership:
    """The owners of VFs in a state directory."""

    def __init__(self, state_dir: str = DEFAULT_STATE_DIR) -> None:
        """Make nothing before the first claim."""
        self._devices = f"{state_dir}/devices"

    def read_owner(self, pci: PciAddress) -> AttachmentKey | None:
        """Return the attachment that owns the VF, None if there is none. Raises StateFailure (106)."""
        rename_planted_links(self._devices)
        try:
            return AttachmentKey.parse(os.readlink(f"{self._devices}/{pci}"))
        except OSError:
            return None

    def read_owners(self) -> list[tuple[str, AttachmentKey]]:
        """Return the PCI address and the owner of each VF that has one. Raises StateFailure (106)."""
        rename_planted_links(self._devices)
        names = [name for name in list_names(self._devices) if not name.endswith(".new")]  # left by a killed claim
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
        """Remove the owner of a VF if it is this attachment. Raises StateFailure (106)."""
        if self.read_owner(pci) != key:
            return
        remove_file("remove owner of VF", f"{self._devices}/{pci}")
        try:
            os.rmdir(self._devices)
        except OSError:
            pass  # other VFs have owners
