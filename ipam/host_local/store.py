r"""The leases of a network on disk, in the layout of the Go host-local, so that both can share them (H5, H6).

On disk::

    <dataDir>/<network>/
        10.0.0.7               one lease: "<containerID>\r\n<ifname>", mode 0600; old versions: "<containerID>"
        2001:db8::7
        last_reserved_ip.<n>   the address reserved last in range set n
        lock                   flock, held while anything here is read or changed
        .ib-host-local.new     a file being written; left behind only by a crash, and removed by the next call

A lease appears complete: it is written to another name, synced, and linked to its own name, which fails if that exists.
Empty and cut-off files are damaged leases, left by a crash (the Go plugin creates the file first and then writes it).
"""

from __future__ import annotations

import errno
import os
import stat

from ipam.host_local.allocator import Holder, next_free
from ipam.host_local.index import Index
from ipam.host_local.lock import is_folder, take_lock
from ipam.protocol.address import parse_address, render_address
from ipam.protocol.bounds import LEASE_BYTES, join_faults
from ipam.protocol.errors import StateFailure
from ipam.protocol.files import read_regular

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from ipam.host_local.allocator import Grant
    from ipam.host_local.config import Place
    from ipam.host_local.ranges import RangeSet
    from ipam.protocol.address import Address

_NEW = ".ib-host-local.new"
_CURSOR = "last_reserved_ip."
_PROBES = 256  # addresses looked up one by one (half a millisecond) before the folder is listed
_CURSOR_BYTES = 64  # an address has at most 45


def parse_lease(content: bytes) -> Holder | None:
    """Return the holder of a lease; None for a damaged one: empty, with NUL bytes, or cut off after the first line."""
    text = content.decode(errors="replace")
    if not text.strip() or "\0" in text or text.endswith(("\r", "\r\n")):
        return None
    identity, _, ifname = text.strip().partition("\r\n")
    return Holder(container_id=identity, ifname=ifname)


def lease_address(name: str) -> Address | None:
    """Return the address in a file name; None if the file is not a lease."""
    try:
        return parse_address(name)
    except ValueError:
        return None


