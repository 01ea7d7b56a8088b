"""Door to files in the state directory that no command reads: for the command line and for clean-up.

These are damaged records, what a killed write left, and the Go plugin's records. records.py has the layout. Reading
them changes nothing, not even the name of a damaged record.
"""

from __future__ import annotations

import os

from ib_sriov_cni.core.record import AttachmentKey
from ib_sriov_cni.state.directory import NO_RECORD, list_names, read_json, remove_file

DAMAGED, UNFINISHED = ".damaged", ".new"  # damaged records; what a killed write left
ENDINGS = (DAMAGED, UNFINISHED)


class StrayFiles:
    """The stray files in a state directory."""

    def __init__(self, state_dir: str) -> None:
        """Open nothing yet."""
        self._state_dir = state_dir
        self._attachments = f"{state_dir}/attachments"
        self._devices = f"{state_dir}/devices"

    def why_unreadable(self) -> str:
        """Return why the records cannot be listed, in words; empty if they can or if there are none yet."""
        for folder in (self._state_dir, self._attachments, self._devices):
            try:
                os.listdir(folder)
            except OSError as fault:
                if fault.errno not in NO_RECORD:
                    return f"{folder}: {fault.strerror}"
        return ""

    def read(self) -> list[tuple[str, float]]:
        """Return the path of each damaged or unfinished file, and when it was last written (Unix time, seconds)."""
        folders = [f"{self._attachments}/{network}" for network in list_names(self._attachments)]
        paths = [f"{folder}/{name}" for folder in folders for name in list_names(folder) if name.endswith(ENDINGS)]
        paths += [f"{self._devices}/{name}" for name in list_names(self._devices) if name.endswith(UNFINISHED)]
        paths += [f"{self._state_dir}/{name}" for name in list_names(self._state_dir) if name.endswith(DAMAGED)]
        found = []
        for path in paths:
            try:
                found.append((path, os.lstat(path).st_mtime))
            except OSError:
                pass  # removed in the meantime
        return found

    def key_of(self, path: str) -> AttachmentKey | None:
        """Return the attachment whose record a file is or was, by its name; None for any other file."""
        head, dot, _ = path.rpartition(".json")
        return (
            AttachmentKey.parse(head[len(self._attachments) + 1 :])
            if dot and head.startswith(self._attachments)
            else None
        )

    def remove(self, path: str) -> None:
        """Remove one of these files; does nothing if it is gone. Raises StateFailure (106)."""
        remove_file("remove", path)

    def read_foreign(self) -> list[tuple[str, dict[str, object] | None, float]]:
        """Return path, document (None if it is not a JSON object) and time of each record of the Go plugin (N6)."""
        found: list[tuple[str, dict[str, object] | None, float]] = []
        for name in list_names(self._state_dir):
            path = f"{self._state_dir}/{name}"
            file = None if name.endswith(ENDINGS) else read_json(path)
            if file is not None:
                doc, written = file
                found.append((path, doc if isinstance(doc, dict) else None, written))
        return found
