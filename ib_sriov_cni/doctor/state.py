"""Checks of the plugin's state: directories, records, owners, leases, calls in progress. No I/O."""

from __future__ import annotations

from ib_sriov_cni.doctor.check import Checks, fail, note, ok, skip, warn
from ib_sriov_cni.doctor.report import render_count, render_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ib_sriov_cni.doctor.check import Facts, Outcome

checks = Checks()
MIN_FREE_BYTES, MIN_FREE_FILES = 16 << 20, 64
STUCK_SECONDS = 120.0  # a call takes seconds; a rebind on hardware may take longer
NEEDS_ROOT = "run as root (only root can read the records)"


@checks.add(
    "state-dir",
    "The directories that the plugin writes to are writable and have free space",
    "The state directory (`stateDir`, /var/lib/cni/ib-sriov), /run/ib-sriov for locks, and the leases of host-local. "
    "An ADD that cannot write its record fails before it changes anything (code 106). Mount the file system read-write "
    "(`mount -o remount,rw`), or free some space; if the kernel remounted it read-only, see `dmesg`. Programs that "
    "share the state but not the locks undo what the other one has not finished yet, so a container in which the "
    "plugin or the agent runs needs these folders of the host.",
)
def check_folders(facts: Facts) -> Iterator[Outcome]:
    good = []
    for folder in facts.state.folders:
        if folder.private:
            yield fail(
                f"{folder.path} is not the host's: this container has a folder of its own there",
                f"mount the host's {folder.path} into it: programs that do not share it take VFs from each other",
            )
        elif not folder.writable:
            yield fail(
                f"{folder.path} cannot be written: {folder.reason}",
                "mount -o remount,rw, or check the path and its mode; see dmesg; every ADD fails until then",
            )
        elif folder.free_bytes < MIN_FREE_BYTES or folder.free_files < MIN_FREE_FILES:
            left = f"{folder.free_bytes >> 10} KiB and {folder.free_files} files"
            yield (fail if not folder.free_bytes or not folder.free_files else warn)(
                f"{folder.path}: only {left} free on its file system", f"free some space: df -h {folder.path}; df -i"
            )
        else:
            good.append(folder.path)
    if len(good) == len(facts.state.folders):
        how = "writable" if facts.node.root else "on writable file systems"
        yield ok(f"{' '.join(good)}: {how}")


@checks.add(
    "state-modes",
    "Only root can read and write the records",
    "The state directory has mode 0700 and its files 0600, owned by root: a record decides what DEL does to the host. "
    "`chmod -R go= <stateDir>; chown -R root: <stateDir>`, and find out who changed it.",
)
def check_modes(facts: Facts) -> Iterator[Outcome]:
    loose = list(facts.state.loose)
    foreign = [folder.path for folder in facts.state.folders if folder.exists and folder.uid != 0]
    if loose:
        yield warn(
            f"not only root can read or write {render_names(loose)}", f"chmod -R go= {loose[0]}; who changed its mode?"
        )
    if foreign:
        yield warn(f"not owned by root: {render_names(foreign)}", f"chown root: {foreign[0]}; who created it?")
    if not facts.state.readable:
        yield skip(f"modes of records: {NEEDS_ROOT}")
    elif not loose and not foreign:
        yield ok("only root can read and write the state")


@checks.add(
    "records",
    "Every record can be read",
    "A damaged record is renamed to <name>.damaged and does no harm. Its content is lost; if an owner link still "
    "points to it, the next ADD of its VF restores the VF. Look at the file, then remove it. Damage comes from the "
    "disk (`dmesg`) or from somebody who edited the file.",
)
def check_records(facts: Facts) -> Iterator[Outcome]:
    if facts.state.damaged:
        yield warn(
            f"damaged: {render_names(list(facts.state.damaged), 1)}",
            "look at it, then remove it; check the disk",
        )
    if not facts.state.readable:
        yield skip(f"records: {NEEDS_ROOT}")
    elif not facts.state.damaged:
        yield ok(f"{render_count(len(facts.state.records), 'record')}, all readable")


@checks.add(
    "leftovers",
    "No attachment of a dead pod is left over",
    "Its DEL never came (Multus does not repeat it, and sends no GC for net1). The next ADD of its VF releases it, "
    "`ib-sriov gc` does so at once, and `ib-sriov agent` after a grace period. A pod that is just ending looks the "
    "same for a moment.",
)
def check_leftovers(facts: Facts) -> Iterator[Outcome]:
    dead = [record for record in facts.state.records if not record.alive and not record.busy]
    now = [record for record in dead if record.this_boot]
    before = [record for record in dead if not record.this_boot]
    if now:
        words = render_names([f"{record.label} (VF {record.pci})" for record in now])
        yield warn(f"{render_count(len(now), 'attachment')} of dead pods: {words}", "ib-sriov gc releases them")
    if before:
        words = render_names([record.label for record in before])
        yield warn(
            f"{render_count(len(before), 'attachment')} from before the last boot: {words}",
            "ib-sriov gc removes their records and releases their addresses",
        )
    if not facts.state.readable:
        yield skip(f"attachments: {NEEDS_ROOT}")
    elif not dead:
        alive = [record for record in facts.state.records if record.alive]
        yield ok(f"{render_count(len(alive), 'attachment')}, none of a dead pod")


