"""kernel.rdma_verifier: the child process, with a fake pyverbs on PYTHONPATH where an answer is needed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ib_sriov_cni.core.errors import VerificationFailed
from ib_sriov_cni.kernel.rdma_verifier import read_port
from tests.netns.conftest import Sandbox

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))

DOUBLE = """
import os, sys, time

class Port:
    state, link_layer, lid, sm_lid, pkey_tbl_len = {state}, 1, 5, 1, 3

class Device:
    node_guid = {node_guid}

class Context:
    def __init__(self, name):
        print("libibverbs: Warning: something on standard output", flush=True)
        self.name = name
        {opening}
        self.asked = 0
        self.looks = 0
    def __enter__(self):
        return self
    def __exit__(self, *_fault):
        pass
    def query_port(self, number):
        self.asked += 1
        port = Port()
        if self.asked >= {active_after}:
            port.state = 4
        return port
    def query_device(self):
        return Device()
    def query_gid(self, port, index):
        return "fe80:0000:0000:0000:0200:0000:0000:0011"
    def query_pkey(self, port, index):
        self.looks += index == 0
        pkey = [0xFFFF, 0x8001, 0x8002 if self.looks > {late_looks} else 0][index]
        return int.from_bytes(pkey.to_bytes(2, "big"), sys.byteorder)
"""

ASK = """
import json, os, sys
from ib_sriov_cni.kernel.netns import open_netns
from ib_sriov_cni.kernel import rdma_verifier as verbs
from ib_sriov_cni.core.errors import CniError
path, wait, seconds = sys.argv[1], float(sys.argv[2]), float(sys.argv[4])
pkey = int(sys.argv[3], 16) if sys.argv[3] else None
held = os.open(os.environ["HERE"] + "/lock", os.O_CREAT | os.O_RDWR)
try:
    with open_netns(path) as netns:
        report = verbs.read_port(
            "mlx5_3", netns=netns, exclusive=True, wait=wait, pkey=pkey, open_seconds=seconds
        )
    print(json.dumps({**report.__dict__, "node_guid": str(report.node_guid), "port_guid": str(report.port_guid)}))
except CniError as fault:
    print(json.dumps({"code": fault.code, "msg": fault.msg, "details": fault.details}))
