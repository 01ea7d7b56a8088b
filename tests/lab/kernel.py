"""The lab's kernel: found in the distribution's archive, unpacked (not installed), with ibemu.ko and an initramfs.

Everything lies below ${XDG_CACHE_HOME:-~/.cache}/ib-sriov:

    kernel/<release>/boot/vmlinuz-<release>         the packages, unpacked
                    /lib/modules/<release>/
                    /usr/src/linux-headers-…
    kernel/<series>-<arch>.release                  which release the series meant when it was fetched
           apt-<suite>/                             apt's lists of another release of the distribution
    lab/<release>/ibemu/                            the module's build folder
    lab/<release>/<hash>/lib/modules/<release>/     the modules a guest needs, uncompressed
                        /initramfs.gz
                        /lock                       held shared by every VM that runs from this tree
    root/                                           see tools/roots.py

The hash covers what the tree was made from, so a new ibemu.c gives a new tree and leaves the VMs that are up alone.

Variables: MACHINE (machine.py); KERNEL (series, 6.12 by default; 5.10 and "newest" are of other releases of the
distribution); VMLINUZ, MODULES (…/lib/modules/<release>) and KO (an ibemu.ko built for them) take a kernel from
elsewhere; EXTRA_MODS names more modules.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import lzma
import os
import platform
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.lab.archive import FOREIGN, LabError, copy_sources, fetch, find_release, make_module, say
from tests.lab.machine import HOST, Machine, chosen, foreign_archive, guest_root
from tests.tools.apt import Archive
from tests.tools.roots import cache_root, locked

HERE = Path(__file__).resolve().parent
DEFAULT_SERIES = "6.12"

ROOT_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
"""What the initramfs itself loads: the way to the root file system."""

GUEST_MODULES = (
    *ROOT_MODULES,
    *("ib_ipoib", "ib_uverbs", "ib_umad", "rdma_ucm", "rdma_rxe"),
    *("dummy", "veth", "bridge", "bonding", "macvlan", "vfio-pci", "pci-stub", "virtio_net"),
    # a disk, which outlives the machine
    *("virtio_blk", "ext4"),
    # what containerd, flannel and kube-proxy ask of a node
    *("crc32c_generic", "br_netfilter", "nf_conntrack", "nf_conntrack_netlink", "nf_nat", "nf_tables"),
    *("nft_chain_nat", "nft_compat", "nft_ct", "nft_masq", "nft_nat", "nft_reject_inet"),
    *("xt_MASQUERADE", "xt_REDIRECT", "xt_addrtype", "xt_comment", "xt_conntrack", "xt_mark"),
    *("xt_multiport", "xt_nat", "xt_statistic", "xt_tcpudp"),
)


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A kernel ready to boot."""

    machine: Machine
    release: str
    vmlinuz: Path
    tree: Path  # lab/<release>/<hash>: initramfs.gz and lib/modules/<release>
    root: Path  # what the guest has as its root

    @property
    def initramfs(self) -> Path:
        return self.tree / "initramfs.gz"


# ---- the guest's modules and initramfs -----------------------------------------------------------------------


def depends_of(module: bytes) -> list[str]:
    """The `depends=` line of a module's .modinfo."""
    match = re.search(rb"\0depends=([^\0]*)\0", module)
    return [name for name in (match[1].decode() if match else "").split(",") if name]


def copy_modules(source: Path, names: tuple[str, ...], target: Path) -> int:
    """Copy modules and what they need, uncompressed (xz is slow under TCG); the names built in are passed over."""
    files = {}
    for path in source.rglob("*.ko*"):
        files[path.name.split(".ko")[0].replace("-", "_")] = path
    target.mkdir(parents=True)
    todo = [name.replace("-", "_") for name in names]
    done: set[str] = set()
    while todo:
        name = todo.pop()
        if name in done or name not in files:
            continue
        done.add(name)
        raw = files[name].read_bytes()
        module = lzma.decompress(raw) if files[name].suffix == ".xz" else raw
        (target / f"{name}.ko").write_bytes(module)
        todo += [need.replace("-", "_") for need in depends_of(module)]
    return len(done)


def build_ibemu(packages: Path, release: str, base: Path) -> Path:
    """Compile ibemu.ko."""
    work = base / "ibemu"
    copy_sources(HERE / "ibemu", work)
    make_module(packages, release, work)
    return work / "ibemu.ko"