@checks.add(
    "owners",
    "Every VF with an owner is owned by an attachment with a record of that VF",
    "A crash between two steps of a DEL leaves an owner link without a record; the next ADD of that VF removes it. A "
    "VF that no longer exists (sriov_numvfs was changed while a pod had it) is released by its pod's DEL.",
)
def check_owners(facts: Facts) -> Iterator[Outcome]:
    records = {record.key: record for record in facts.state.records}
    lost = [pci for pci, key in facts.state.owners if key not in records or records[key].pci != pci]
    gone = [record for record in facts.state.records if record.this_boot and not record.vf_exists]
    busy = {lock.pci for lock in facts.state.locks}
    lost = [pci for pci in lost if pci not in busy]
    if lost:
        yield warn(
            f"owner without a record: VF {render_names(lost)}",
            "the VF's next ADD or ib-sriov repair removes it",
        )
    if gone:
        words = render_names([f"{record.pci} of {record.label}" for record in gone])
        yield warn(
            f"VFs of attachments no longer exist: {words}", "sriov_numvfs was changed under pods: delete these pods"
        )
    if not facts.state.readable:
        yield skip(f"owners: {NEEDS_ROOT}")
    elif not lost and not gone:
        yield ok(f"{render_count(len(facts.state.owners), 'VF')} with an owner, all with a record")


@checks.add(
    "leases",
    "Every reserved address belongs to an attachment",
    "Finds leases of host-local in this plugin's networks whose container has no record; they keep addresses from "
    "pods. (If there is a record, `ib-sriov gc` releases them.) Each lease is a file in the network's folder below "
    "/var/lib/cni/networks: check whether its container (named in the file) exists; if not, remove the file.",
)
def check_leases(facts: Facts) -> Iterator[Outcome]:
    containers = {record.key.container_id for record in facts.state.records}
    go_names = {path.rpartition("/")[2] for path in facts.state.go_records}
    if not facts.state.readable:
        yield skip(f"leases: {NEEDS_ROOT}")
        return
    lost = [
        lease
        for lease in facts.state.leases
        if lease.container_id not in containers and f"{lease.container_id}-{lease.ifname}" not in go_names
    ]
    if lost:
        words = render_names([f"{lease.address} ({lease.network})" for lease in lost])
        yield warn(
            f"addresses reserved without an attachment: {words}",
            f"crictl ps -a | grep {lost[0].container_id[:12]}; if that finds nothing: rm {lost[0].path}",
        )
    else:
        yield ok(f"{render_count(len(facts.state.leases), 'lease')}, all held by attachments")


@checks.add(
    "stuck-calls",
    "No call of the plugin is stuck",
    "A call holds its VF's lock for seconds. One that holds it for minutes is waiting for a driver or firmware (`cat "
    "/proc/<pid>/stack`, `dmesg`) or was stopped. Only calls for the same VF wait for it, and fail with code 11. "
    "Killing the process releases the lock; the next DEL or ADD undoes what it had started.",
)
def check_locks(facts: Facts) -> Iterator[Outcome]:
    stuck = [lock for lock in facts.state.locks if lock.seconds > STUCK_SECONDS]
    for lock in stuck:
        yield warn(
            f"process {lock.pid} holds VF {lock.pci} for {int(lock.seconds)} s (container {lock.container_id[:12]})",
            f"cat /proc/{lock.pid}/stack; dmesg; then kill {lock.pid}",
        )
    if facts.state.locks_unread:
        yield skip(f"calls in progress: not checked: {facts.state.locks_unread}", "run as root")
    elif not facts.state.readable:
        yield skip(f"calls in progress: {NEEDS_ROOT}")
    elif not stuck:
        yield ok(f"{render_count(len(facts.state.locks), 'call')} in progress, none stuck")


@checks.add(
    "go-records",
    "No attachments of the Go ib-sriov-cni are left",
    "The node was upgraded in place with pods running. The DEL of these pods releases what the Go plugin attached; "
    "`ib-sriov list` shows their VFs as foreign. If no pod from before the upgrade is left, remove the files.",
)
def check_go_records(facts: Facts) -> Iterator[Outcome]:
    if facts.state.go_records:
        yield note(
            f"{render_count(len(facts.state.go_records), 'record')} of the Go plugin in the state directory",
            "the DEL of their pods releases them; if there are no such pods, remove the files",
        )
    elif facts.state.readable:
        yield ok("no records of the Go plugin")
    else:
        yield skip(f"records of the Go plugin: {NEEDS_ROOT}")


@checks.add(
    "addresses",
    "No address range is exhausted",
    "Counts host-local's addresses on this node (in its slice, if slices are used). `ib-sriov gc` releases those of "
    "dead pods; if that is not enough, widen the range, or give each node a larger slice (docs/ipam.md).",
)
def check_address_ranges(facts: Facts) -> Iterator[Outcome]:
    for pool in facts.readable_config.pools:
        words = f"network {pool.network}: {pool.used} of {pool.size} addresses of {pool.ranges} in use"
        if pool.exhausted:
            yield fail(words, "ib-sriov gc releases those of dead pods; otherwise use a wider range (docs/ipam.md)")
        elif pool.used * 10 >= pool.size * 9:
            yield warn(words, "nearly exhausted: ib-sriov gc, or a wider range (docs/ipam.md)")
        else:
            yield ok(words)
    if not facts.readable_config.pools:
        yield ok("no configuration here uses the bundled host-local")


@checks.add(
    "slices",
    "This node's slice of the addresses is known",
    "`slices` gives each node a part of the subnet, according to flannel's /run/flannel/subnet.env or a file with the "
    "node's number. flanneld writes the former when it starts (`kubectl -n kube-flannel get pods`); the latter you "
    "have to provide, or the node agent with `--cluster-cidr`.",
)
def check_slices(facts: Facts) -> Iterator[Outcome]:
    for text, hint in facts.readable_config.slice_faults:
        yield fail(text, hint or "docs/ipam.md")
    if not facts.readable_config.slice_faults:
        found = facts.readable_config.slices
        yield ok(f"this node has {render_names(list(found))}" if found else "no configuration here uses slices")