"""


# For `opening`: write our PID to a file, and hang.
NOTE_PID = "open(os.environ['HERE'] + '/pid', 'w').write(str(os.getpid())); time.sleep(1000)"


class Double:
    """A fake pyverbs in a folder, and a process that queries it."""

    def __init__(self, folder: Path, sandbox: Sandbox) -> None:
        self.folder = folder
        self.sandbox = sandbox
        self.make()

    def make(
        self,
        *,
        opening: str = "pass",
        state: int = 4,
        node_guid: str = "'0200:0000:0000:0011'",
        active_after: int = 99,
        late_looks: int = 99,
    ) -> None:
        package = self.folder / "pyverbs"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text("")
        text = DOUBLE.format(
            opening=opening, state=state, node_guid=node_guid, active_after=active_after, late_looks=late_looks
        )
        (package / "device.py").write_text(text)

    def start(self, *, wait: float = 0.0, pkey: str = "", seconds: float = 60.0) -> subprocess.Popen[str]:
        arguments = [self.sandbox.path, str(wait), pkey, str(seconds)]
        env = {**os.environ, "PYTHONPATH": f"{self.folder}:{ROOT}", "HERE": str(self.folder)}
        return subprocess.Popen(
            [sys.executable, "-c", ASK, *arguments], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def child_of(self, process: subprocess.Popen[str]) -> int:
        """Wait until the child has run NOTE_PID as its `opening`; return its PID."""
        pid = self.folder / "pid"
        while not pid.exists() or not pid.read_text():
            assert process.poll() is None
            os.sched_yield()
        return int(pid.read_text())

    def ask(self, *, wait: float = 0.0, pkey: str = "", seconds: float = 60.0) -> dict[str, Any]:
        process = self.start(wait=wait, pkey=pkey, seconds=seconds)
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        found = json.loads(out)  # nothing else is on standard output (C5), whatever a library prints
        assert isinstance(found, dict)
        return found


@pytest.fixture
def double(tmp_path: Path, sandbox: Sandbox) -> Double:
    return Double(tmp_path, sandbox)


def test_a_port(double: Double) -> None:
    assert double.ask() == {
        "device": "mlx5_3",
        "node_guid": "02:00:00:00:00:00:00:11",
        "port_guid": "02:00:00:00:00:00:00:11",
        "link_layer": "InfiniBand",
        "state": "ACTIVE",
        "lid": 5,
        "sm_lid": 1,
        "pkeys": [],
    }


def test_the_table_of_pkeys_is_in_host_order(double: Double) -> None:
    assert double.ask(pkey="0x8001")["pkeys"] == [0xFFFF, 0x8001, 0]


def test_a_p_key_that_comes_late_is_awaited(double: Double) -> None:
    double.make(late_looks=3)
    assert double.ask(pkey="0x0002", wait=600)["pkeys"] == [0xFFFF, 0x8001, 0x8002]


def test_a_p_key_that_does_not_come(double: Double) -> None:
    assert double.ask(pkey="0x8002", wait=0.1)["pkeys"] == [0xFFFF, 0x8001, 0]


def test_the_node_guid_of_an_older_pyverbs(double: Double) -> None:
    """An integer: the eight bytes as they are in memory."""
    double.make(node_guid="int.from_bytes(bytes.fromhex('0200000000000011'), sys.byteorder)")
    assert double.ask()["node_guid"] == "02:00:00:00:00:00:00:11"


def test_a_port_that_becomes_active(double: Double) -> None:
    double.make(state=2, active_after=4)
    assert double.ask(wait=60)["state"] == "ACTIVE"


def test_a_port_that_does_not(double: Double) -> None:
    double.make(state=2)
    assert double.ask(wait=0.1)["state"] == "INIT"
    assert double.ask(wait=0)["state"] == "INIT"
    double.make(state=9)
    assert double.ask()["state"] == "9"


def test_it_is_opened_inside_the_namespace_with_its_own_sysfs(double: Double) -> None:
    double.sandbox.add_link("only-there")
    here = os.listdir("/sys/class/net")
    opening = "open(os.environ['HERE'] + '/seen', 'w').write(' '.join(os.listdir('/sys/class/net')))"
    double.make(opening=opening)
    double.ask()
    assert "only-there" in (double.folder / "seen").read_text().split()
    assert os.listdir("/sys/class/net") == here


def test_a_device_that_cannot_be_opened(double: Double) -> None:
    double.make(opening="raise OSError(13, 'Permission denied')")
    fault = double.ask()
    assert fault["code"] == 103
    assert re.fullmatch(r"open RDMA device mlx5_3 in /run/netns/\S+: OSError: .*Permission denied", fault["msg"])


def test_a_device_that_can_be_opened_at_the_third_try(double: Double) -> None:
    double.make(
        opening="path = os.environ['HERE'] + '/tries'; open(path, 'a').write('x')\n"
        "        if os.path.getsize(path) < 3: raise OSError('udev has not made it yet')"
    )
    assert double.ask()["state"] == "ACTIVE"


def test_a_driver_that_hangs(double: Double) -> None:
    double.make(opening=NOTE_PID)
    fault = double.ask(seconds=1.5)
    assert (fault["code"], fault["msg"]) == (103, "open RDMA device mlx5_3: no answer within 1.5 s")
    assert not os.path.exists(f"/proc/{(double.folder / 'pid').read_text()}")


SEIZE = """
import ctypes, sys, time
libc = ctypes.CDLL(None, use_errno=True)
assert libc.ptrace(0x4206, int(sys.argv[1]), None, None) == 0, ctypes.get_errno()  # PTRACE_SEIZE
print("held", flush=True)
time.sleep(1000)
"""


def test_a_child_that_even_kill_does_not_end(double: Double) -> None:
    """As when a driver hangs; here a tracer holds the killed child. The plugin must not hang with it."""
    double.make(opening=NOTE_PID)
    process = double.start(seconds=3.0)
    child = double.child_of(process)
    with subprocess.Popen([sys.executable, "-c", SEIZE, str(child)], stdout=subprocess.PIPE, text=True) as tracer:
        assert tracer.stdout is not None
        assert tracer.stdout.readline() == "held\n"
        out, _ = process.communicate(timeout=60)
        assert json.loads(out)["msg"] == "open RDMA device mlx5_3: no answer within 3 s"
        assert os.path.exists(f"/proc/{child}")
        tracer.kill()


@pytest.mark.parametrize("end", ["os._exit(3)", "os.kill(os.getpid(), 11)"])
def test_a_library_that_ends_the_process(double: Double, end: str) -> None:
    double.make(opening=end)
    fault = double.ask()
    assert fault["code"] == 103
    assert "the verifying process died" in fault["msg"]


def test_the_child_ends_with_its_parent_and_holds_nothing_of_it(double: Double) -> None:
    """A lock is released when its holder dies: a child that hangs in a driver must not keep it."""
    listing = "' '.join(map(os.readlink, filter(os.path.islink, glob.glob('/proc/self/fd/*'))))"
    double.make(
        opening=f"import glob\n        open(os.environ['HERE'] + '/seen', 'w').write({listing})\n        {NOTE_PID}"
    )
    process = double.start()
    child = double.child_of(process)
    process.kill()
    assert process.stdout is not None
    assert process.stdout.read() == "", "the runtime's end of standard output closes"
    process.communicate()
    while os.path.exists(f"/proc/{child}") and " Z " not in Path(f"/proc/{child}/stat").read_text():
        os.sched_yield()
    seen = (double.folder / "seen").read_text().split()
    assert seen[:2] == ["/dev/null", "/dev/null"]
    assert f"{double.folder}/lock" not in seen


WAIT = """
import os, sys
from ib_sriov_cni.kernel.netns import open_netns
from ib_sriov_cni.kernel import rdma_verifier as verbs
with open_netns(sys.argv[1]) as netns:
    verifier = verbs.Verifier(netns, exclusive=True)
    print(verifier._pid, flush=True)
    sys.stdin.read()
    verifier.close()
    assert not os.path.exists(f"/proc/{verifier._pid}")
    print("ended", flush=True)