def pack(folder: Path, target: Path) -> None:
    """Pack a folder as a compressed newc archive."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    command = ["busybox", "cpio", "-o", "-H", "newc"]
    listing = "\n".join(names).encode()
    archive = subprocess.run(command, cwd=folder, input=listing, capture_output=True, check=True).stdout
    target.write_bytes(gzip.compress(archive, 1))


def busybox_of(guest: Path) -> Path:
    """The guest's own busybox; of the host's root, the one on PATH."""
    found = shutil.which("busybox") if guest == HOST else str(guest / "bin/busybox")
    if found is None:
        raise LabError("busybox is missing: apt-get install busybox-static")
    return Path(found)


def build_initramfs(work: Path, tree: Path, release: str, guest: Path) -> None:
    root = work / "initramfs"
    for name in ("bin", "dev", "proc", "sys", "root", "lower", "upper"):
        (root / name).mkdir(parents=True)
    shutil.copy(busybox_of(guest), root / "bin/busybox")
    for name in ("init", "agent"):
        shutil.copy(HERE / "guest" / name, root / name)
        (root / name).chmod(0o755)
    copy_modules(tree / "lib/modules" / release / "kernel", ROOT_MODULES, root / "lib/modules" / release / "kernel")
    depmod(root, release)
    pack(root, tree / "initramfs.gz")


def depmod(root: Path, release: str) -> None:
    """Index a module tree by busybox: its modprobe is what the guest uses, whatever the host has."""
    folder = root / "lib/modules" / release
    for name in ("modules.builtin", "modules.order"):
        (folder / name).touch()
    subprocess.run(["busybox", "depmod", "-b", root, release], check=True)


def fingerprint(*parts: object) -> str:
    """A hash over texts and the contents of files."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.read_bytes() if isinstance(part, Path) else repr(part).encode())
    return digest.hexdigest()


# ---- the whole -----------------------------------------------------------------------------------------------


def packaged(series: str, machine: Machine) -> tuple[str, Path]:
    """The release of a series, and the folder of its unpacked packages."""
    folder = cache_root() / "kernel"
    note = folder / f"{series}-{machine.flavour}.release"
    release = note.read_text().strip() if note.exists() else ""
    if not release or not (folder / release).is_dir():
        suite = FOREIGN.get(series, "")
        if suite and not machine.is_host:
            raise LabError(f"KERNEL={series} is of another release, which the lab has for {platform.machine()} only")
        if machine.is_host:
            archive = Archive(suite, folder / f"apt-{suite}") if suite else Archive()
        else:
            archive = foreign_archive(machine)
        release = find_release(archive, series, machine.flavour)
        if not (folder / release).is_dir():
            fetch(archive, release, folder / release, cross=not machine.is_host)
        note.write_text(f"{release}\n")
    return release, folder / release


def build() -> Kernel:
    """Whatever is missing, made; safe to call from several processes at once."""
    machine = chosen()
    for tool in ("busybox", "make", machine.compiler):
        if shutil.which(tool) is None:
            packages = f"busybox-static make {machine.compiler_package} libelf1 {machine.package}"
            raise LabError(f"{tool} is missing: apt-get install {packages}")
    with locked(cache_root() / "lab/lock"):
        return build_unlocked(machine)


def build_unlocked(machine: Machine) -> Kernel:
    guest = guest_root(machine)
    own = [os.environ.get(name, "") for name in ("VMLINUZ", "MODULES", "KO")]
    if any(own):
        if not all(own):
            raise LabError("a kernel of your own needs all three: VMLINUZ=, MODULES=…/lib/modules/RELEASE and KO=")
        vmlinuz, modules, module = (Path(os.path.realpath(name)) for name in own)
        release = modules.name
        base = cache_root() / "lab" / release
    else:
        release, root = packaged(os.environ.get("KERNEL") or DEFAULT_SERIES, machine)
        modules = root / "lib/modules" / release
        vmlinuz = next(path for path in (root / "boot" / f"vmlinuz-{release}", modules / "vmlinuz") if path.exists())
        base = cache_root() / "lab" / release
        module = build_ibemu(root, release, base)
    names = tuple(sorted({*GUEST_MODULES, *os.environ.get("EXTRA_MODS", "").split()}))
    inputs = (module, *sorted((HERE / "guest").iterdir()), HERE / "kernel.py")
    tree = base / fingerprint(str(modules), names, *inputs)[:16]
    if not tree.exists():
        make_tree(tree, release, names, modules, module, guest)
    return Kernel(machine=machine, release=release, vmlinuz=vmlinuz, tree=tree, root=guest)


def make_tree(tree: Path, release: str, names: tuple[str, ...], modules: Path, module: Path, guest: Path) -> None:
    """Make a tree whole or not at all, and drop its predecessors that no VM uses."""
    tree.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=tree.parent, prefix=".new.") as work:
        new = Path(work, "tree")
        folder = new / "lib/modules" / release
        count = copy_modules(modules / "kernel", names, folder / "kernel")
        shutil.copy(module, folder / "kernel/ibemu.ko")
        depmod(new, release)
        build_initramfs(Path(work), new, release, guest)
        (new / "lock").touch()
        for old in tree.parent.glob("*/lock"):
            if is_free(old):
                shutil.rmtree(old.parent)
        new.rename(tree)
    say(f"built ibemu.ko and the guest's {count} modules for Linux {release}")


def is_free(lock: Path) -> bool:
    with open(lock) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
