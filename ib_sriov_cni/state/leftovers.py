"""Door to what else is in the state directory: files that no verb reads, for people and for those who tidy up.

Those are records set aside as damaged, what a killed write left, and the Go plugin's records as they lie there.
The layout is that of ib_sriov_cni.state.records. Nothing here sets anything aside: looking changes nothing.
"""

from __future__ import annotations

import os

from ib_sriov_cni.core.errors import StateFailure
from ib_sriov_cni.core.record import AttachmentKey
from ib_sriov_cni.state.directory import MAX_RECORD, NO_RECORD, list_names
from ipam.protocol.fastjson import loads

DAMAGED, UNFINISHED = ".damaged", ".new"  # records set aside; what a killed write left
ENDINGS = (DAMAGED, UNFINISHED)


class Leftovers:
    """The state directory as it is."""

    def __init__(self, state_dir: str) -> None:
        """Nothing is opened."""
        self._state_dir = state_dir
        self._attachments = f"{state_dir}/attachments"
        self._devices = f"{state_dir}/devices"

    def why_unreadable(self) -> str:
        """Tell why the records cannot be listed; empty if they can, or if there are none yet."""
        for folder in (self._state_dir, self._attachments, self._devices):
            try:
                os.listdir(folder)
            except OSError as fault:
                if fault.errno not in NO_RECORD:
                    return f"{folder}: {fault.strerror}"
        return ""

    def read(self) -> list[tuple[str, float]]:
        """Give each file that nobody reads any more, with the Unix time it was last written."""
        folders = [f"{self._attachments}/{network}" for network in list_names(self._attachments)]
        paths = [f"{folder}/{name}" for folder in folders for name in list_names(folder) if name.endswith(ENDINGS)]
        paths += [f"{self._devices}/{name}" for name in list_names(self._devices) if name.endswith(UNFINISHED)]
        paths += [f"{self._state_dir}/{name}" for name in list_names(self._state_dir) if name.endswith(DAMAGED)]
        found = []
        for path in paths:
            try:
                found.append((path, os.lstat(path).st_mtime))
            except OSError:
                pass  # gone meanwhile
        return found

    def key_of(self, path: str) -> AttachmentKey | None:
        """Give the attachment whose record a file is or was, by its name; None for any other file."""
        head, dot, _ = path.rpartition(".json")
        return (
            AttachmentKey.parse(head[len(self._attachments) + 1 :])
            if dot and head.startswith(self._attachments)
            else None
        )

    def remove(self, path: str) -> None:
        """Remove one of those; absent is fine. Raises StateFailure (106)."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as fault:
            raise StateFailure(f"remove {path}: {fault.strerror}") from None

    def read_foreign(self) -> list[tuple[str, dict[str, object] | None, float]]:
        """Give path, document (None if it is not understood) and time of each of the Go plugin's records (N6)."""
        found: list[tuple[str, dict[str, object] | None, float]] = []
        for name in list_names(self._state_dir):
            path = f"{self._state_dir}/{name}"
            if name.endswith(ENDINGS) or not os.path.isfile(path) or os.path.islink(path):
                continue
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            except OSError:
                continue
            try:
                found.append((path, _read_object(fd), os.fstat(fd).st_mtime))
            finally:
                os.close(fd)
        return found


def _read_object(fd: int) -> dict[str, object] | None:
    try:
        doc = loads(os.read(fd, MAX_RECORD))
    except (OSError, ValueError):
        return None
    return doc if isinstance(doc, dict) else None
