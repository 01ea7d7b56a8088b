"""IPAM plugins that are malicious, or ib-sriov itself: complete runs of the program, mostly DEL, which needs no HCA."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60.0  # for what normally takes a moment
OURSELVES = f"""#!/bin/sh
echo "$$" >>{{folder}}/calls
exec {sys.executable} -m ib_sriov_cni
"""


class Node:
    """A folder of plugins, and runs of ib-sriov that use them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, script: str) -> None:
        path = self.folder / name
        path.write_text(script)
        path.chmod(0o755)

    def start(self, command: str, kind: str, **more: Any) -> subprocess.Popen[str]:
        conf = {
            "cniVersion": "1.1.0",
            "name": "ib",
            "type": "ib-sriov",
            "stateDir": str(self.folder / "state"),
            "ipam": {"type": kind},
            "ipamTimeout": 5,
            **more,
        }
        environ = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": "c1",
            "CNI_NETNS": "",
            "CNI_IFNAME": "net1",
            "CNI_PATH": str(self.folder),
            "PYTHONPATH": str(ROOT),
            "PATH": os.environ["PATH"],
            "HERE": str(self.folder),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "ib_sriov_cni"],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(conf))
        process.stdin.close()
        process.stdin = None
        return process

    def call(self, command: str, kind: str, **more: Any) -> tuple[int, str]:
        """Exit status and standard output."""
        process = self.start(command, kind, **more)
        out, _ = process.communicate(timeout=SECONDS)
        return process.returncode, out

    def numbers(self, name: str) -> list[int]:
        """The process IDs that plugins have written to a file."""
        file = self.folder / name
        return [int(word) for word in file.read_text().split()] if file.exists() else []


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    for pid in node.numbers("pids"):  # left over if the test failed
        if exists(pid):
            os.kill(pid, signal.SIGKILL)


def exists(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def wait_for(node: Node, name: str, count: int) -> list[int]:
    deadline = time.monotonic() + SECONDS
    while len(found := node.numbers(name)) < count:
        assert time.monotonic() < deadline, f"{name}: {found}"
        time.sleep(0.01)
    return found


@pytest.mark.parametrize("kind", ["ib-sriov", "ib-sriov-cni", "another-name"])
@pytest.mark.parametrize("command", ["DEL", "GC"])
def test_no_chain_of_ourselves(node: Node, command: str, kind: str) -> None:
    """A copy is started once, and refuses. It has nothing to release, so DEL does not keep failing."""
    node.add(kind, OURSELVES.format(folder=node.folder))
    more: dict[str, Any] = {"cni.dev/valid-attachments": []} if command == "GC" else {}
    assert node.call(command, kind, **more) == (0, "")
    assert len(node.numbers("calls")) == 1


def test_no_chain_by_way_of_another_plugin(node: Node) -> None:
    """A plugin in between passes its environment on."""
    node.add("between", "#!/bin/sh\nexec $HERE/ourselves\n")
    node.add("ourselves", OURSELVES.format(folder=node.folder))
    assert node.call("DEL", "between") == (0, "")
    assert len(node.numbers("calls")) == 1


def test_a_copy_says_what_is_wrong(node: Node) -> None:
    """ADD fails with code 7, which the calling ADD quotes."""
    node.add("copy", OURSELVES.format(folder=node.folder))
    environ = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/proc/self/ns/net",
        "CNI_IFNAME": "net1",
        "CNI_PATH": "/nowhere",
        "PYTHONPATH": str(ROOT),
        "IB_SRIOV_DELEGATED": "1",
    }
    conf = {"cniVersion": "1.0.0", "name": "ib", "ipam": {"type": "copy"}, "deviceID": "0000:00:00.1"}
    done = subprocess.run(
        [node.folder / "copy"], env=environ, input=json.dumps(conf), capture_output=True, text=True, check=False
    )
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["code"]) == (1, 7)
    assert answer["msg"] == "ib-sriov is not an IPAM plugin, but was called as one (IB_SRIOV_DELEGATED is set)"
    assert "host-local" in answer["details"]


DAEMON = """
(setsid sh -c 'echo $$ >>$HERE/pids; trap "" TERM HUP INT; sleep 1000 & echo $! >>$HERE/pids; wait' &)
until [ -r $HERE/pids ] && [ "$(wc -l <$HERE/pids)" -ge 2 ]; do sleep 0.01; done
"""
FORKS = """#!{python} -IS
import os, sys, time
# A chain of sessions: each process starts the next one and ends, so that it has another parent each time.
with open(os.environ["HERE"] + "/pids", "a", buffering=1) as file:
    for _ in range(300):
        if os.fork():
            os._exit(0)
        os.setsid()
        file.write(f"{{os.getpid()}}\\n")
        time.sleep(0.02)
"""


