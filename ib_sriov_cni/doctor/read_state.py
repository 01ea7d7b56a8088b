"""Reads facts about the plugin's state: state directories, records, owners of VFs, leases, locks.

state.records renames a record that it cannot parse. The doctor must change nothing, so it reads the files itself.
"""

from __future__ import annotations

import os
import stat
import time

from ib_sriov_cni.attach.host import Host
from ib_sriov_cni.attach.liveness import judge
from ib_sriov_cni.core.record import AttachmentKey, Record, parse_record
from ib_sriov_cni.core.values import PciAddress
from ib_sriov_cni.doctor.facts import LOCK_FOLDER, Folder, HeldLock, Lease, RecordFacts, StateFacts
from ib_sriov_cni.state.directory import DEFAULT_STATE_DIR, MAX_RECORD, list_names
from ib_sriov_cni.telemetry.log import Log
from ipam.host_local.store import lease_address, parse_lease
from ipam.protocol.fastjson import loads
from ipam.protocol.request import is_name
from ipam.protocol.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.doctor.facts import Network, Roots

OTHERS = 0o077  # any permission for group or others


def read_state(roots: Roots, networks: tuple[Network, ...]) -> StateFacts:
    """Read the default state directory and those that networks name, and host-local's leases in these networks."""
    state_dirs = list(dict.fromkeys([DEFAULT_STATE_DIR, *[net.state_dir for net in networks if net.state_dir]]))
    locks, locks_unread = _read_locks(roots)
    reader = _Reader(roots, {lock.pci for lock in locks})
    data_dirs = dict.fromkeys([(net.data_dir, net.name) for net in networks if net.data_dir])
    # Before the records: an ADD writes its record before its lease, so a lease without a record is left over.
    leases = [lease for data_dir, name in data_dirs for lease in _read_leases(roots.path(f"{data_dir}/{name}"), name)]
    for state_dir in state_dirs:
        reader.read(state_dir)
    folders = dict.fromkeys([*state_dirs, *[data_dir for data_dir, _ in data_dirs], LOCK_FOLDER])
    return StateFacts(
        folders=tuple([read_folder(roots, folder) for folder in folders]),
        readable=reader.readable,
        records=tuple(reader.records),
        owners=tuple(reader.owners),
        damaged=tuple(reader.damaged),
        loose=tuple(reader.loose),
        go_records=tuple(reader.go_records),
        # A lease that was released in the meantime belonged to a call in progress.
        leases=tuple([lease for lease in leases if os.path.exists(lease.path)]),
        locks=tuple(locks),
        locks_unread=locks_unread,
    )


class _Reader:
    """Reads state directories and collects what it finds."""

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
            self._check_mode(base, state_dir)
        for name in self._names(base):
            path = f"{base}/{name}"
            if not os.path.isdir(path) and "-" in name and not name.endswith((".damaged", ".new")):
                self.go_records.append(f"{state_dir}/{name}")
            elif name.endswith(".damaged"):
                self.damaged.append(f"{state_dir}/{name}")
        for network in self._names(f"{base}/attachments"):
            folder = f"attachments/{network}"
            self._check_mode(f"{base}/{folder}", f"{state_dir}/{folder}")
            for name in self._names(f"{base}/{folder}"):
                self._read_record(host, base, state_dir, f"{folder}/{name}")
        for name in self._names(f"{base}/devices"):
            key = None if name.endswith(".new") else _read_owner(f"{base}/devices/{name}")
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

    def _check_mode(self, path: str, shown: str) -> None:
        try:
            status = os.lstat(path)
        except OSError:
            return
        if status.st_mode & OTHERS and not stat.S_ISLNK(status.st_mode):
            self.loose.append(shown)

    def _read_record(self, host: Host, base: str, state_dir: str, path: str) -> None:
        if path.endswith((".new", ".damaged")):
            # The next write replaces a .new file that a killed one left.
            self.damaged += [f"{state_dir}/{path}"] if path.endswith(".damaged") else []
            return
        self._check_mode(f"{base}/{path}", f"{state_dir}/{path}")
        try:
            record = _read_record_file(f"{base}/{path}")
        except PermissionError:
            self.readable = False
            return
        except FileNotFoundError:  # just released
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.damaged.append(f"{state_dir}/{path}")
            return
        shifted = replace(record, netns_path=self._roots.path(record.netns_path))
        this_boot = not host.is_from_earlier_boot(record)
        self.records.append(
            RecordFacts(
                key=record.key,
                pci=str(record.pci),
                pod=record.pod,
                since=record.since,
                guid=record.port_guid,
                alive=not judge(host, shifted).is_over,  # if that cannot be found out, it is
                busy=str(record.pci) in self._locked,
                this_boot=this_boot,
                vf_exists=host.sysfs.exists(record.pci),
            )
        )


