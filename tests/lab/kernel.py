"""The lab's kernel: found in the distribution's archive, unpacked (not installed), with ibemu.ko and an initramfs.

Everything lies below ${XDG_CACHE_HOME:-~/.cache}/ib-sriov:

    kernel/<release>/boot/vmlinuz-<release>         the packages, unpacked
                    /lib/modules/<release>/
                    /usr/src/linux-headers-…
    kernel/<series>-<arch>.release                  which release the series meant when it was fetched
    lab/<release>/ibemu/                            the module's build folder
    lab/<release>/<hash>/lib/modules/<release>/     the modules a guest needs, uncompressed
                        /initramfs.gz
                        /lock                       held shared by every VM that runs from this tree

The hash covers what the tree was made from, so a new ibemu.c gives a new tree and leaves the VMs that are up alone.

Variables: KERNEL (series, 6.12 by default); VMLINUZ, MODULES (…/lib/modules/<release>) and KO (an ibemu.ko built
for them) take a kernel from elsewhere; EXTRA_MODS names more modules.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import lzma
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cmp_to_key
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEFAULT_SERIES = "6.12"

ROOT_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
"""What the initramfs itself loads: the way to the root file system."""

GUEST_MODULES = (
    *ROOT_MODULES,
    *("ib_ipoib", "ib_uverbs", "ib_umad", "rdma_ucm", "rdma_rxe"),
    *("dummy", "veth", "bridge", "macvlan", "vfio-pci", "pci-stub", "virtio_net"),
    # what containerd, flannel and kube-proxy ask of a node
    *("crc32c_generic", "br_netfilter", "nf_conntrack", "nf_conntrack_netlink", "nf_nat", "nf_tables"),
    *("nft_chain_nat", "nft_compat", "nft_ct", "nft_masq", "nft_nat", "nft_reject_inet"),
    *("xt_MASQUERADE", "xt_REDIRECT", "xt_addrtype", "xt_comment", "xt_conntrack", "xt_mark"),
    *("xt_multiport", "xt_nat", "xt_statistic", "xt_tcpudp"),
)


class LabError(Exception):
    """The lab cannot be built or booted; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A kernel ready to boot."""

    release: str
    vmlinuz: Path
    tree: Path  # lab/<release>/<hash>: initramfs.gz and lib/modules/<release>

    @property
    def initramfs(self) -> Path:
        return self.tree / "initramfs.gz"


def cache_root() -> Path:
    """${XDG_CACHE_HOME:-~/.cache}/ib-sriov, without symbolic links."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.path.realpath(base)) / "ib-sriov"


def say(text: str) -> None:
    print(f"lab: {text}", file=sys.stderr, flush=True)


# ---- the archive ---------------------------------------------------------------------------------------------


def newest_release(series: str, arch: str, depends: Mapping[str, str]) -> str | None:
    """The newest release (6.12.117+deb12-amd64) of a series that has an image and headers.

    `depends` maps each package name of the archive to its Depends line. The meta packages of the series are asked
    first; where they are missing, or name something that is not there, the versioned packages themselves are looked
    through.
    """
    plain = re.compile(rf"linux-image-({re.escape(series)}[0-9.+a-z-]*-{re.escape(arch)})$")

    def complete(release: str) -> bool:
        return f"linux-image-{release}" in depends and f"linux-headers-{release}" in depends

    for meta in (f"linux-image-{series}-{arch}", f"linux-image-{arch}"):
        for word in re.split(r"[ ,|]+", depends.get(meta, "")):
            if (match := plain.match(word)) and complete(match[1]):
                return match[1]
    flavour = re.compile(rf"linux-image-({re.escape(series)}\.[0-9]+(\.[0-9]+)*([+~-][0-9a-z.]+)*-{re.escape(arch)})$")
    found = [match[1] for name in depends if (match := flavour.match(name)) and complete(match[1])]
    special = ("-rt-", "-cloud-", "-unsigned", "-dbg")
    found = [release for release in found if not any(word in release for word in special)]
    return max(found, key=cmp_to_key(compare_versions), default=None)


def compare_versions(one: str, two: str) -> int:
    """-1, 0 or 1, by dpkg's rules."""
    for relation, sign in (("lt", -1), ("gt", 1)):
        if subprocess.run(["dpkg", "--compare-versions", one, relation, two], check=False).returncode == 0:
            return sign
    return 0


def read_archive() -> dict[str, str]:
    """Package name to Depends line, of every linux-* package that apt knows."""
    dump = subprocess.run(["apt-cache", "dumpavail"], check=True, capture_output=True, text=True).stdout
    packages: dict[str, str] = {}
    for stanza in dump.split("\n\n"):
        if not stanza.startswith("Package: linux-"):
            continue
        name = stanza.split("\n", 1)[0].removeprefix("Package: ")
        line = re.search(r"^Depends: (.*)$", stanza, re.MULTILINE)
        packages[name] = line[1] if line else ""
    return packages


def find_release(series: str, arch: str) -> str:
    archive = read_archive()
    release = newest_release(series, arch, archive)
    if release is None and os.geteuid() == 0:
        say("apt knows no such kernel: apt-get update")
        subprocess.run(["apt-get", "-qq", "update"], check=False)
        archive = read_archive()
        release = newest_release(series, arch, archive)
    if release is None:
        raise LabError(
            f"no package linux-image-{series}*-{arch} with its linux-headers in apt's lists: try apt-get update, "
            f"another series (KERNEL=6.1), or a kernel of your own (VMLINUZ=, MODULES=, KO=)"
        )
    return release