@pytest.mark.parametrize(
    "last", ["sleep 1000", "exit 0", "trap '' TERM; sleep 1000", "exec yes", "exec <&- >&- 2>&-; sleep 1000"]
)
def test_daemons_end_with_the_time_limit(node: Node, last: str) -> None:
    node.add("plugin", f"#!/bin/sh\n{DAEMON}{last}\n")
    status, out = node.call("DEL", "plugin", ipamTimeout=3)
    assert (status, json.loads(out)["code"]) == (1, 104)
    pids = node.numbers("pids")
    assert len(pids) == 2
    assert [pid for pid in pids if exists(pid)] == []


def test_a_process_that_changes_its_parent_all_the_time(node: Node) -> None:
    node.add("plugin", FORKS.format(python=sys.executable))
    status, out = node.call("DEL", "plugin", ipamTimeout=3)
    assert (status, json.loads(out)["code"]) == (1, 104)
    written = node.numbers("pids")
    assert len(written) > 5
    time.sleep(0.2)  # ten times as long as each of them waits
    assert node.numbers("pids") == written, "one of them has gone on"
    assert [pid for pid in written if exists(pid)] == []


@pytest.mark.parametrize("command", ["DEL", "GC"])
def test_sigterm_ends_the_plugin_with_us(node: Node, command: str) -> None:
    """Only ADD handles SIGTERM; the other commands die from it, and so does what they have started."""
    node.add("plugin", f"#!/bin/sh\n{DAEMON}echo $$ >>$HERE/pids; sleep 1000\n")
    process = node.start(command, "plugin", ipamTimeout=1000, **{"cni.dev/valid-attachments": []})
    pids = wait_for(node, "pids", 3)
    process.terminate()
    assert process.wait(SECONDS) == -signal.SIGTERM
    assert [pid for pid in pids if exists(pid)] == []
    process.communicate()


INTERRUPTED = """
import json, os, sys
from ib_sriov_cni.delegation.ipam_plugin import add_addresses
from ib_sriov_cni.kernel.syscalls import Terminated, raise_on_sigterm
from ib_sriov_cni.telemetry.log import Log
from ipam.protocol.request import parse_request
raise_on_sigterm()
verifier = os.fork()  # as an ADD's verifying child, which is none of the plugin's
if verifier == 0:
    import time
    time.sleep(1000)
conf = {"cniVersion": "1.0.0", "name": "ib", "ipam": {"type": "plugin"}}
request = parse_request(os.environ, json.dumps(conf).encode(), known_args=frozenset())
try:
    add_addresses(request, "plugin", Log())
except Terminated:
    print("interrupted", os.waitpid(verifier, os.WNOHANG)[0])
os.kill(verifier, 9)
"""


def test_sigterm_during_an_add(node: Node) -> None:
    """Everything the plugin has started is gone before the ADD is undone; the verifying child is still alive."""
    node.add("plugin", f"#!/bin/sh\n{DAEMON}echo $$ >>$HERE/pids; sleep 1000\n")
    environ = {
        **os.environ,
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/proc/self/ns/net",
        "CNI_IFNAME": "net1",
        "CNI_PATH": str(node.folder),
        "HERE": str(node.folder),
        "PYTHONPATH": str(ROOT),
    }
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        pids = wait_for(node, "pids", 3)
        process.terminate()
        out, _ = process.communicate(timeout=SECONDS)
    assert out == "interrupted 0\n"
    assert [pid for pid in pids if exists(pid)] == []


def test_endless_output_takes_no_memory(node: Node) -> None:
    """Standard output and error at once, with about 300 MB of address space for the program."""
    node.add("plugin", "#!/bin/sh\nyes >&2 &\nexec yes\n")
    command = f"ulimit -v 300000; exec {sys.executable} -m ib_sriov_cni"
    conf = {"cniVersion": "1.0.0", "name": "ib", "stateDir": str(node.folder / "s"), "ipam": {"type": "plugin"}}
    environ = {
        "CNI_COMMAND": "DEL",
        "CNI_CONTAINERID": "c1",
        "CNI_IFNAME": "net1",
        "CNI_PATH": str(node.folder),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        ["sh", "-c", command],
        env=environ,
        input=json.dumps(conf),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["code"]) == (1, 104)
    assert "its output is larger than 1048576 bytes" in answer["msg"]
    assert len(done.stdout) < 2_000