def _read_record_file(path: str) -> Record:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return parse_record(loads(os.read(fd, MAX_RECORD)))
    finally:
        os.close(fd)


def _read_owner(path: str) -> AttachmentKey | None:
    try:
        return AttachmentKey.parse(os.readlink(path))
    except OSError:
        return None


def read_folder(roots: Roots, path: str) -> Folder:
    """Find out whether the plugin, which runs as root, could write to a folder, or create it."""
    real_path = roots.path(path)
    nearest = real_path
    while not os.path.lexists(nearest) and os.path.dirname(nearest) != nearest:
        nearest = os.path.dirname(nearest)
    exists = nearest == real_path
    status = os.stat(nearest)
    space = os.statvfs(nearest)
    reason = ""
    if not stat.S_ISDIR(status.st_mode):
        reason = f"{nearest} is not a folder"
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
        free_files=space.f_favail if space.f_files else 1 << 30,  # 0: a file system that creates inodes as needed
        private=exists and _is_private(f"{roots.proc}/1/root", path, status),
    )


def _is_private(root: str, path: str, own: os.stat_result) -> bool:
    """Return whether `path` is another folder below `root`, the host's root folder; False if that cannot be seen.

    It can be seen by root in the host's PID namespace.
    """
    try:
        os.stat(f"{root}/.")
    except OSError:
        return False
    try:
        return not os.path.samestat(os.stat(f"{root}{path}"), own)
    except OSError:
        return True


def _read_leases(folder: str, network: str) -> list[Lease]:
    leases = []
    for name in list_names(folder):
        if lease_address(name) is None:
            continue
        try:
            with open(f"{folder}/{name}", "rb") as file:
                holder = parse_lease(file.read(4096))
        except OSError:
            continue
        # A file that names no container was put there by hand to reserve the address.
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


def _read_locks(roots: Roots) -> tuple[list[HeldLock], str]:
    """Return the locks of VFs that are held, and why not all could be read ("" if they could).

    They are found in the kernel's list of locks: trying to take them would get in the way of calls.
    """
    folder = roots.path(LOCK_FOLDER)
    try:
        with open(f"{roots.proc}/locks", encoding="utf-8", errors="replace") as file:
            # "1: FLOCK  ADVISORY  WRITE 1234 00:19:5678 0 EOF"; a process that waits for one has "->" before FLOCK
            held = [words for words in map(str.split, file) if len(words) > 5 and words[1] == "FLOCK"]
        names = sorted(os.listdir(folder))
    except FileNotFoundError as fault:
        # /run/ib-sriov is made by the first call since the boot.
        return [], "" if fault.filename == folder else _describe(fault)
    except OSError as fault:
        return [], _describe(fault)
    pids = {words[5]: words[4] for words in held}
    locks, unread = [], ""
    for name in names:
        pci = name.removesuffix(".lock")
        if pci == name or not _is_pci(pci):  # agent.lock is the node agent's
            continue
        try:
            pid = pids.get(_lock_id(os.stat(f"{folder}/{name}")))
            if pid is None:
                continue
            with open(f"{folder}/{name}", encoding="utf-8", errors="replace") as file:
                fields = file.read(400).split()
        except FileNotFoundError:
            continue
        except OSError as fault:
            unread = _describe(fault)
            continue
        _, container, ifname, since = fields if len(fields) == 4 and fields[3].isdigit() else ("", "", "", "0")
        seconds = time.time() - int(since) if since != "0" else 0.0
        locks.append(
            HeldLock(
                pci=pci,
                pid=int(pid) if pid.isdigit() else 0,
                container_id=container,
                ifname=ifname,
                seconds=seconds,
            )
        )
    return locks, unread


def _describe(fault: OSError) -> str:
    return f"{fault.filename}: {fault.strerror}"


def _lock_id(status: os.stat_result) -> str:
    """Return what /proc/locks calls a file: device in hexadecimal, inode in decimal (lock_get_status, fs/locks.c)."""
    return f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"


def _is_pci(text: str) -> bool:
    try:
        PciAddress.parse(text)
    except ValueError:
        return False
    return True
