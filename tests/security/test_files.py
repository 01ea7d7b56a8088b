"""Other things in place of our files: nothing blocks, no link is followed, and the error is a StateFailure.

Opening a FIFO without a writer for reading blocks forever; a link leads to someone else's file.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ib_sriov_cni.core.errors import StateFailure
from ib_sriov_cni.core.record import AttachmentKey
from ib_sriov_cni.core.values import PciAddress
from ib_sriov_cni.state.device_info import write_device_info
from ib_sriov_cni.state.go_records import GoRecords
from ib_sriov_cni.state.locks import Locks
from ib_sriov_cni.state.ownership import Ownership
from ib_sriov_cni.state.records import Records
from ib_sriov_cni.state.stray_files import StrayFiles
from ib_sriov_cni.telemetry.log import Log
from ipam.protocol.value import replace
from tests.unit.trees import KEY, RECORD, VF

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 10.0  # for what normally takes a moment
PRECIOUS = json.dumps({"type": "pci", "pci": {}, "deviceID": str(VF)})
KINDS = ("pipe", "pipe with a writer", "link", "link to nowhere", "link to itself", "folder", "full folder", "socket")


class Place:
    """A path where something else is."""

    def __init__(self, path: Path, kind: str, target: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.end = -1
        if kind.startswith("pipe"):
            os.mkfifo(path)
            if "writer" in kind:
                self.end = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        elif kind == "link":
            path.symlink_to(target)
        elif kind == "link to nowhere":
            path.symlink_to(target.with_name("nowhere"))
        elif kind == "link to itself":
            path.symlink_to(path.name)
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as bound:
                here = os.getcwd()
                os.chdir(path.parent)  # the path of a socket has at most 107 bytes
                try:
                    bound.bind(path.name)
                finally:
                    os.chdir(here)
        else:
            path.mkdir()
            if kind == "full folder":
                (path / "file").write_text("x")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Someone else's file, whose content would be valid as one of ours."""
    path = tmp_path / "target"
    path.write_text(PRECIOUS)
    return path


@pytest.fixture(autouse=True)
def deadline() -> Iterator[None]:
    """Interrupt a test that hangs: one that waits forever shows nothing."""

    def interrupt(_number: int, _frame: object) -> None:
        pytest.fail(f"it still waits after {SECONDS:g} s")

    was = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, was)


def acts(folder: str) -> list[Callable[[], object]]:
    """Every operation that opens a file in the state or lock directory."""
    records, go, stray_files = Records(folder), GoRecords(folder), StrayFiles(folder)
    ownership, locks = Ownership(folder), Locks(f"{folder}/locks")
    other = AttachmentKey(network=KEY.network, container_id="other", ifname="net9")
    return [
        lambda: records.inspect(KEY),
        records.read_keys,
        lambda: records.read(KEY),
        lambda: records.write(replace(RECORD, committed=True)),
        lambda: records.write(RECORD),
        lambda: records.sweep(KEY.network),
        lambda: records.forget(KEY),
        stray_files.read,
        stray_files.read_foreign,
        stray_files.why_unreadable,
        lambda: go.read_keys(KEY.network),
        lambda: go.is_superseded(other, VF, 0.0),
        lambda: go.read(KEY),
        lambda: go.forget(KEY),
        lambda: ownership.read_owner(VF),
        ownership.read_owners,
        lambda: ownership.claim(VF, KEY),
        lambda: ownership.disclaim(VF, KEY),
        lambda: locks.read_holder(VF),
        lambda: locks.was_last_taken_by(VF, KEY.holder),
        lambda: locks.take(VF, KEY.holder, 0.0).__exit__(),
    ]


PLACES = (
    f"attachments/{KEY.path}.json",
    f"attachments/{KEY.path}.json.new",
    f"attachments/{KEY.network}",
    "attachments",
    f"devices/{VF}",
    f"devices/{VF}.new",
    "devices",
    f"{KEY.container_id}-{KEY.ifname}",
    f"locks/{VF}.lock",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_in_the_state_directory(tmp_path: Path, target: Path, place: str, kind: str) -> None:
    """Each operation gets its own directory, as an earlier one may have moved the obstacle away."""
    for number in range(len(acts(""))):
        state = tmp_path / f"state{number}"
        there = Place(state / place, kind, target)
        before = open_files()
        with contextlib.suppress(StateFailure, ValueError):
            acts(str(state))[number]()
        assert open_files() == before, number
        assert target.read_text() == PRECIOUS, number
        assert not target.with_name("nowhere").exists(), number
        if there.end >= 0:
            os.close(there.end)


@pytest.mark.parametrize("kind", KINDS)
def test_the_device_info_file(tmp_path: Path, target: Path, kind: str) -> None:
    Place(tmp_path / "net1.json", kind, target)
    before = open_files()
    with pytest.raises(StateFailure, match="write device info"):
        write_device_info(str(tmp_path / "net1.json"), pci=VF, pf=PciAddress("0000:3b:00.0"), rdma="mlx5_2")
    assert open_files() == before
    assert target.read_text() == PRECIOUS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net1.json", "target"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_log_file(tmp_path: Path, target: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A FIFO is allowed, in case someone reads it; when it is full, lines are lost and nothing blocks."""
    Place(tmp_path / "log", kind, target)
    log = Log(path=str(tmp_path / "log"))
    for _ in range(200):
        log.warning("line", fact="x" * 2_000)
    assert capfd.readouterr().err.count("msg=line") == 200
    assert target.read_text() == PRECIOUS
    assert not target.with_name("nowhere").exists()


@pytest.mark.parametrize("what", ["logFile", "trace", "record", "record of the Go plugin", "owner"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_del(tmp_path: Path, target: Path, kind: str, what: str) -> None:
    """There is nothing to release, and the obstacle does not make DEL fail."""
    state = tmp_path / "state"
    pci = "0000:99:00.7"
    places = {
        "logFile": tmp_path / "log",
        "trace": tmp_path / "trace",
        "record": state / "attachments/ib/c1:net1.json",
        "record of the Go plugin": state / "c1-net1",
        "owner": state / "devices" / pci,
    }
    Place(places[what], kind, target)
    conf = {
        "cniVersion": "1.0.0",
        "name": "ib",
        "deviceID": pci,
        "stateDir": str(state),
        "logFile": str(places["logFile"]),
    }
    environ = {
        "CNI_COMMAND": "DEL",
        "CNI_CONTAINERID": "c1",
        "CNI_IFNAME": "net1",
        "CNI_PATH": "/nowhere",
        "PYTHONPATH": str(ROOT),
        "IB_SRIOV_TRACE": str(places["trace"]),
    }
    done = subprocess.run(
        [sys.executable, "-m", "ib_sriov_cni"],
        env=environ,
        input=json.dumps(conf),
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS - 1,
    )
    if what == "record of the Go plugin" and "folder" in kind:
        assert "remove the Go plugin's record" in done.stdout
    else:
        assert (done.returncode, done.stdout) == (0, ""), done
    assert target.read_text() == PRECIOUS
    assert not target.with_name("nowhere").exists()


def open_files() -> set[str]:
    return set(os.listdir("/proc/self/fd"))
