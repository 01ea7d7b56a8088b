"""Checks of what the plugin keeps: directories, records, owners, leases, calls on their way. No I/O."""

from __future__ import annotations

from ib_sriov_cni.doctor.check import Checks, fail, note, ok, skip, warn
from ib_sriov_cni.doctor.report import count, shorten

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ib_sriov_cni.doctor.check import Outcome, Seen

checks = Checks()
LEAST_BYTES, LEAST_FILES = 16 << 20, 64
STUCK_SECONDS = 120.0  # a call is through in seconds; a rebind on hardware may take longer
AS_ROOT = "run as root: records are for root alone"


@checks.add(
    "state-dir",
    "The directories the plugin writes to are writable and have room",
    "The state directory (`stateDir`, /var/lib/cni/ib-sriov), /run/ib-sriov for locks, and the leases of host-local. "
    "An ADD that cannot write its record is refused before it touches anything (code 106). Mount the file system "
    "read-write (`mount -o remount,rw`), or make room; after a read-only remount by the kernel see `dmesg`.",
)
def look_at_folders(seen: Seen) -> Iterator[Outcome]:
    good = []
    for folder in seen.state.folders:
        if not folder.writable:
            yield fail(
                f"{folder.path} cannot be written: {folder.reason}",
                "mount -o remount,rw; otherwise its mode or what lies there; dmesg; no ADD can be served",
            )
        elif folder.free_bytes < LEAST_BYTES or folder.free_files < LEAST_FILES:
            left = f"{folder.free_bytes >> 10} KiB and {folder.free_files} files"
            yield (fail if not folder.free_bytes or not folder.free_files else warn)(
                f"{folder.path}: its file system has room for {left} only", f"make room: df -h {folder.path}; df -i"
            )
        else:
            good.append(folder.path)
    if len(good) == len(seen.state.folders):
        how = "writable" if seen.node.root else "on file systems that are writable"
        yield ok(f"{' '.join(good)}: {how}")


@checks.add(
    "state-modes",
    "Records are for root alone",
    "The state directory is 0700 and its files 0600, owned by root: a record decides what DEL does to the host. `chmod "
    "-R go= <stateDir>; chown -R root: <stateDir>`, and find out who opened it.",
)
def look_at_modes(seen: Seen) -> Iterator[Outcome]:
    loose = list(seen.state.loose)
    foreign = [folder.path for folder in seen.state.folders if folder.exists and folder.uid != 0]
    if loose:
        yield warn(
            f"others may read or write {shorten(loose)}", f"chmod -R go= {loose[0]}; who changed it (0700, 0600)?"
        )
    if foreign:
        yield warn(f"not owned by root: {shorten(foreign)}", f"chown root: {foreign[0]}; who made it?")
    if not seen.state.readable:
        yield skip(f"modes of records: {AS_ROOT}")
    elif not loose and not foreign:
        yield ok("state is root's alone")


@checks.add(
    "records",
    "Every record can be read",
    "A damaged record is set aside as <name>.damaged and is in nobody's way. What it said is lost: its VF is put "
    "right by the next ADD if an owner link leads to it. Look at it, then remove it; damage comes from the disk "
    "(`dmesg`) or from hands.",
)
def look_at_records(seen: Seen) -> Iterator[Outcome]:
    if seen.state.damaged:
        yield warn(
            f"damaged: {shorten(list(seen.state.damaged), 1)}", "look at it, then remove it; see dmesg for the disk"
        )
    if not seen.state.readable:
        yield skip(f"records: {AS_ROOT}")
    elif not seen.state.damaged:
        yield ok(f"{count(len(seen.state.records), 'record')}, each can be read")


@checks.add(
    "leftovers",
    "No attachment of a dead pod is left",
    "Its DEL never came (Multus does not repeat it, and sends no GC to net1). The next ADD of its VF undoes it by "
    "itself; `ib-sriov gc` does so at once, `ib-sriov agent` after a while by itself. A pod that is just ending looks "
    "the same for a moment.",
)
def look_at_leftovers(seen: Seen) -> Iterator[Outcome]:
    dead = [record for record in seen.state.records if not record.alive and not record.busy]
    now = [record for record in dead if record.this_boot]
    before = [record for record in dead if not record.this_boot]
    if now:
        words = shorten([f"{record.label} (VF {record.pci})" for record in now])
        yield warn(f"{count(len(now), 'attachment')} of dead pods: {words}", "ib-sriov gc releases them")
    if before:
        words = shorten([record.label for record in before])
        yield warn(
            f"{count(len(before), 'attachment')} from before the last boot: {words}",
            "ib-sriov gc forgets them and releases their addresses",
        )
    if not seen.state.readable:
        yield skip(f"attachments: {AS_ROOT}")
    elif not dead:
        alive = [record for record in seen.state.records if record.alive]
        yield ok(f"{count(len(alive), 'attachment')}, none of a dead pod")


