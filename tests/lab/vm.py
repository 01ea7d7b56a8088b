"""Boot the lab's VM, run a command in it, believe its status only when there is nothing else to believe.

The guest's first serial port carries the kernel's log alone, into a file; the second one the command's output, as
bytes, to our stdout. The guest writes the command's status and the kernel's taint flags into a folder it shares with
us. The status passes through only if that file is there and neither the log nor the flags speak of a fault.

Variables: see README.md in this folder.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from tests.lab.archive import LabError, say
from tests.lab.kernel import Kernel, build, fingerprint
from tests.lab.machine import HOST
from tests.tools.apt import AptError
from tests.tools.roots import cache_root

PROJECT = Path(__file__).resolve().parents[2]

KERNEL_FAULT = 90
PANIC = 91
NEVER_UP = 92
WENT_DOWN = 93
QEMU_DIED = 94
NOT_BUILT = 95
TIME_OUT = 124

PASSED_ON = re.compile(r"(IB_SRIOV|CNI|PYTEST|LAB|JUNIT)_?[A-Z0-9_]*|TERM|COLUMNS|LINES|NO_COLOR|FORCE_COLOR|COLORTERM")
"""The variables of the host that the command sees; PASS names more."""

STAMP = r"^(?:<\d+>)?\[ *\d+\.\d+\](?:\[[^]]*\])? "
PANICKED = re.compile(STAMP + r"Kernel panic - not syncing.*", re.MULTILINE)
FAULTS = re.compile(
    STAMP + r".*(?:\bBUG\b|\bWARNING:|\bOops\b|Call Trace|general protection fault|soft lockup|hard LOCKUP"
    r"|self-detected stall|detected stalls|blocked for more than|hung_task|refcount_t|UBSAN|KASAN|INFO: lockdep"
    r"|unregister_netdevice: waiting|ibemu: CQ overrun|scheduling while atomic|DEBUG_LOCKS_WARN_ON|Bad page state).*",
    re.MULTILINE,
)
TAINTS = {4: "machine check", 5: "bad page", 7: "oops", 9: "warning", 14: "soft lockup"}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a run ended: the status to exit with, and what to say of it ("" for a plain end)."""

    status: int
    reason: str = ""


@dataclass(kw_only=True)
class Guest:
    """What to boot and what to run in it."""

    command: str
    interactive: bool = False
    limit: float = field(default_factory=lambda: float(os.environ.get("TIMEOUT", "300")))
    boot_limit: float = field(default_factory=lambda: float(os.environ.get("BOOT_TIMEOUT", "120")))
    junit: Path | None = None  # where the test results in the shared folder go


# ---- reading the end -----------------------------------------------------------------------------------------


def kernel_faults(log: str) -> list[str]:
    """The lines of a kernel log that no test may pass over."""
    return [match[0] for match in FAULTS.finditer(log)]


def taint_names(flags: int) -> list[str]:
    return [name for bit, name in TAINTS.items() if flags >> bit & 1]


def judge(log: str, status: str | None, *, came_up: bool, qemu: int, timed_out: bool, limit: float) -> Verdict:
    """What a finished VM means.

    `log` is the kernel's, `status` the guest's own note ("<exit status> <taint flags>", None if it wrote none), `qemu`
    the exit status of the emulator (negative: the signal).
    """
    panic = PANICKED.search(log)
    faults = kernel_faults(log)
    if panic:
        return Verdict(status=PANIC, reason=f"the guest's kernel panicked: {panic[0].strip()}")
    if timed_out:
        what = f"the command did not end within {limit:g} s" if came_up else f"the guest was not up within {limit:g} s"
        return Verdict(status=TIME_OUT if came_up else NEVER_UP, reason=what)
    if qemu != 0:
        how = f"signal {-qemu}" if qemu < 0 else f"status {qemu}"
        return Verdict(status=QEMU_DIED, reason=f"QEMU ended with {how}")
    if not came_up:
        said = re.findall(r"lab-(?:init|agent): .*", log)
        why = said[-1] if said else "it powered off and said nothing"
        return Verdict(status=NEVER_UP, reason=f"the guest never came up: {why}")
    if status is None:
        return Verdict(status=WENT_DOWN, reason="the guest went down before the command had ended")
    code, flags = (int(word) for word in status.split())
    if code == TIME_OUT and "lab-agent: the time limit" in log:
        return Verdict(status=TIME_OUT, reason=f"the command did not end within {limit:g} s")
    taints = taint_names(flags)
    if faults or taints:
        shown = "; ".join([*faults[:3], *(f"tainted by {name}" for name in taints)])
        return Verdict(status=KERNEL_FAULT, reason=f"the command ended with {code}, but the kernel says: {shown}")
    return Verdict(status=code)