"""


@pytest.mark.parametrize("killed", [False, True])
def test_a_child_that_is_never_asked(double: Double, killed: bool) -> None:
    """It loads pyverbs, waits, and ends when the ADD no longer needs it, or with its parent."""
    ready = double.folder / "ready"
    double.make()
    with open(double.folder / "pyverbs" / "device.py", "a", encoding="utf-8") as file:
        file.write("\nopen(os.environ['HERE'] + '/ready', 'w').close()\n")
    env = {**os.environ, "PYTHONPATH": f"{double.folder}:{ROOT}", "HERE": str(double.folder)}
    with subprocess.Popen(
        [sys.executable, "-c", WAIT, double.sandbox.path],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        while not ready.exists():
            assert process.poll() is None
            os.sched_yield()
        assert os.path.exists(f"/proc/{child}")
        if killed:
            process.kill()
        out, _ = process.communicate()
        assert out == ("" if killed else "ended\n")
    while os.path.exists(f"/proc/{child}") and " Z " not in Path(f"/proc/{child}/stat").read_text():
        os.sched_yield()


def test_the_real_pyverbs_and_a_device_that_is_not_there(sandbox: Sandbox) -> None:
    with sandbox.open() as netns, pytest.raises(VerificationFailed) as caught:
        read_port("no-such-device", netns=netns, exclusive=True, wait=0.0, pkey=None)
    assert caught.value.code == 103
    assert f"open RDMA device no-such-device in {sandbox.path}: " in caught.value.msg
    assert "ib_uverbs" in caught.value.details