@checks.add(
    "owners",
    "Every owned VF is owned by an attachment that has a record of it",
    "An owner link without record is what a crash between two steps of a DEL leaves; the next ADD of that VF takes it "
    "away. A VF that is gone (sriov_numvfs changed under a pod) is released by its pod's DEL.",
)
def look_at_owners(seen: Seen) -> Iterator[Outcome]:
    records = {record.key: record for record in seen.state.records}
    lost = [pci for pci, key in seen.state.owners if key not in records or records[key].pci != pci]
    gone = [record for record in seen.state.records if record.this_boot and not record.vf_there]
    busy = {lock.pci for lock in seen.state.locks}
    lost = [pci for pci in lost if pci not in busy]
    if lost:
        yield warn(
            f"owner without record: VF {shorten(lost)}", "the next ADD of the VF clears it; so does ib-sriov repair"
        )
    if gone:
        words = shorten([f"{record.pci} of {record.label}" for record in gone])
        yield warn(f"VFs of attachments are gone: {words}", "sriov_numvfs was changed under pods: delete these pods")
    if not seen.state.readable:
        yield skip(f"owners: {AS_ROOT}")
    elif not lost and not gone:
        yield ok(f"{count(len(seen.state.owners), 'VF')} owned, each with a record")


@checks.add(
    "leases",
    "No address is reserved for an attachment that is not there",
    "Leases of host-local in the networks of this plugin, whose container has no record. They keep addresses from "
    "pods. `ib-sriov gc` releases those of dead pods; one that no record speaks of is a file in the network's folder "
    "below /var/lib/cni/networks: look whether its container (the file's content) lives, then remove it.",
)
def look_at_leases(seen: Seen) -> Iterator[Outcome]:
    containers = {record.key.container_id for record in seen.state.records}
    go_names = {path.rpartition("/")[2] for path in seen.state.go_records}
    if not seen.state.readable:
        yield skip(f"leases: {AS_ROOT}")
        return
    lost = [
        lease
        for lease in seen.state.leases
        if lease.container_id not in containers and f"{lease.container_id}-{lease.ifname}" not in go_names
    ]
    if lost:
        words = shorten([f"{lease.address} ({lease.network})" for lease in lost])
        yield warn(
            f"reserved for nobody: {words}",
            f"crictl ps -a | grep {lost[0].container_id[:12]}; if it is gone: rm {lost[0].path}",
        )
    else:
        yield ok(f"{count(len(seen.state.leases), 'lease')}, each of an attachment")


@checks.add(
    "stuck-calls",
    "No call of the plugin is stuck",
    "A call holds its VF's lock while it works, seconds long. One that holds it for minutes waits for a driver or "
    "firmware (`cat /proc/<pid>/stack`, `dmesg`) or was stopped. Others wait for that VF alone, and are refused with "
    "code 11. Ending the process frees the lock; what it had begun is undone by the next DEL or ADD.",
)
def look_at_locks(seen: Seen) -> Iterator[Outcome]:
    stuck = [lock for lock in seen.state.locks if lock.seconds > STUCK_SECONDS]
    for lock in stuck:
        yield warn(
            f"process {lock.pid} holds VF {lock.pci} for {int(lock.seconds)} s (container {lock.container_id[:12]})",
            f"cat /proc/{lock.pid}/stack; dmesg; then kill {lock.pid}",
        )
    if not seen.state.readable:
        yield skip(f"calls on the way: {AS_ROOT}")
    elif not stuck:
        yield ok(f"{count(len(seen.state.locks), 'call')} on the way, none stuck")


@checks.add(
    "go-records",
    "Attachments of the Go ib-sriov-cni",
    "The node was upgraded in place with pods running. Their DEL is understood; they are not listed as ours before. "
    "If all pods were started anew since, remove the files.",
)
def look_at_go_records(seen: Seen) -> Iterator[Outcome]:
    if seen.state.go_records:
        yield note(
            f"{count(len(seen.state.go_records), 'record')} of the Go plugin in the state directory",
            "the DEL of their pods releases them; without such pods: remove the files",
        )
    elif seen.state.readable:
        yield ok("no records of the Go plugin")
    else:
        yield skip(f"records of the Go plugin: {AS_ROOT}")


@checks.add(
    "addresses",
    "No range of addresses is exhausted",
    "host-local's ranges on this node, its slice if there are slices. `ib-sriov gc` releases what dead pods hold; "
    "otherwise widen the range, or give the nodes larger slices (docs/ipam.md).",
)
def look_at_addresses(seen: Seen) -> Iterator[Outcome]:
    for pool in seen.known_config.pools:
        words = f"network {pool.network}: {pool.used} of {pool.size} addresses of {pool.ranges} in use"
        if pool.exhausted:
            yield fail(words, "ib-sriov gc for what dead pods hold; otherwise a wider range (docs/ipam.md)")
        elif pool.used * 10 >= pool.size * 9:
            yield warn(words, "nearly exhausted: ib-sriov gc, or a wider range (docs/ipam.md)")
        else:
            yield ok(words)
    if not seen.known_config.pools:
        yield ok("no configuration here has addresses of the bundled host-local")


@checks.add(
    "slices",
    "This node's slice of the addresses is known",
    "`slices` cuts a part of the subnet for each node, by flannel's /run/flannel/subnet.env or a file with the node's "
    "number. flanneld writes the former when it starts (`kubectl -n kube-flannel get pods`); the latter is yours.",
)
def look_at_slices(seen: Seen) -> Iterator[Outcome]:
    for words, hint in seen.known_config.slice_faults:
        yield fail(words, hint or "docs/ipam.md")
    if not seen.known_config.slice_faults:
        found = seen.known_config.slices
        yield ok(f"this node has {shorten(list(found))}" if found else "no configuration here uses slices")
