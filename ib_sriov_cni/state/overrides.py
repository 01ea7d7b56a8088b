r"""Door to notes of what driver_override of a VF was, while a call has another driver in it for a rebind.

Layout: /run/ib-sriov/<PCI address>.override, "<the call's driver>\n<what it was before>\n"; there is one only during
such a rebind, or after a call that was killed in it. It is written and read with the VF's lock held. It is on tmpfs,
because driver_override does not survive a reboot either.
"""

from __future__ import annotations

import os

from ib_sriov_cni.core.errors import StateFailure
from ib_sriov_cni.state.directory import remove_quietly, replace_file
from ipam.protocol.files import read_regular

NOTE_BYTES = 8192  # sysfs keeps less than a page of driver_override


class Overrides:
    """Notes in the folder of the locks."""

    def __init__(self, folder: str = "/run/ib-sriov") -> None:
        """`folder` is made by whoever takes the VF's lock."""
        self._folder = folder

    def _path(self, pci: str) -> str:
        return f"{self._folder}/{pci}.override"

    def note(self, pci: str, driver: str, was: str) -> None:
        """Note what driver_override was before `driver` is written into it. Raises StateFailure (106)."""
        path = self._path(pci)
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            replace_file(path, f"{path}.new", f"{driver}\n{was}\n".encode(), private=True)
        except OSError as fault:
            raise StateFailure(f"write {path}: {fault.strerror}", "is /run writable?") from None

    def read(self, pci: str) -> tuple[str, str] | None:
        """Return the noted driver and what driver_override was before; None if there is no note that can be read."""
        try:
            driver, was, *_ = read_regular(self._path(pci), NOTE_BYTES).decode().split("\n")
        except (OSError, ValueError):
            return None
        return driver, was

    def forget(self, pci: str) -> None:
        """Remove the note, if there is one."""
        remove_quietly(self._path(pci))
