"""Facts of what the plugin keeps: state directories, records, owners of VFs, leases, locks. Nothing is renamed here.

The records' own door renames what it cannot understand; a doctor must not. So files are read here by themselves.
"""

from __future__ import annotations

import os
import stat
import time

from ib_sriov_cni.attach.host import Host
from ib_sriov_cni.attach.liveness import is_alive
from ib_sriov_cni.core.errors import CniError
from ib_sriov_cni.core.record import AttachmentKey, Record, parse_record
from ib_sriov_cni.doctor.facts import Folder, HeldLock, Lease, RecordFacts, StateFacts
from ib_sriov_cni.state.directory import DEFAULT_STATE_DIR, MAX_RECORD
from ib_sriov_cni.telemetry.log import Log
from ipam.host_local.store import lease_address, parse_lease
from ipam.protocol.fastjson import loads
from ipam.protocol.request import is_name
from ipam.protocol.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.doctor.facts import Network, Roots

LOCKS = "/run/ib-sriov"
LOOSE = 0o077


def read_state(roots: Roots, networks: tuple[Network, ...]) -> StateFacts:
    """Read the default state directory and those that configurations name; leases of host-local in those networks."""
    state_dirs = list(dict.fromkeys([DEFAULT_STATE_DIR, *[net.state_dir for net in networks if net.state_dir]]))
    locks = _read_locks(roots)
    reader = _Reader(roots, {lock.pci for lock in locks})
    data_dirs = dict.fromkeys([(net.data_dir, net.name) for net in networks if net.data_dir])
    # Before the records: an ADD writes its record first, so that a lease seen here without one is left over.
    leases = [lease for data_dir, name in data_dirs for lease in _read_leases(roots.path(f"{data_dir}/{name}"), name)]
    for state_dir in state_dirs:
        reader.read(state_dir)
    folders = dict.fromkeys([*state_dirs, *[data_dir for data_dir, _ in data_dirs], LOCKS])
    return StateFacts(
        folders=tuple([read_folder(roots, folder) for folder in folders]),
        readable=reader.readable,
        records=tuple(reader.records),
        owners=tuple(reader.owners),
        damaged=tuple(reader.damaged),
        loose=tuple(reader.loose),
        go_records=tuple(reader.go_records),
        # One that went in the meantime was on its way.
        leases=tuple([lease for lease in leases if os.path.exists(lease.path)]),
        locks=tuple(locks),
    )


class _Reader:
    """Goes through state directories."""

    def __init__(self, roots: Roots, locked: set[str]) -> None:
        self._roots = roots
        self._locked = locked
        self.readable = True
        self.records: list[RecordFacts] = []
        self.owners: list[tuple[str, AttachmentKey]] = []
        self.damaged: list[str] = []
        self.loose: list[str] = []
        self.go_records: list[str] = []

    def read(self, state_dir: str) -> None:
        base = self._roots.path(state_dir)
        host = Host(log=Log(level="error"), state_dir=base, sysfs_root=self._roots.sysfs, proc_root=self._roots.proc)
        if os.path.isdir(base):
            self._note_mode(base, state_dir)
        for name in self._names(base):
            path = f"{base}/{name}"
            if not os.path.isdir(path) and "-" in name and not name.endswith((".damaged", ".new")):
                self.go_records.append(f"{state_dir}/{name}")
            elif name.endswith(".damaged"):
                self.damaged.append(f"{state_dir}/{name}")
        for network in self._names(f"{base}/attachments"):
            folder = f"attachments/{network}"
            self._note_mode(f"{base}/{folder}", f"{state_dir}/{folder}")
            for name in self._names(f"{base}/{folder}"):
                self._read_record(host, base, state_dir, f"{folder}/{name}")
        for name in self._names(f"{base}/devices"):
            key = None if name.endswith(".new") else _owner(f"{base}/devices/{name}")
            if key is not None:
                self.owners.append((name, key))

    def _names(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(folder))
        except PermissionError:
            self.readable = False
        except OSError:
            pass
        return []

    def _note_mode(self, path: str, shown: str) -> None:
        try:
            status = os.lstat(path)
        except OSError:
            return
        if status.st_mode & LOOSE and not stat.S_ISLNK(status.st_mode):
            self.loose.append(shown)

    def _read_record(self, host: Host, base: str, state_dir: str, path: str) -> None:
        if path.endswith((".new", ".damaged")):
            # What a killed write has left is replaced by the next one.
            self.damaged += [f"{state_dir}/{path}"] if path.endswith(".damaged") else []
            return
        self._note_mode(f"{base}/{path}", f"{state_dir}/{path}")
        try:
            record = _parse(f"{base}/{path}")
        except PermissionError:
            self.readable = False
            return
        except FileNotFoundError:  # released just now
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.damaged.append(f"{state_dir}/{path}")
            return
        there = replace(record, netns_path=self._roots.path(record.netns_path))
        this_boot = record.boot_id == host.read_boot_id()
        self.records.append(
            RecordFacts(
                key=record.key,
                pci=str(record.pci),
                pod=record.pod,
                since=record.since,
                guid=record.port_guid,
                alive=_is_alive(host, there),
                busy=str(record.pci) in self._locked,
                this_boot=this_boot,
                vf_there=host.sysfs.exists(record.pci),
            )
        )