# ---- the accelerator -----------------------------------------------------------------------------------------


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def kvm_works(kernel: Kernel) -> bool:
    """Whether a guest really boots under KVM here; the answer is kept for this boot of the host and this QEMU."""
    if not kernel.machine.is_host or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    qemu = Path(kernel.machine.qemu).resolve()
    stat = qemu.stat()
    key = fingerprint(boot_id(), str(qemu), stat.st_size, stat.st_mtime_ns)[:16]
    note = cache_root() / "lab" / f"kvm-{key}"
    if not note.exists():
        say("trying KVM")
        why = probe_kvm(kernel)
        say(f"no KVM here ({why}): emulating" if why else "KVM works")
        note.write_text(why)
    return note.read_text() == ""


def probe_kvm(kernel: Kernel, limit: float = 10) -> str:
    """Boot as far as the initramfs; why that failed, or ""."""
    with tempfile.TemporaryDirectory(prefix="ib-sriov-lab.") as work:
        console, errors = Path(work, "console"), Path(work, "stderr")
        machine = kernel.machine
        command = [machine.qemu, "-accel", "kvm", "-cpu", "max", *machine.board, "-m", "512", "-nodefaults"]
        command += ["-no-reboot", "-display", "none", "-serial", f"file:{console}"]
        command += ["-kernel", str(kernel.vmlinuz), "-initrd", str(kernel.initramfs)]
        command += ["-append", f"console={machine.console} panic=-1 lab.probe=1"]
        with open(errors, "wb") as stderr:
            process = start(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr)
        with ended(process):
            end = time.monotonic() + limit
            while time.monotonic() < end:
                said = errors.read_text(errors="replace")
                if "KVM internal error" in said or "failed to initialize" in said:
                    return said.strip().splitlines()[0]
                log = console.read_text(errors="replace") if console.exists() else ""
                if "lab-init: probe ok" in log:
                    return ""
                if process.poll() is not None:
                    return f"QEMU ended with {process.returncode}: {said.strip()[:200]}"
                time.sleep(0.1)
            return f"nothing booted within {limit:g} s"


# ---- running -------------------------------------------------------------------------------------------------


