"""Reading with a time limit: a reader that hangs costs only its time; the query to the subnet administrator."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ib_sriov_cni.doctor import subnet_administrator as sa
from ib_sriov_cni.doctor.examine import MAX_SLOWNESS, measure_slowness, read_all_facts
from ib_sriov_cni.doctor.facts import AllFacts, Options
from ib_sriov_cni.doctor.reader_processes import read_bounded
from tests.unit.doctor_node import VF1, make_node, roots, write_conf

# ---- reading with a time limit


def test_answers_faults_and_what_hangs() -> None:
    def fail() -> object:
        raise PermissionError(13, "Permission denied", "/x")

    def die() -> object:
        os._exit(1)

    def talk() -> object:
        print("a library that prints")
        return {"a": 1}

    readers: dict[str, Callable[[], object]] = {"talk": talk, "fail": fail, "die": die, "hang": lambda: time.sleep(600)}
    answers = read_bounded(readers, 1.0)
    assert answers.found == {"talk": {"a": 1}}
    assert answers.faults == {
        "fail": "/x: Permission denied",
        "die": "the reading process died",
        "hang": "no answer within 1 s",
    }
    assert answers.hung == ["hang"]


def test_a_long_answer_comes_whole() -> None:
    assert read_bounded({"long": lambda: "x" * 5_000_000}, 30).found["long"] == "x" * 5_000_000


def reap() -> None:
    """Reap the children that had not ended yet when they were killed; raises ChildProcessError when none is left."""
    while True:
        os.waitpid(-1, 0)


def test_nobody_is_left_behind() -> None:
    read_bounded({"one": os.getpid, "hang": lambda: time.sleep(600)}, 0.5)
    with pytest.raises(ChildProcessError):
        reap()


# ---- the query to the subnet administrator


def test_the_query_is_a_datagram_to_the_administrator() -> None:
    text = sa.make_query(3, 700, lid=1, sl=2, index=4)
    assert len(text) == 64 + 256
    assert struct.unpack_from("=IIIII", text) == (3, 0, 700, 1, 256)
    assert struct.unpack_from(">IIHB", text, 20) == (1, 0x80010000, 1, 2)
    assert struct.unpack_from("=H", text, 56) == (4,)
    assert tuple(text[64:68]) == (1, 3, 2, 1)
    assert struct.unpack_from(">H", text, 80) == (1,)


@pytest.mark.parametrize(
    ("status", "method", "mad_status", "words"),
    [
        (0, 0x81, 0, ""),
        (0, 0x81, 0x0C, "status 0x000c"),
        (110, 0x01, 0, "no answer"),
        (5, 0x01, 0, "could not be sent"),
        (0, 0x01, 0, "no answer"),
    ],
)
def test_the_answer(status: int, method: int, mad_status: int, words: str) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        header = struct.pack("=II", 0, status).ljust(64, b"\0")
        theirs.send(header + struct.pack(">BBBBH", 1, 3, 2, method, mad_status).ljust(256, b"\0"))
        assert words in sa.await_answer(ours.fileno(), time.monotonic() + 0.3)


# ---- all readers together


def facts_of(root: Path, seconds: float, slowness: float = 1.0) -> AllFacts:
    return read_all_facts(roots(root), Options(cni_path=("/opt/cni/bin",), seconds=seconds), lambda: slowness)


def test_everything_of_a_made_node(tmp_path: Path) -> None:
    make_node(tmp_path)
    write_conf(tmp_path)
    facts = facts_of(tmp_path, 30)
    assert facts.hung == ()
    # The kernel does not know the fake PF's netdev.
    assert set(facts.unread) == {"vf_configs", "verbs"}
    assert facts.ports is not None
    assert facts.ports["mlx5_1"].pkeys == (0xFFFF, 0x8001, 0)
    assert facts.sm is not None
    assert facts.sm["mlx5_0"].fault.endswith("/dev/infiniband/umad0: No such file or directory")
    assert facts.config is not None
    assert facts.state is not None
    assert facts.node is not None


def test_a_firmware_that_hangs(tmp_path: Path) -> None:
    """Opening a FIFO without a writer blocks, as reading a port's state does when the firmware hangs."""
    made = make_node(tmp_path)
    state = made.device(VF1) / "infiniband/mlx5_2/ports/1/state"
    state.unlink()
    os.mkfifo(state)
    facts = facts_of(tmp_path, 2)
    assert "ports" in facts.hung
    assert facts.hca is not None
    assert facts.state is not None
    assert facts.unread["ports"] == "no answer within 2 s"


def test_a_slow_machine_is_not_a_broken_one(tmp_path: Path) -> None:
    """The time limit grows with what a yardstick takes."""
    made = make_node(tmp_path)
    state = made.device(VF1) / "infiniband/mlx5_2/ports/1/state"
    state.unlink()
    os.mkfifo(state)
    facts = facts_of(tmp_path, 0.5, slowness=5.0)
    assert facts.unread["ports"] == "no answer within 2.5 s"
    assert 1.0 <= measure_slowness() <= MAX_SLOWNESS