def _is_alive(host: Host, record: Record) -> bool:
    """What cannot be asked is not called dead."""
    try:
        return is_alive(host, record)
    except CniError:
        return True


def _parse(path: str) -> Record:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return parse_record(loads(os.read(fd, MAX_RECORD)))
    finally:
        os.close(fd)


def _owner(path: str) -> AttachmentKey | None:
    try:
        return AttachmentKey.parse(os.readlink(path))
    except OSError:
        return None


def read_folder(roots: Roots, path: str) -> Folder:
    """Tell whether the plugin, which runs as root, could write to a folder, or make it."""
    there = roots.path(path)
    nearest = there
    while not os.path.lexists(nearest) and os.path.dirname(nearest) != nearest:
        nearest = os.path.dirname(nearest)
    exists = nearest == there
    status = os.stat(nearest)
    space = os.statvfs(nearest)
    reason = ""
    if not stat.S_ISDIR(status.st_mode):
        reason = f"{nearest} is no folder"
    elif space.f_flag & os.ST_RDONLY:
        reason = "the file system is mounted read-only"
    elif os.geteuid() == 0 and not os.access(nearest, os.W_OK | os.X_OK):
        reason = f"{nearest} cannot be written"
    return Folder(
        path=path,
        exists=exists,
        writable=not reason,
        reason=reason,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        free_bytes=space.f_bavail * space.f_frsize,
        free_files=space.f_favail if space.f_files else 1 << 30,  # 0: a file system that makes them as needed
    )


def _read_leases(folder: str, network: str) -> list[Lease]:
    leases = []
    for name in _list(folder):
        if lease_address(name) is None:
            continue
        try:
            with open(f"{folder}/{name}", "rb") as file:
                holder = parse_lease(file.read(4096))
        except OSError:
            continue
        # What does not name a container was put there to keep an address from being given.
        if holder is not None and is_name(holder.container_id):
            leases.append(
                Lease(
                    network=network,
                    address=name,
                    path=f"{folder}/{name}",
                    container_id=holder.container_id,
                    ifname=holder.ifname,
                )
            )
    return leases


def _list(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _read_locks(roots: Roots) -> list[HeldLock]:
    """Find the locks that are held by the kernel's list of them: taking one to find out would be in the way."""
    try:
        with open(f"{roots.proc}/locks", encoding="utf-8", errors="replace") as file:
            # "1: FLOCK  ADVISORY  WRITE 1234 00:19:5678 0 EOF"; one that is waited for has "->" before FLOCK
            held = [words for words in map(str.split, file) if len(words) > 5 and words[1] == "FLOCK"]
    except OSError:
        return []
    inodes = {words[5].rpartition(":")[2]: words[4] for words in held}
    folder = roots.path(LOCKS)
    locks = []
    for name in _list(folder):
        try:
            pid = inodes.get(str(os.stat(f"{folder}/{name}").st_ino))
            if pid is None or not name.endswith(".lock"):
                continue
            with open(f"{folder}/{name}", encoding="utf-8", errors="replace") as file:
                said = file.read(400).split()
        except OSError:
            continue
        _, container, ifname, since = said if len(said) == 4 and said[3].isdigit() else ("", "", "", "0")
        seconds = time.time() - int(since) if since != "0" else 0.0
        locks.append(
            HeldLock(
                pci=name.removesuffix(".lock"),
                pid=int(pid) if pid.isdigit() else 0,
                container_id=container,
                ifname=ifname,
                seconds=seconds,
            )
        )
    return locks