def die_with_parent() -> None:
    """In the child: a VM must not outlive the command that started it."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def start(command: Sequence[str], **streams: object) -> subprocess.Popen[bytes]:
    # the streams are passed on as they came; no thread runs here that preexec_fn could meet
    return subprocess.Popen(command, preexec_fn=die_with_parent, **streams)  # type: ignore[call-overload, no-any-return] # noqa: PLW1509


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Whatever happens inside, the process is gone afterwards."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()


def settings(kernel: Kernel, guest: Guest) -> str:
    """What the agent sources: its own settings, then the environment of the command."""
    passed = {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
    passed |= {name: os.environ[name] for name in os.environ.get("PASS", "").split() if name in os.environ}
    passed["XDG_CACHE_HOME"] = str(cache_root().parent)
    own = {
        "PROJECT": str(PROJECT),
        "CACHE": str(cache_root()),
        "VENV": str(Path(python_of_tests()).parents[1].resolve()),
        "FOREIGN": str(int(kernel.root != HOST)),
        "TTY_DEVICE": kernel.machine.output,
        "TREE": str(kernel.tree),
        "LIMIT": f"{guest.limit:g}",
        "UDEV": os.environ.get("UDEV", "0"),
        "INTERACTIVE": str(int(guest.interactive)),
        "TTY": str(int(sys.stdout.isatty())),
    }
    lines = [f"{name}={shlex.quote(value)}" for name, value in own.items()]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in sorted(passed.items())]
    return "\n".join(lines) + "\n"


def check_paths() -> None:
    """The guest has its own /run, /dev, /proc and /sys: what it needs of the host cannot lie there."""
    for what, path in (("the project", PROJECT), ("the cache (XDG_CACHE_HOME)", cache_root())):
        if path.parts[1] in ("run", "dev", "proc", "sys"):
            unseen = f"/{path.parts[1]}"
            raise LabError(f"{what} is at {path}: the guest does not see the host's {unseen}; move it elsewhere")


def qemu_command(kernel: Kernel, out: Path, *, kvm: bool) -> list[str]:
    machine = kernel.machine
    accel = "kvm" if kvm else "tcg,thread=multi"
    processor = os.environ.get("CPU") or ("max" if kvm else machine.processor)
    stdio = "stdio,id=out,signal=off"
    # Nothing is held back from the console file: it is the evidence.
    words = f"console={machine.console} ignore_loglevel panic=-1 oops=panic watchdog_thresh=30"
    # A processor that the host lends elsewhere for 21 s is no stall of the guest's kernel.
    words += " rcupdate.rcu_cpu_stall_timeout=120"
    shares = {"root": kernel.root}
    if kernel.root != HOST:
        shares["host"] = HOST
        words += " lab.host=1"
    append = f"{words} {machine.words} {os.environ.get('APPEND', '')}"
    read_only = "security_model=none,readonly=on,multidevs=remap"
    return [
        *(machine.qemu, "-accel", accel, *machine.board, "-cpu", processor),
        *("-smp", os.environ.get("SMP", "2"), "-m", os.environ.get("MEM", "2048"), "-nodefaults", "-no-reboot"),
        *("-display", "none", "-serial", f"file:{out}/console", "-chardev", stdio, *machine.output_device),
        *("-kernel", str(kernel.vmlinuz), "-initrd", str(kernel.initramfs), "-append", append),
        *(
            word
            for tag, path in shares.items()
            for word in ("-virtfs", f"local,path={path},mount_tag={tag},{read_only}")
        ),
        *("-virtfs", f"local,path={out},mount_tag=out,security_model=none"),
        *shlex.split(os.environ.get("QEMU_ARGS", "")),
    ]


def boot(kernel: Kernel, guest: Guest, out: Path, *, kvm: bool) -> Verdict:
    """One boot, to its end."""
    for name in ("started", "rc", "console"):
        (out / name).unlink(missing_ok=True)
    (out / "settings").write_text(settings(kernel, guest))
    (out / "cmd").write_text(guest.command + "\n")
    stdin = None if guest.interactive else subprocess.DEVNULL
    process = start(qemu_command(kernel, out, kvm=kvm), stdin=stdin)
    timed_out = False
    with ended(process):
        begin = time.monotonic()
        limit = guest.boot_limit
        came_up = False
        while True:
            try:
                process.wait(0.1)
                break
            except subprocess.TimeoutExpired:
                pass
            if not came_up and (out / "started").exists():
                # the agent keeps the limit itself; this is for a guest that hangs as a whole
                came_up, begin, limit = True, time.monotonic(), guest.limit + 15
            if time.monotonic() - begin > limit and not (came_up and guest.interactive):
                timed_out = True
                break
    came_up = (out / "started").exists()
    log = (out / "console").read_text(errors="replace").replace("\r", "") if (out / "console").exists() else ""
    rc = out / "rc"
    return judge(
        log,
        rc.read_text() if rc.exists() else None,
        came_up=came_up,
        qemu=0 if timed_out else process.returncode,
        timed_out=timed_out,
        limit=guest.limit if came_up else guest.boot_limit,
    )


def keep_console(out: Path) -> str:
    """Copy the console log to where it outlives the run; its path."""
    if not (out / "console").exists():
        return "there is none"
    folder = PROJECT / ".test-results"
    folder.mkdir(exist_ok=True)
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    kept = folder / f"console-{now}-{os.getpid()}.log"
    shutil.copy(out / "console", kept)
    return str(kept)


def run(guest: Guest, out: Path) -> int:
    """Boot and report; the exit status."""
    check_paths()
    kernel = build()
    kvm = kvm_works(kernel)
    with open(kernel.tree / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        verdict = boot(kernel, guest, out, kvm=kvm)
    if guest.junit is not None:
        keep_results(out, guest.junit)
    if verdict.reason:
        say(f"{verdict.reason} (exit status {verdict.status}; console: {keep_console(out)})")
    elif verdict.status and not guest.interactive:
        say(f"the command ended with {verdict.status}; console: {keep_console(out)}")
    return verdict.status


def keep_results(out: Path, junit: Path) -> None:
    """Copy the results of the guest's pytest; an old file never passes for new ones."""
    junit.unlink(missing_ok=True)
    if (out / "junit.xml").exists():
        junit.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(out / "junit.xml", junit)


