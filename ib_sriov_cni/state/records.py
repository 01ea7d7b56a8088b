"""Door to the records: what DEL needs to release an attachment, possibly much later.

Layout below stateDir (folders 0700, files 0600, whatever the umask)::

    attachments/<network>/<containerID>:<ifname>.json   a record; neither name can contain a colon
    devices/<PCI address>  ->  <network>/<containerID>:<ifname>     the VF's owner (ownership.py)
    <containerID>-<ifname>                              a record of the Go plugin (N6, go_records.py)

A file is written under a temporary name, synced and renamed, so it is never seen half written. A record that cannot be
parsed is renamed to `<name>.damaged`, out of the way; so is a symbolic link in the place of a folder.

Only what a power cut must not lose is synced; killing a process loses nothing. After a power cut the VF's devices are
as the boot made them, and what is left of an attachment is its addresses. The record says whose they are, so it is
durable before the first effect: the file, its folder, and the folders above if they are new. Nothing else needs a sync
of the folder. An old record in the place of a committed one, a record that had been removed, an owner too many or too
few: these belong to an earlier boot, and DEL and GC release the addresses again or for the first time.
"""

from __future__ import annotations

import errno
import os

from ib_sriov_cni.core.errors import StateFailure
from ib_sriov_cni.core.record import AttachmentKey, Record, parse_record, render_record
from ib_sriov_cni.state.directory import (
    DEFAULT_STATE_DIR,
    MAX_RECORD,
    NO_RECORD,
    list_names,
    make_folders,
    mark_damaged,
    remove_file,
    remove_quietly,
    rename_planted_links,
    replace_file,
    retry_if_folder_vanished,
    sync_folder,
)
from ipam.protocol.fastjson import dumps, loads
from ipam.protocol.files import read_regular

# Other things in the place of a record (see `read_regular`).
NOT_A_RECORD = {
    errno.ELOOP: "it is a symbolic link",
    errno.EINVAL: "it is not a regular file",
    errno.ENXIO: "it is not a regular file",
    errno.EFBIG: f"it is larger than {MAX_RECORD} bytes",
}


class Records:
    """The records in a state directory."""

    def __init__(self, state_dir: str = DEFAULT_STATE_DIR) -> None:
        """Make nothing before the first write."""
        self._attachments = f"{state_dir}/attachments"

    def file_of(self, key: AttachmentKey) -> str:
        """Return the path of a record, for messages."""
        return f"{self._attachments}/{key.path}.json"

    def read(self, key: AttachmentKey) -> Record | None:
        """Return the record of an attachment, None if there is none. A record that cannot be parsed is renamed first.

        Raises StateFailure (106) if there is one that cannot be read or renamed.
        """
        path = self.file_of(key)
        rename_planted_links(self._attachments, os.path.dirname(path))
        try:
            return self.inspect(key)
        except ValueError:
            mark_damaged(path)
            return None

    def inspect(self, key: AttachmentKey) -> Record | None:
        """Return a record as `read` does, but raise ValueError, which says what is wrong, for a damaged one."""
        path = self.file_of(key)
        if os.path.islink(self._attachments) or os.path.islink(os.path.dirname(path)):
            raise ValueError("its folder is a symbolic link")
        try:
            text = read_regular(path, MAX_RECORD)
        except OSError as fault:
            if fault.errno in NO_RECORD:
                return None
            if fault.errno in NOT_A_RECORD:
                raise ValueError(NOT_A_RECORD[fault.errno]) from None
            raise StateFailure(f"read record {path}: {fault.strerror}") from None
        try:
            record = parse_record(loads(text))
        except (ValueError, KeyError, TypeError, AttributeError) as fault:
            raise ValueError(f"{type(fault).__name__}: {fault}") from None
        if record.key != key:
            raise ValueError(f"it is the record of {record.key.path}")
        return record

    def write(self, record: Record) -> None:
        """Write or replace a record, durably if it is new. Raises StateFailure (106), and then nothing has changed."""
        path = self.file_of(record.key)
        try:
            text = dumps(render_record(record)).encode() + b"\n"
            retry_if_folder_vanished(lambda: self._write(record, path, text))
        except (OSError, ValueError) as fault:
            hint = "the state directory must be writable and have free space"
            reason = fault.strerror if isinstance(fault, OSError) else fault
            raise StateFailure(f"write record {path}: {reason}", hint) from None

    def _write(self, record: Record, path: str, text: bytes) -> None:
        temporary = f"{path}.new"
        if not record.committed:  # else record and folder exist
            make_folders(self._attachments, record.key.network)
        try:
            replace_file(path, temporary, text, private=True)
        except FileNotFoundError:
            make_folders(self._attachments, record.key.network)
            replace_file(path, temporary, text, private=True)
        if not record.committed:
            sync_folder(os.path.dirname(path))

    def forget(self, key: AttachmentKey) -> None:
        """Remove a record; does nothing if there is none. Raises StateFailure (106)."""
        path = self.file_of(key)
        remove_file("remove record", path)
        _remove_empty(os.path.dirname(path), self._attachments)

    def sweep(self, network: str, key: AttachmentKey | None = None) -> None:
        """Remove what killed writes have left of a network's records, or of one; a write in progress starts again."""
        folder = f"{self._attachments}/{network}"
        unfinished = [name for name in list_names(folder) if name.endswith(".json.new")]
        for path in [f"{folder}/{name}" for name in unfinished]:
            if key is None or path == f"{self.file_of(key)}.new":
                remove_quietly(path)
        if unfinished:
            _remove_empty(folder, self._attachments)

    def read_keys(self) -> list[AttachmentKey]:
        """Return the keys of all records. Raises StateFailure (106)."""
        rename_planted_links(self._attachments)
        keys = []
        for network in list_names(self._attachments):
            if os.path.islink(f"{self._attachments}/{network}"):
                continue
            for name in list_names(f"{self._attachments}/{network}"):
                key = AttachmentKey.parse(f"{network}/{name[:-5]}") if name.endswith(".json") else None
                if key:
                    keys.append(key)
        return keys


def _remove_empty(*folders: str) -> None:
    for folder in folders:
        try:
            os.rmdir(folder)
        except OSError:
            break  # it has other attachments
