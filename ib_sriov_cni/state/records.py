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

from ib_sriov_cni.core.errors import StateFailure
from ib_sriov_cni.core.record import AttachmentKey, Record, parse_record, render_record
from ib_sriov_cni.state.directory import (
    DEFAULT_STATE_DIR,
    MAX_RECORD,
    NO_RECORD,
    list_names,
    make_folders,
    mark_damaged,
    remove_quietly,
    rename_planted_links,
    retry_if_folder_vanished,
    sync_folder,
    write_whole,
)
from ipam.protocol.fastjson import dumps, loads

TYPE_CHECKING = False


class Records:
    """The records below a state directory."""

    def __init__(self, state_dir: str = DEFAULT_STATE_DIR) -> None:
        """Nothing is made before the first write."""
        self._attachments = f"{state_dir}/attachments"

    def file_of(self, key: AttachmentKey) -> str:
        """Give the path of a record, for messages."""
        return f"{self._attachments}/{key.path}.json"

    def read(self, key: AttachmentKey) -> Record | None:
        """Give the record of an attachment, None if there is none or it was set aside as damaged.

        Raises StateFailure (106) if it is there but cannot be read.
        """
        path = self.file_of(key)
        rename_planted_links(self._attachments, os.path.dirname(path))
        try:
            return self.inspect(key)
        except ValueError:
            mark_damaged(path)
            return None

    def inspect(self, key: AttachmentKey) -> Record | None:
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
            retry_if_folder_vanished(lambda: self._write(record, path, text))
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

    def forget(self, key: AttachmentKey) -> None:
        """Remove a record; absent is fine. Raises StateFailure (106)."""
        path = self.file_of(key)
        try:
            os.unlink(path)
        except OSError as fault:
            if fault.errno not in NO_RECORD:
                raise StateFailure(f"remove record {path}: {fault.strerror}") from None
        _remove_empty(os.path.dirname(path), self._attachments)

    def sweep(self, network: str, key: AttachmentKey | None = None) -> None:
        """Remove what writes cut short have left, of a network or one attachment; a live one begins again."""
        folder = f"{self._attachments}/{network}"
        torn = [name for name in list_names(folder) if name.endswith(".json.new")]
        for path in [f"{folder}/{name}" for name in torn]:
            if key is None or path == f"{self.file_of(key)}.new":
                remove_quietly(path)
        if torn:
            _remove_empty(folder, self._attachments)

    def read_keys(self) -> list[AttachmentKey]:
        """Give the keys of all records."""
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
            break  # other attachments are in it


def _create(path: str) -> int:
    """Create a file that nobody else has open, in the place of one that a killed process left."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags, 0o600)
    except FileExistsError:
        remove_quietly(path)
        return os.open(path, flags, 0o600)
