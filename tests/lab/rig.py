"""One loaded HCA for many attachments: what a case needs, and the comparison that each case ends with."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lab import emulated_hca
from tests.lab.cni import Cni, CniRun, finished
from tests.lab.commands import has_carrier, received, run, wait
from tests.lab.emulated_hca import Hca
from tests.lab.pod import Pod
from tests.lab.snapshot import Snapshot, assert_as_before, differences, host_snapshot

TRACE = "IB_SRIOV_TRACE_POINT"
STATE = Path("/var/lib/cni/ib-sriov")
LEASES = Path("/var/lib/cni/networks/ibnet")
LEFTOVERS = ("/var/lib/cni", "/run/ib-sriov")
GATEWAY_ROUTE = {"dst": "10.99.0.0/16"}
IPV4 = {"type": "host-local", "ranges": [[{"subnet": "10.56.0.0/24"}]], "routes": [GATEWAY_ROUTE]}
OPEN_A_DEVICE = """
import sys
from pyverbs.device import Context
context = Context(name=sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""
STEP = re.compile(r"level=info .*\bcmd=(\w+) .*\bstep=(\w+)")


def guid_of(number: int) -> str:
    """A GUID to ask for, its own for each number."""
    return f"02:11:22:33:44:55:66:{number:02x}"


class TrackedCni(Cni):
    """Counts its calls and knows their processes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self._started: list[subprocess.Popen[str]] = []

    def start(
        self,
        command: str,
        pod: Pod | None,
        conf: object,
        ifname: str = "net1",
        env: Mapping[str, str | None] | None = None,
    ) -> subprocess.Popen[str]:
        self.calls += 1
        process = super().start(command, pod, conf, ifname, env)
        self._started.append(process)
        return process

    def end_all(self) -> None:
        """Kill the calls that a test has started and not waited for."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.communicate()
        self._started.clear()


class Rig:
    """A loaded HCA, the host as it was then, and the plugin as a runtime calls it."""

    def __init__(self, mode: str = "shared", *, vfs: int = 8, **settings: Any) -> None:
        self.mode = mode
        self.vfs = vfs
        self._settings: dict[str, Any] = {"total_vfs": 8, "preset": True, **settings}
        self.cni = TrackedCni()
        self._compared_at = -1  # the count of calls when the host was last found as before
        self._serial = itertools.count(1)
        self._pods: list[Pod] = []
        self.hca: Hca
        self.before: Snapshot
        self.load()

    @property
    def exclusive(self) -> bool:
        return self.mode == "exclusive"

    def load(self) -> None:
        """Load the HCA afresh, and note how the host is."""
        run(["modprobe", "dummy", "numdummies=0"])  # or the first dummy of a test would bring one of its own
        self.hca = emulated_hca.load(vfs=self.vfs, mode=self.mode, **self._settings)
        for folder in LEFTOVERS:
            shutil.rmtree(folder, ignore_errors=True)
        self.before = host_snapshot(self.hca)

    def pod(self, name: str = "p") -> Pod:
        """A new pod, called as nothing before."""
        serial = next(self._serial)
        self._pods.append(Pod(f"{name}{serial}", serial=serial))
        return self._pods[-1]

    def conf(self, vf: int | None = 0, **more: Any) -> dict[str, Any]:
        """A network configuration for one VF; a value of None takes a key away."""
        conf = {
            "cniVersion": "1.1.0",
            "name": "ibnet",
            "type": "ib-sriov",
            "deviceID": None if vf is None else self.hca.pci(vf),
            "rdmaIsolation": self.exclusive,
            "ipam": IPV4,
            **more,
        }
        return {key: item for key, item in conf.items() if item is not None}

    def call(
        self, command: str, pod: Pod, vf: int = 0, *, trace: str = "", ifname: str = "net1", **more: Any
    ) -> CniRun:
        """One invocation to its end; `trace` is a trace point."""
        return self.cni(command, pod, self.conf(vf, **more), ifname, {TRACE: trace or None})

    def start(
        self,
        command: str,
        pod: Pod,
        vf: int = 0,
        *,
        trace: str = "",
        env: Mapping[str, str | None] | None = None,
        **more: Any,
    ) -> subprocess.Popen[str]:
        """One invocation that is not waited for; see `end`."""
        return self.cni.start(command, pod, self.conf(vf, **more), env={TRACE: trace or None, **(env or {})})

    def add(self, pod: Pod, vf: int = 0, *, ifname: str = "net1", **more: Any) -> Any:
        """ADD that has to succeed; its result."""
        run = self.call("ADD", pod, vf, ifname=ifname, **more)
        assert run.status == 0, run.stdout + run.stderr
        return run.out

    def delete(self, pod: Pod, vf: int = 0, *, ifname: str = "net1", **more: Any) -> None:
        """DEL that has to succeed, without a word on stdout."""
        run = self.call("DEL", pod, vf, ifname=ifname, **more)
        assert (run.status, run.stdout) == (0, ""), run.stdout + run.stderr

    def check(self, pod: Pod, result: Any, vf: int = 0, **more: Any) -> CniRun:
        return self.call("CHECK", pod, vf, prevResult=result, **more)

    def assert_as_before(self) -> None:
        """The one line with which every case ends: host, leases and records as when the HCA was loaded."""
        assert_as_before(self.before)
        self._compared_at = self.cni.calls

    def end_pods(self) -> None:
        for pod in self._pods:
            pod.delete()
        self._pods.clear()

    def restore(self, *, passed: bool = False) -> None:
        """Undo what a test has left: calls, knobs, pods, leases; load the HCA afresh if the host is not as before.

        Comparing takes longer than an ADD: it is left out after a test that has passed, and has compared the host
        itself since its last call.
        """
        self.cni.end_all()
        self.hca.restore_knobs()
        self.end_pods()
        emulated_hca.end_strays()
        compared = passed and self._compared_at == self.cni.calls
        self._compared_at = -1
        if not compared and not _holds(self._is_as_before):
            self.load()
        # Round robin starts again, so that an address does not depend on the tests before.
        shutil.rmtree(LEASES.parent, ignore_errors=True)

    def _is_as_before(self) -> bool:
        return not differences(self.before.facts, host_snapshot(self.hca).facts)

    def close(self) -> None:
        """Unload the HCA; the host is as without it."""
        self.cni.end_all()
        self.hca.restore_knobs()
        emulated_hca.unload()
        for folder in LEFTOVERS:
            shutil.rmtree(folder, ignore_errors=True)


def _holds(condition: Any) -> bool:
    """Whether it becomes true soon; a VF without its devices cannot even be asked."""
    try:
        return bool(wait(condition, 3, 0.2))
    except AssertionError:
        return False


def end(process: subprocess.Popen[str], timeout: float = 180) -> CniRun:
    """Wait for an invocation that was started."""
    stdout, stderr = process.communicate(timeout=timeout)
    return finished(process.returncode, stdout, stderr)


def at_once(calls: Iterable[Any]) -> list[Any]:
    """Run functions side by side; their results in order."""
    listed = list(calls)
    with ThreadPoolExecutor(len(listed)) as pool:
        return [future.result() for future in [pool.submit(call) for call in listed]]


def steps_of(log: str, command: str) -> list[str]:
    """The steps that a command's log names, each once, in their order."""
    return list(dict.fromkeys(step for cmd, step in STEP.findall(log) if cmd == command))


def state_of(pid: int) -> str:
    """The state of a process, T when stopped; "" when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def answers(pod: Pod, address: str, count: int = 1) -> bool:
    """Whether every ping is answered, the first one included."""
    said = pod.run(["ping", "-c", str(count), "-i", "0.2", "-W", "15", address], check=False).stdout
    return received(said) == count


def connected(pod: Pod, ifname: str = "net1") -> bool:
    """Wait for the carrier: the IPoIB netdev has joined its broadcast group."""
    return wait(lambda: has_carrier(ifname, pod.name), 30)


@contextmanager
def device_held_open(pod: Pod, name: str) -> Iterator[subprocess.Popen[str]]:
    """A process of the pod that has an RDMA device open until the end."""
    # the system's python has pyverbs; the pod sees its device by its own sysfs
    command = ["ip", "netns", "exec", pod.name, "/usr/bin/python3", "-c", OPEN_A_DEVICE, name]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        yield holder
    finally:
        holder.kill()
        holder.communicate()


def leases() -> list[str]:
    """The reserved addresses."""
    found = os.listdir(LEASES) if LEASES.is_dir() else []
    return sorted(name for name in found if name[0].isdigit())


def rigs(mode: str, **settings: Any) -> Iterator[Rig]:
    """For fixtures: a rig that is taken down at the end."""
    made = Rig(mode, **settings)
    yield made
    made.close()