class Store:
    """The locked leases of one network. Open with open_store() and use as a context manager.

    Reading and writing raise StateFailure (106) or OSError; the context manager turns an OSError into a StateFailure.
    """

    def __init__(self, path: str, folder: int, lock: int, index: Index | None) -> None:
        """Take ownership of the descriptors of the folder and its lock."""
        self._path = path
        self._folder = folder
        self._lock = lock
        self._index = index
        self._probes = 0
        self._names: set[str] | None = None
        self._holders: dict[Holder, list[str]] | None = None
        self._changed = False

    def refresh(self) -> None:
        """Read all leases, unless the index is valid."""
        if self._index is None or not self._index.is_valid():
            self._scan()

    def __enter__(self) -> Self:
        """Return the store, which is already open."""
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Close the store. An OSError becomes a StateFailure (106)."""
        self.close()
        if isinstance(error, OSError):
            raise self._failure("use the leases", error) from None

    def close(self) -> None:
        """Seal the index if it is complete, and unlock."""
        try:
            if self._index is not None:
                if self._changed:
                    self._try_index(Index.seal)
                if self._index is not None:
                    self._index.close()
        finally:
            os.close(self._folder)
            os.close(self._lock)

    # Reading.

    def held(self, holder: Holder) -> list[Address]:
        """Return the addresses that an attachment holds, including those of leases without an interface name (H4)."""
        names = self._names_of(holder) + self._names_of(Holder(container_id=holder.container_id))
        return [address for address in map(lease_address, sorted(names)) if address is not None]

    def cursor(self, index: int) -> Address | None:
        """Return the address reserved last in range set `index`; None if unknown."""
        content = self._read(f"{_CURSOR}{index}")
        return None if content is None else lease_address(content.decode(errors="replace"))

    def is_taken(self, address: Address) -> bool:
        """Return whether an address has a file. After many calls the folder is listed once instead."""
        name = render_address(address)
        if self._names is None and self._probes >= _PROBES:
            self._names = set(os.listdir(self._folder))
        if self._names is not None:
            return name in self._names
        self._probes += 1
        try:
            os.stat(name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def holders(self) -> dict[Holder, list[str]]:
        """Return all attachments with the names of their lease files, read from the leases and not from the index."""
        self.reclaim()
        return dict(self._holders or {})

    def reclaim(self) -> int:
        """Read all leases unless that was done already. Returns how many damaged ones were removed (H8)."""
        return self._scan() if self._holders is None else 0

    def _scan(self) -> int:
        """Read all leases, remove damaged ones, and rebuild the index. Returns how many were removed."""
        holders: dict[Holder, list[str]] = {}
        names: set[str] = set()
        removed = 0
        for name in os.listdir(self._folder):
            if name == _NEW:
                self._remove_leftover(name)
            if lease_address(name) is None:
                continue
            content = self._read(name)
            holder = None if content is None else parse_lease(content)
            if content is not None and holder is None and self._remove_leftover(name):
                removed += 1
                continue
            names.add(name)
            if holder is not None:
                holders.setdefault(holder, []).append(name)
        self._holders, self._names = holders, names
        self._changed = True
        self._try_index(lambda index: index.rebuild(holders))
        return removed

    def _names_of(self, holder: Holder) -> list[str]:
        if self._holders is None:
            names = self._indexed(holder)
            if names is not None:
                return names
            self._scan()
        return list((self._holders or {}).get(holder, ()))

    def _indexed(self, holder: Holder) -> list[str] | None:
        """Return names from the index; None if there is none, or if it does not match the leases."""
        if self._index is None:
            return None
        try:
            names = self._index.find(holder)
        except OSError:
            return None
        return names if all(self._is_held(name, holder) for name in names) else None

    def _is_held(self, name: str, holder: Holder) -> bool:
        content = None if lease_address(name) is None else self._read(name)
        return content is not None and parse_lease(content) == holder

    def _read(self, name: str) -> bytes | None:
        """Return the content of a regular file; None if there is none of that name, or one too large for a lease."""
        try:
            return read_regular(name, LEASE_BYTES, folder=self._folder)
        except OSError as error:
            if error.errno == errno.EFBIG or not self._is_file(name):
                return None
            raise self._failure(f"read {name}", error) from None

    # Writing.

    def reserve(self, holder: Holder, grants: Sequence[Grant]) -> None:
        """Write the leases of an attachment, all or none, and the cursors of their range sets (H4, H5)."""
        content = f"{holder.container_id}\r\n{holder.ifname}".encode()
        names = [render_address(grant.address) for grant in grants]
        before = self._names_of(holder)
        made: list[str] = []
        self._changed = False
        try:
            for name in names:
                self._write(name, content, self._link_new, durable=True)
                made.append(name)
            self._advance(grants)
            os.fsync(self._folder)
        except BaseException as error:
            for name in made:
                self._remove_leftover(name)
            if isinstance(error, OSError):
                raise self._failure(f"reserve {', '.join(names)}", error) from None
            raise
        self._note(holder, before + made)

    def advance(self, grants: Sequence[Grant]) -> None:
        """Set the cursors of the range sets without writing leases."""
        valid = self._changed or (self._index is not None and self._index.is_valid())
        self._advance(grants)
        self._changed = valid

    def _advance(self, grants: Sequence[Grant]) -> None:
        for grant in grants:
            text = render_address(grant.address).encode()
            self._write(f"{_CURSOR}{grant.index}", text, self._rename_new, durable=False)

    def release(self, holder: Holder) -> list[str]:
        """Remove the leases of an attachment; if it has none, those of its container without interface name (H6).

        Returns the names of the removed files.
        """
        for owner in (holder, Holder(container_id=holder.container_id)):
            names = self._names_of(owner)
            if names:
                self.remove({owner: names})
                return names
        return []

    def remove(self, leases: dict[Holder, list[str]]) -> None:
        """Remove leases (file names by attachment). All are tried before StateFailure (106) lists the failures."""
        failed: list[str] = []
        done: list[Holder] = []
        for holder, names in leases.items():
            before = len(failed)
            for name in names:
                try:
                    os.unlink(name, dir_fd=self._folder)
                except FileNotFoundError:
                    pass
                except OSError as error:
                    failed.append(f"{name}: {error.strerror}")
            if len(failed) == before:
                done.append(holder)
        os.fsync(self._folder)
        if failed:
            raise StateFailure(f"cannot release in {self._path}: {join_faults(failed)}")
        for holder in done:
            self._note(holder, [])

    def _note(self, holder: Holder, names: list[str]) -> None:
        self._changed = True
        if self._holders is not None:
            self._holders[holder] = names
        self._try_index(lambda index: index.put(holder, names))

    def _write(self, name: str, content: bytes, place: Callable[[str], None], *, durable: bool) -> None:
        self._unlink_new()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(_NEW, flags, 0o600, dir_fd=self._folder)
        try:
            try:
                rest = content
                while rest:
                    rest = rest[os.write(file, rest) :]
                if durable:
                    os.fsync(file)
            finally:
                os.close(file)
            place(name)
        except BaseException:
            self._unlink_new()
            raise

    def _link_new(self, name: str) -> None:
        """Give the new file its name, which must not exist."""
        os.link(_NEW, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self._remove_leftover(_NEW)

    def _rename_new(self, name: str) -> None:
        """Give the new file its name, replacing whatever has it. A symbolic link there is not followed."""
        os.rename(_NEW, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def _unlink_new(self) -> None:
        try:
            os.unlink(_NEW, dir_fd=self._folder)
        except FileNotFoundError:
            pass

    def _is_file(self, name: str) -> bool:
        try:
            return stat.S_ISREG(os.lstat(name, dir_fd=self._folder).st_mode)
        except OSError:
            return False

    def _remove_leftover(self, name: str) -> bool:
        try:
            os.unlink(name, dir_fd=self._folder)
        except OSError:  # the address stays taken; a later write reports a read-only folder
            return False
        return True

    def _try_index(self, act: Callable[[Index], None]) -> None:
        """Change the index. If that fails, drop it: it is not sealed, so the next call reads the leases."""
        if self._index is None:
            return
        try:
            act(self._index)
        except OSError:
            self._index.close()
            self._index = None

    def _failure(self, doing: str, error: OSError) -> StateFailure:
        return StateFailure(f"cannot {doing} in {self._path}: {error.strerror}")


def open_store(place: Place, *, create: bool) -> Store | None:
    """Lock and open the leases of a network; None if it has no folder and `create` is not set.

    Without `create`, for calls that add no lease, the lock may be something that is not a file (see take_lock).

    Raises TryAgainLater (11) if the lock is held too long, StateFailure (106) if the folder cannot be opened or made.
    """
    path = os.path.join(place.data_dir, place.network)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        try:
            folder = os.open(path, flags)
        except FileNotFoundError:
            if not create:
                return None
            _make_folders(path)
            folder = os.open(path, flags)
    except OSError as error:
        reason = (
            "it is a symbolic link or not a directory"
            if error.errno in (errno.ENOTDIR, errno.ELOOP)
            else error.strerror
        )
        raise StateFailure(f"cannot open {path}: {reason}") from None
    try:
        lock = take_lock(folder, path, place.lock_timeout, releasing=not create)
    except BaseException:
        os.close(folder)
        raise
    # Nobody may seal the index while the Go plugin, which does not see a lock on the folder, may add a lease.
    store = Store(path, folder, lock, None if is_folder(lock) else _open_index(place, folder))
    try:
        store.refresh()
    except BaseException:
        store.close()
        raise
    return store


def _open_index(place: Place, folder: int) -> Index | None:
    try:
        return Index(place.data_dir, place.network, folder)
    except OSError:
        return None


def _make_folders(path: str) -> None:
    """Make a folder and its parents, all with mode 0755 (which os.makedirs does not do), and sync its parent."""
    above = os.path.dirname(path)
    if above and not os.path.isdir(above):
        _make_folders(above)
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        return
    folder = os.open(above or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def is_writable(place: Place) -> bool:
    """Return whether leases could be written: the folder, or its nearest existing parent, is writable."""
    path = os.path.join(place.data_dir, place.network)
    while not os.path.lexists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    return os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)


def is_exhausted(place: Place, index: int, range_set: RangeSet) -> bool:
    """Return whether a range set has no free address. Takes no lock and changes nothing.

    An empty file counts as free, since the next ADD removes it.
    """
    path = os.path.join(place.data_dir, place.network)

    def is_taken(address: Address) -> bool:
        try:
            return os.lstat(os.path.join(path, render_address(address))).st_size > 0
        except OSError:
            return False

    try:
        cursor = lease_address(read_regular(os.path.join(path, f"{_CURSOR}{index}"), _CURSOR_BYTES).decode())
    except (OSError, ValueError):
        cursor = None
    return next_free(range_set, cursor, is_taken) is None
