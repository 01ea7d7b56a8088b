"""Places where the static program must run: roots that hold little, releases of the distribution, mounts, limits.

A place is a root file system to change into, with what is mounted in it: in a mount namespace of the call's own, so
that nothing is left to undo. Its /sys is a made one with a PF, whose RDMA device libibverbs looks for in vain.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.packaging.conftest import DIST, Done, apart
from tests.tools.roots import unpacked_root
from tests.unit.trees import PF, Tree

HERE = Path(__file__).resolve().parent
RDMA = "mlx5_0"
EMULATOR = "qemu-aarch64-static"
NO_NAMESPACE = 3  # without /proc, that of the pod cannot be opened
NO_KIND = 4  # qemu-user does not tell what kind of namespace a file is (NS_GET_NSTYPE)
# A release's own shell is what starts the program there.
SHELL = ("base-files", "dash", "coreutils", "libc-bin")
OLDEST, NEWEST = "bullseye", "sid"
BY_ITS_SHELL = ("/bin/sh", "-c", 'exec "$0" "$@"')
CONF = {"cniVersion": "1.0.0", "name": "ib", "type": "ib-sriov", "deviceID": "0000:99:00.7"}
ADD = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/proc/self/ns/net",
    "CNI_NETNS_OVERRIDE": "1",
    "CNI_IFNAME": "net1",
    "CNI_PATH": "/nowhere",
}


def program(machine: str) -> Path:
    """The static program for a machine type."""
    path = DIST / f"ib-sriov-{machine}"
    assert path.is_file(), f"{path} is missing: make build"
    return path


def compile_program(source: Path, target: Path, *compiler: str) -> Path:
    command = [*compiler, "-O1", "-Wall", "-Werror", "-o", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def compile_restrict(folder: Path) -> Path:
    """The program that takes things away from another one (restrict.c), for any root."""
    return compile_program(HERE / "restrict.c", folder / "restrict", "gcc", "-static")


@dataclass(kw_only=True)
class Place:
    """A root, the lines that mount what it has, and the words before the program's name."""

    root: Path
    program: str
    mounts: list[str] = field(default_factory=list)
    before: Sequence[str] = ()
    has_dev: bool = True
    has_proc: bool = True
    refusal: int = 101  # the code of an ADD for a device that is not there

    def run(self, *arguments: str, stdin: bytes = b"", **environ: str) -> Done:
        """Run the program there, with these variables and no others."""
        at = shlex.quote(str(self.root))
        given = " ".join(f"{name}={shlex.quote(value)}" for name, value in environ.items())
        words = shlex.join([*self.before, self.program, *arguments])
        lines = [f"R={at}", *self.mounts, f'exec env -i {given} "$(type -P chroot)" "$R" {words}']
        return apart("\n".join(lines), stdin=stdin)

    def findings(self) -> dict[str, str]:
        """What doctor says: the name of each check with its status and text."""
        done = self.run("doctor", "-o", "json")
        assert done.stdout, done.stderr
        return {each["check"]: f"{each['status']} {each['text']}" for each in json.loads(done.stdout)["findings"]}


@dataclass(kw_only=True)
class Places:
    """Makes places below a folder."""

    folder: Path

    def __post_init__(self) -> None:
        tree = Tree(self.folder / "sys")
        tree.add_pf()
        tree.add_rdma(PF, RDMA)

    def bare_root(self) -> Path:
        """A root that holds nothing but folders."""
        root = self.folder / "root"
        for name in ("opt", "proc", "sys", "dev", "tmp", "run", "var", "etc"):
            (root / name).mkdir(parents=True, exist_ok=True)
        return root

    def place(self, root: Path, *before: str, machine: str = "x86_64", options: str = "", proc: bool = True) -> Place:
        """The program in a root's /opt; every other folder that may be written to is a tmpfs with these options."""
        opt = self.folder / "opt"
        opt.mkdir(exist_ok=True)
        shutil.copy(program(machine), opt / "ib-sriov")
        also = f" -o {options}" if options else ""
        mounts = ['mount --bind "$R" "$R"']
        if options:
            mounts += [f'mount -o remount,bind,{options} "$R"']
        mounts += [f'mount -t tmpfs{also} tmpfs "$R/{name}"' for name in ("dev", "tmp", "run", "var")]
        mounts += [': >"$R/dev/null"; mount --bind /dev/null "$R/dev/null"']
        mounts += [f'mount --bind {shlex.quote(str(opt))} "$R/opt"']
        mounts += [f'mount --bind {shlex.quote(str(self.folder / "sys"))} "$R/sys"']
        if proc:
            mounts += ['mount -t proc proc "$R/proc"']
        refusal = 101 if proc else NO_NAMESPACE
        return Place(root=root, program="/opt/ib-sriov", mounts=mounts, before=before, has_proc=proc, refusal=refusal)

    def restricted(self, *restrictions: str, options: str = "") -> Place:
        found = self.place(self.bare_root(), "/opt/restrict", *restrictions, options=options)
        compile_restrict(self.folder / "opt")
        return found

    def the_file_alone(self) -> Place:
        root = self.folder / "alone"
        root.mkdir()
        shutil.copy(program("x86_64"), root / "ib-sriov")
        return Place(root=root, program="/ib-sriov", has_dev=False, has_proc=False, refusal=NO_NAMESPACE)

    def oldest_release(self) -> Place:
        return self.place(unpacked_root(OLDEST, "amd64", SHELL), *BY_ITS_SHELL)

    def newest_release(self) -> Place:
        return self.place(unpacked_root(NEWEST, "amd64", SHELL), *BY_ITS_SHELL)

    def musl(self) -> Place:
        """The loader of musl, and one program linked against it, which starts ours."""
        root = self.bare_root()
        found = self.place(root, "/opt/start")
        compile_program(HERE / "start.c", self.folder / "opt/start", "musl-gcc")
        loader = Path("/lib/ld-musl-x86_64.so.1")
        (root / "lib").mkdir()
        shutil.copy(loader.resolve(), root / str(loader).lstrip("/"))
        return found

    def old_kernel(self) -> Place:
        return self.restricted("--old-kernel")

    def few_files(self) -> Place:
        return self.restricted("--files", "32")

    def no_new_code(self) -> Place:
        return self.restricted("--no-new-code")

    def noexec(self) -> Place:
        """Nothing but the program's own folder may hold programs."""
        return self.restricted(options="noexec")

    def no_proc(self) -> Place:
        return self.place(self.bare_root(), proc=False)

    def all_at_once(self) -> Place:
        return self.restricted("--old-kernel", "--no-new-code", "--files", "32", options="noexec")

    def aarch64(self) -> Place:
        """The program for another machine type, and an emulator of its processor."""
        emulator = shutil.which(EMULATOR)
        assert emulator, f"{EMULATOR} is missing: apt-get install qemu-user-static"
        found = self.place(self.bare_root(), f"/opt/{EMULATOR}", machine="aarch64")
        shutil.copy(emulator, self.folder / "opt" / EMULATOR)
        found.refusal = NO_KIND
        return found


PLACES: dict[str, Callable[[Places], Place]] = {
    "the file alone": Places.the_file_alone,
    "oldest release": Places.oldest_release,
    "newest release": Places.newest_release,
    "musl": Places.musl,
    "old kernel": Places.old_kernel,
    "32 files": Places.few_files,
    "no new code": Places.no_new_code,
    "noexec": Places.noexec,
    "no proc": Places.no_proc,
    "all at once": Places.all_at_once,
    "aarch64": Places.aarch64,
}