def compile_here(python: str, paths: Sequence[str]) -> None:
    """Have the modules and pytest's rewritten tests compiled on the host, once, instead of in every guest.

    Only a saving of time: what cannot be imported is reported by the guest's pytest.
    """
    folders = [str(PROJECT / name) for name in ("ib_sriov_cni", "ipam", "tests")]
    subprocess.run([python, "-m", "compileall", "-q", *folders], capture_output=True, check=False)
    collect = ["-p", "no:cacheprovider", "--collect-only", "-q", *(path.split("::")[0] for path in paths)]
    environment = {**os.environ, "LAB_GUEST": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    subprocess.run([python, "-m", "pytest", *collect], env=environment, cwd=PROJECT, capture_output=True, check=False)


def python_of_tests() -> str:
    return os.environ.get("LAB_PYTHON") or str(PROJECT / ".venv/bin/python")


def pytest_guest(arguments: Sequence[str]) -> Guest:
    """A guest that runs pytest in the project's folder, by the project's interpreter (LAB_PYTHON names another)."""
    python = python_of_tests()
    if not os.access(python, os.X_OK):
        raise LabError(f"{python} is missing: `make` makes it (or name another interpreter with LAB_PYTHON=)")
    paths = [word for word in arguments if not word.startswith("-") and (PROJECT / word.split("::")[0]).exists()]
    compile_here(python, paths or ["tests/lab"])
    options = ["-p", "no:cacheprovider", "-v", "--tb=short", "--junitxml=/run/out/junit.xml"]
    # hypothesis' plugin costs seconds under TCG, and nothing here needs it
    no_plugins = "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1"
    words = ["env", no_plugins, python, "-m", "pytest", *options, *arguments, *([] if paths else ["tests/lab"])]
    junit = Path(os.environ.get("JUNIT") or PROJECT / ".test-results/lab.xml").absolute()
    return Guest(command=shlex.join(words), limit=float(os.environ.get("TIMEOUT", "1800")), junit=junit)


SHELL = """
/usr/bin/python3 -c {load}
PS1='\\[\\e[1m\\]lab \\w\\[\\e[0m\\] # ' exec bash --norc -i
"""


def shell_guest() -> Guest:
    """A guest with the HCA loaded and a shell on its terminal."""
    if not sys.stdin.isatty():
        raise LabError("a shell needs a terminal: use tests/lab/run COMMAND")
    size = os.get_terminal_size(sys.stdin.fileno())
    os.environ |= {"LINES": str(size.lines), "COLUMNS": str(size.columns)}
    how = {
        "vfs": int(os.environ.get("VFS", "4")),
        "mode": os.environ.get("RDMA_MODE", "shared"),
        "preset": os.environ.get("PRESET") == "1",
    }
    load = f"from tests.lab import emulated_hca as hca; hca.show(hca.load(**{how!r}))"
    return Guest(command=SHELL.format(load=shlex.quote(load)), interactive=True)


@contextmanager
def terminal_kept() -> Iterator[None]:
    """The terminal as it was, whatever QEMU did to it."""
    if not sys.stdin.isatty():
        yield
        return
    state = termios.tcgetattr(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, state)


@contextmanager
def out_folder() -> Iterator[Path]:
    """The folder shared with the guest: OUT, which is kept, or a temporary one."""
    named = os.environ.get("OUT")
    if named:
        Path(named).mkdir(parents=True, exist_ok=True)
        yield Path(named).resolve()
        return
    with tempfile.TemporaryDirectory(prefix="ib-sriov-lab.") as folder:
        yield Path(folder)


def stop(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends us by the way of every other end, so that the VM ends too."""
    raise SystemExit(128 + number)


def main(make_guest: Callable[[], Guest]) -> int:
    """The edge of the commands in this folder."""
    signal.signal(signal.SIGTERM, stop)
    try:
        guest = make_guest()
        with terminal_kept(), out_folder() as out:
            return run(guest, out)
    except (AptError, LabError) as error:
        say(str(error))
        return NOT_BUILT
    except KeyboardInterrupt:
        return 130