def packages_of(release: str, depends: Mapping[str, str]) -> list[str]:
    """The image, the headers, and the packages that those headers are made of."""
    headers = f"linux-headers-{release}"
    words = re.split(r"[ ,|]+", depends[headers])
    parts = [word for word in words if re.match(r"linux-(headers-.*-common|kbuild-)", word)]
    return [f"linux-image-{release}", headers, *dict.fromkeys(parts)]


def fetch(release: str, into: Path) -> None:
    """Download the packages and unpack them; `into` appears whole or not at all."""
    names = packages_of(release, read_archive())
    say(f"fetching {' '.join(names)}")
    into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{release}.", dir=into.parent) as work:
        debs = Path(work, "debs")
        tree = Path(work, "tree")
        debs.mkdir()
        # apt's own sandbox user cannot write below a home folder; the packages are checked by hash either way
        command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *names]
        done = subprocess.run(command, cwd=debs, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        for deb in sorted(debs.glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", deb, tree], check=True)
        # the headers' Makefile names its common part by the path it would have when installed
        makefile = tree / "usr/src" / f"linux-headers-{release}" / "Makefile"
        makefile.write_text(makefile.read_text().replace("include /usr/src/", f"include {into}/usr/src/"))
        tree.rename(into)


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


def build_ibemu(headers: Path, tree: Path) -> Path:
    """Compile ibemu.ko; make decides whether there is anything to do."""
    work = tree / "ibemu"
    work.mkdir(parents=True, exist_ok=True)
    for name in ("ibemu.c", "Kbuild"):
        source, copy = HERE / "ibemu" / name, work / name
        if not copy.exists() or copy.read_bytes() != source.read_bytes():
            shutil.copy(source, copy)
    # BTF wants the whole vmlinux and pahole, and nothing here reads it
    command = ["make", "-s", "-C", str(headers), f"M={work}", "W=1", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return work / "ibemu.ko"


def pack(folder: Path, target: Path) -> None:
    """Pack a folder as a compressed newc archive."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    command = ["busybox", "cpio", "-o", "-H", "newc"]
    listing = "\n".join(names).encode()
    archive = subprocess.run(command, cwd=folder, input=listing, capture_output=True, check=True).stdout
    target.write_bytes(gzip.compress(archive, 1))


def build_initramfs(work: Path, tree: Path, release: str) -> None:
    root = work / "initramfs"
    for name in ("bin", "dev", "proc", "sys", "root", "lower", "upper"):
        (root / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    if busybox is None:
        raise LabError("busybox is missing: apt-get install busybox-static")
    shutil.copy(busybox, root / "bin/busybox")
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


@contextmanager
def locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def architecture() -> str:
    arch = subprocess.run(["dpkg", "--print-architecture"], check=True, capture_output=True, text=True).stdout.strip()
    if arch != "amd64":
        raise LabError(f"the emulated HCA's PCI root bus exists for x86 only (struct pci_sysdata), this is {arch}")
    return arch


def packaged(series: str) -> tuple[str, Path]:
    """The release of a series, and the folder of its unpacked packages."""
    arch = architecture()
    folder = cache_root() / "kernel"
    note = folder / f"{series}-{arch}.release"
    release = note.read_text().strip() if note.exists() else ""
    if not release or not (folder / release).is_dir():
        release = find_release(series, arch)
        if not (folder / release).is_dir():
            fetch(release, folder / release)
        note.write_text(f"{release}\n")
    return release, folder / release


def build() -> Kernel:
    """Whatever is missing, made; safe to call from several processes at once."""
    for tool in ("busybox", "make", "gcc"):
        if shutil.which(tool) is None:
            raise LabError(f"{tool} is missing: apt-get install busybox-static make gcc libelf1 qemu-system-x86")
    with locked(cache_root() / "lab/lock"):
        return build_unlocked()


def build_unlocked() -> Kernel:
    own = [os.environ.get(name, "") for name in ("VMLINUZ", "MODULES", "KO")]
    if any(own):
        if not all(own):
            raise LabError("a kernel of your own needs all three: VMLINUZ=, MODULES=…/lib/modules/RELEASE and KO=")
        vmlinuz, modules, module = (Path(os.path.realpath(name)) for name in own)
        release = modules.name
        base = cache_root() / "lab" / release
    else:
        release, root = packaged(os.environ.get("KERNEL") or DEFAULT_SERIES)
        vmlinuz = root / "boot" / f"vmlinuz-{release}"
        modules = root / "lib/modules" / release
        base = cache_root() / "lab" / release
        module = build_ibemu(root / "usr/src" / f"linux-headers-{release}", base)
    names = tuple(sorted({*GUEST_MODULES, *os.environ.get("EXTRA_MODS", "").split()}))
    inputs = (module, *sorted((HERE / "guest").iterdir()), HERE / "kernel.py")
    tree = base / fingerprint(str(modules), names, *inputs)[:16]
    if not tree.exists():
        make_tree(tree, release, names, modules, module)
    return Kernel(release=release, vmlinuz=vmlinuz, tree=tree)


def make_tree(tree: Path, release: str, names: tuple[str, ...], modules: Path, module: Path) -> None:
    """Make a tree whole or not at all, and drop its predecessors that no VM uses."""
    tree.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=tree.parent, prefix=".new.") as work:
        new = Path(work, "tree")
        folder = new / "lib/modules" / release
        count = copy_modules(modules / "kernel", names, folder / "kernel")
        shutil.copy(module, folder / "kernel/ibemu.ko")
        depmod(new, release)
        build_initramfs(Path(work), new, release)
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
