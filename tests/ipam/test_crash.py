"""Killed at any moment, full or failing disks: no address given out twice or lost, nothing half done (H8, C11)."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from ipam.protocol import fastjson
from tests.ipam.calls import OURS, ROOT, ask, environment, execute, here, leases

if TYPE_CHECKING:
    from pathlib import Path

KILLS = 160
KILLS_OF_THE_EXECUTABLE = 40
VALID = "cni.dev/valid-attachments"


def network(folder: Path, *subnets: str) -> dict[str, Any]:
    ranges = [[{"subnet": subnet}] for subnet in subnets or ("10.0.0.0/27", "fd00::/64")]
    return {"cniVersion": "1.1.0", "name": "net", "ipam": {"dataDir": str(folder), "ranges": ranges}}


def killed_child(conf: dict[str, Any], environ: dict[str, str], delay: float | None) -> bytes:
    """Run one call in a child, kill it after `delay` seconds if given, and return what it had printed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        answer = here(conf, environ)
        os.write(writing, fastjson.dumps([answer.status, answer.doc]).encode())
        os._exit(0)
    os.close(writing)
    if delay is not None:
        end = time.perf_counter() + delay
        while time.perf_counter() < end:
            pass
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as printed:
        return printed.read()


def killed_program(conf: dict[str, Any], environ: dict[str, str], delay: float | None) -> bytes:
    env = environ | {"PATH": os.environ["PATH"], "PYTHONPATH": ROOT, "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(OURS, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(fastjson.dumps(conf).encode())
        process.stdin.close()
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.kill()
        doc = process.stdout.read()
    return b"[%d,%s]" % (process.returncode, doc or b"null") if process.returncode >= 0 else b""


def usual_time(run: Any, conf: dict[str, Any]) -> float:
    """Return the median duration of a call that is not killed, in seconds."""
    times = []
    for number in range(9):
        begin = time.perf_counter()
        run(conf, environment("ADD", f"c{number}"), None)
        times.append(time.perf_counter() - begin)
    return sorted(times)[4]


class Node:
    """What a runtime knows: which ADDs were answered. Calls end by themselves or are killed."""

    def __init__(self, conf: dict[str, Any]) -> None:
        self.conf = conf
        self.live: dict[str, list[str]] = {}
        self.unsure: set[str] = set()  # a DEL was killed: it will be repeated
        self.cut = 0

    def add(self, printed: bytes, container: str) -> None:
        if not printed:
            self.cut += 1
            return
        found = fastjson.loads(printed)
        assert isinstance(found, list)
        assert found[0] == 0, found
        ips = [item["address"] for item in found[1]["ips"]]
        others = [ip for owner, held in self.live.items() if owner not in self.unsure for ip in held]
        assert not set(ips) & set(others), "an address twice"
        self.live[container] = ips

    def delete(self, printed: bytes, container: str) -> None:
        if printed:
            del self.live[container]
            self.unsure.discard(container)
        else:
            self.cut += 1
            self.unsure.add(container)

    def settle(self, folder: Path) -> None:
        """Repeat the DELs that were killed, run GC for the rest, and compare."""
        for container in self.unsure:
            assert ask("DEL", self.conf, container).status == 0
            del self.live[container]
        self.unsure.clear()
        valid = [{"containerID": container, "ifname": "eth0"} for container in self.live]
        assert ask("GC", self.conf | {VALID: valid}).status == 0
        expected = {ip.split("/")[0]: f"{owner}\r\neth0".encode() for owner, ips in self.live.items() for ip in ips}
        assert leases(str(folder / "net")) == expected
        assert not (folder / "net" / ".ib-host-local.new").exists()


@pytest.mark.parametrize(
    ("run", "kills", "start"), [(killed_child, KILLS, 0.2), (killed_program, KILLS_OF_THE_EXECUTABLE, 0.5)]
)
def test_h8_kill_9(run: Any, kills: int, start: float, tmp_path: Path) -> None:
    """Kills fall between `start` (a fraction of a call's usual time; start-up before that) and just after its end."""
    seed = int(os.environ.get("IB_SRIOV_SEED", "7"))
    print("seed", seed)
    dice = random.Random(seed)
    node = Node(network(tmp_path))
    usual = usual_time(run, network(tmp_path / "other"))
    for turn in range(kills * 10):
        if node.cut >= kills:
            break
        settled = sorted(set(node.live) - node.unsure)
        delay = dice.uniform(start, 1.2) * usual
        before = node.cut
        if len(settled) > 8 or (settled and dice.random() < 0.45):
            container = dice.choice(settled)
            node.delete(run(node.conf, environment("DEL", container), delay), container)
        else:
            container = f"c{turn}"
            node.add(run(node.conf, environment("ADD", container), delay), container)
        usual *= 1.02 if node.cut > before else 0.98  # the machine's load changes: keep killing about half of them
        if turn % 10 == 9:
            node.settle(tmp_path)
    node.settle(tmp_path)
    assert node.cut == kills


FULL = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.ipam.test_crash import fill_and_try
fill_and_try(Path(sys.argv[2]))
"""


def fill_and_try(folder: Path) -> None:
    """On a nearly full file system (inodes or pages), ADD does all or nothing, and DEL always works."""
    conf = network(folder)
    for container in ("a", "b"):
        assert ask("ADD", conf, container).status == 0
    before = leases(str(folder / "net"))
    outcomes = set()
    for kind in ("inodes", "pages"):
        for spare in range(9):
            fillers = fill(folder, kind)
            for path in fillers[:spare]:
                path.unlink()
            answer = ask("ADD", conf, "new")
            outcomes.add(answer.status)
            if answer.status == 0:
                assert len(leases(str(folder / "net"))) == len(before) + 2
                assert ask("DEL", conf, "new").status == 0
            else:
                assert answer.code == 106, answer
                assert "No space left" in answer.msg, answer
            assert leases(str(folder / "net")) == before, (kind, spare)
            for path in fillers[spare:]:
                path.unlink()
    assert outcomes == {0, 1}
    fill(folder, "pages")
    fill(folder, "inodes")
    for container in ("a", "b"):
        assert ask("DEL", conf, container).status == 0
    assert leases(str(folder / "net")) == {}


def fill(folder: Path, kind: str) -> list[Path]:
    made = []
    for number in range(10000):
        path = folder / f"{kind}{number}"
        try:
            path.write_bytes(b"x" * (4096 if kind == "pages" else 0))
        except OSError:
            path.unlink(missing_ok=True)
            break
        made.append(path)
    return made


def in_own_mounts(script: str, *arguments: str) -> None:
    """Run a shell script in a mount namespace of its own, as root there."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-euc", script, "sh", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_c11_full_disk(tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o size=128k,nr_inodes=40 none "$1"; "$2" -c "$3" "$4" "$1"'
    in_own_mounts(script, str(tmp_path), sys.executable, FULL, ROOT)


READ_ONLY = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.ipam.test_crash import read_only
read_only(Path(sys.argv[2]))
"""


def read_only(folder: Path) -> None:
    conf = network(folder)
    before = leases(str(folder / "net"))
    for command, container in (("ADD", "new"), ("DEL", "a")):
        answer = ask(command, conf, container)
        assert answer.code == 106, answer
        assert "Read-only file system" in answer.msg, answer
        assert str(folder) in answer.msg, answer
    assert ask("STATUS", conf).code == 50
    assert ask("CHECK", conf, "a").status == 0
    assert ask("CHECK", conf, "new").code == 104
    assert ask("DEL", conf, "new").status == 0
    assert ask("GC", conf | {VALID: []}).code == 106
    assert leases(str(folder / "net")) == before


def test_c11_read_only_disk(tmp_path: Path) -> None:
    assert ask("ADD", network(tmp_path), "a").status == 0
    (tmp_path / "net" / "10.0.0.9").write_bytes(b"")
    script = 'mount --bind "$1" "$1"; mount -o remount,ro,bind "$1"; "$2" -c "$3" "$4" "$1"'
    in_own_mounts(script, str(tmp_path), sys.executable, READ_ONLY, ROOT)


def test_c11_a_write_cut_short(tmp_path: Path) -> None:
    """With a limit on file sizes, a lease can be started but not finished."""
    conf = network(tmp_path)
    for limit in (0, 3):
        limited = ("prlimit", f"--fsize={limit}", *OURS)
        answer = execute(limited, conf, environment("ADD"))
        assert answer.status == 1
        assert leases(str(tmp_path / "net")) == {}
    assert ask("ADD", conf).ips == ["10.0.0.2/27", "fd00::2/64"]
