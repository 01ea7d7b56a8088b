"""A VF keeps the numbers of its uverbs, umad and issm devices: its container got them before ADD.

The kernel gives out the lowest free number, so two rebinds at once exchange them, and so does one beside a gap.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.lab.commands import names, wait
from tests.lab.modes import EXCLUSIVE
from tests.lab.pod import Pod
from tests.lab.rig import Rig, at_once, end, guid_of, state_of, steps_of

LOG = Path("/tmp/numbers.log")
LOCK = Path("/run/ib-sriov/rebind.lock")
CHECKPOINT = Path("/var/lib/kubelet/device-plugins/kubelet_internal_checkpoint")


@pytest.fixture(autouse=True)
def log() -> Iterator[None]:
    for path in (LOG, CHECKPOINT):
        path.unlink(missing_ok=True)
    yield
    for path in (LOG, CHECKPOINT):
        path.unlink(missing_ok=True)


@pytest.fixture
def rig(rig: Rig) -> Rig:
    """The module's rig, with its VFs bound in order: no lower number is free."""
    bind_in_order(rig)
    return rig


def bind_in_order(rig: Rig, count: int = 4) -> None:
    for vf in range(count):
        rig.hca.unbind(vf)
    for vf in range(count):
        assert rig.hca.bind(vf) == "OK"
    assert rig.hca.settled()


def numbers(rig: Rig, vf: int) -> list[str]:
    """The character devices of a VF, as /dev/infiniband has them."""
    path = rig.hca.vf_path(vf)
    return [*names(path / "infiniband_verbs"), *names(path / "infiniband_mad")]


def all_numbers(rig: Rig, count: int = 4) -> list[list[str]]:
    return [numbers(rig, vf) for vf in range(count)]


def asks(vf: int, **more: Any) -> dict[str, Any]:
    return {"guid": guid_of(vf + 1), "logFile": str(LOG), **more}


def opened(process: subprocess.Popen[str]) -> list[str]:
    try:
        return [os.readlink(path) for path in Path(f"/proc/{process.pid}/fd").iterdir()]
    except FileNotFoundError:
        return []


def waits_or_ends(process: subprocess.Popen[str]) -> bool:
    """Wait until a call waits for the lock of rebinds, or is over."""
    return wait(lambda: process.poll() is not None or str(LOCK) in opened(process), 60)


@contextmanager
def stopped(rig: Rig, command: str, pod: Pod, vf: int, at: str, **more: Any) -> Iterator[subprocess.Popen[str]]:
    """A call that stands still before a step until the end of the block."""
    process = rig.start(command, pod, vf, trace=f"{at}=stop", **more)
    assert wait(lambda: state_of(process.pid) in ("T", ""), 60)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)


def is_held(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


# ---- two at once


def test_two_adds(rig: Rig) -> None:
    had = all_numbers(rig)
    first, second = rig.pod(), rig.pod()
    with stopped(rig, "ADD", first, 0, "bind", **asks(0)) as held:
        other = rig.start("ADD", second, 1, **asks(1))
        assert waits_or_ends(other)
    for done in (end(held), end(other)):
        assert done.status == 0, done
    assert all_numbers(rig) == had
    at_once([partial(rig.delete, first, 0, **asks(0)), partial(rig.delete, second, 1, **asks(1))])
    assert all_numbers(rig) == had
    rig.assert_as_before()


@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_an_add_beside_a_del(rig: Rig, command: str) -> None:
    """Either is the one that is held up while its number, the lower one, is free."""
    had = all_numbers(rig)
    pods = [rig.pod(), rig.pod()]
    other_command = "DEL" if command == "ADD" else "ADD"
    attached = 1 if command == "ADD" else 0
    rig.add(pods[attached], attached, **asks(attached))
    assert all_numbers(rig) == had
    with stopped(rig, command, pods[0], 0, "bind", **asks(0)) as held:
        other = rig.start(other_command, pods[1], 1, **asks(1))
        assert waits_or_ends(other)
    for done in (end(held), end(other)):
        assert done.status == 0, done
    assert all_numbers(rig) == had
    left = 1 - attached
    rig.delete(pods[left], left, **asks(left))
    assert all_numbers(rig) == had
    rig.assert_as_before()


def test_three_pods_with_a_slow_probe(rig: Rig) -> None:
    had = all_numbers(rig)
    rig.hca.knob("probe_delay_ms", 300)
    pods = [rig.pod() for _ in range(3)]
    at_once(partial(rig.add, pod, vf, **asks(vf)) for vf, pod in enumerate(pods))
    assert all_numbers(rig) == had
    at_once(partial(rig.delete, pod, vf, **asks(vf)) for vf, pod in enumerate(pods))
    assert all_numbers(rig) == had
    rig.assert_as_before()


# ---- a lower number is free


def test_add_while_a_lower_number_is_free(rig: Rig) -> None:
    """It is refused while nothing is unbound; a try after the gap is filled succeeds. Without a rebind it goes on.

    A move of the RDMA device is refused likewise.
    """
    had = all_numbers(rig)
    assert rig.hca.unbind(0) == "OK"
    pod = rig.pod()
    refused = rig.call("ADD", pod, 1, **asks(1))
    assert refused.code == 101, refused
    assert had[0][0] in refused.out["msg"]
    assert had[1][0] in refused.out["msg"]
    assert rig.hca.pci(0) in refused.out["details"]
    assert {"unbind", "bind"}.isdisjoint(steps_of(LOG.read_text(), "ADD"))
    assert numbers(rig, 1) == had[1]
    if rig.exclusive:
        assert rig.call("ADD", pod, 1).code == 101
        assert numbers(rig, 1) == had[1]
    rig.add(pod, 1, rdmaIsolation=False)
    rig.delete(pod, 1, rdmaIsolation=False)
    assert rig.hca.bind(0) == "OK"
    assert wait(lambda: numbers(rig, 0) == had[0])
    rig.add(pod, 1, **asks(1))
    assert all_numbers(rig) == had
    rig.delete(pod, 1, **asks(1))
    rig.assert_as_before()


def test_del_while_a_lower_number_is_free(rig: Rig) -> None:
    """It cannot be refused, so it says what has changed."""
    had = all_numbers(rig)
    pod = rig.pod()
    rig.add(pod, 1, **asks(1))
    assert rig.hca.unbind(0) == "OK"
    done = rig.call("DEL", pod, 1, **asks(1))
    assert done.status == 0, done
    assert re.search(rf"level=warning .*had={had[1][0]}.* has={had[0][0]}", done.stderr.replace('"', "")), done.stderr
    assert numbers(rig, 1) == had[0]
    bind_in_order(rig)
    rig.assert_as_before()


def test_a_number_that_is_taken_during_the_rebind(rig: Rig) -> None:
    """Somebody who takes no lock binds another VF at the worst moment: the ADD fails and undoes itself."""
    had = all_numbers(rig)
    assert rig.hca.unbind(1) == "OK"
    pod = rig.pod()
    with stopped(rig, "ADD", pod, 0, "bind", **asks(0)) as held:
        assert rig.hca.bind(1) == "OK"
        assert numbers(rig, 1) == had[0]
    refused = end(held)
    assert refused.code == 101, refused
    assert had[0][0] in refused.out["msg"]
    rig.delete(pod, 0, **asks(0))
    bind_in_order(rig)
    rig.assert_as_before()


@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_a_number_that_a_killed_call_left_free(rig: Rig, command: str) -> None:
    """Its VF is bound first, in whatever order the next calls come."""
    had = all_numbers(rig)
    pods = [rig.pod() for _ in range(3)]
    if command == "DEL":
        rig.add(pods[2], 2, **asks(2))
    for vf in (1, 0):
        killed = rig.call("ADD", pods[vf], vf, trace="unbind.done=kill", **asks(vf))
        assert killed.status == -signal.SIGKILL
    done = rig.call(command, pods[2], 2, **asks(2))
    assert done.status == 0, done
    assert numbers(rig, 2) == had[2]
    for vf in (1, 0, 2):
        rig.delete(pods[vf], vf, **asks(vf))
    assert all_numbers(rig) == had
    rig.assert_as_before()


def test_a_number_that_the_del_of_a_killed_add_is_about_to_take(rig: Rig) -> None:
    """It has its VF's lock and waits for that of rebinds, which is left to it."""
    had = all_numbers(rig)
    pods = [rig.pod(), rig.pod()]
    assert rig.call("ADD", pods[0], 0, trace="unbind.done=kill", **asks(0)).status == -signal.SIGKILL
    with stopped(rig, "DEL", pods[0], 0, "lock_rebind", **asks(0)) as held:
        add = rig.start("ADD", pods[1], 1, **asks(1))
        assert waits_or_ends(add)
    for done in (end(held), end(add)):
        assert done.status == 0, done
    assert all_numbers(rig) == had
    rig.delete(pods[1], 1, **asks(1))
    rig.assert_as_before()


# ---- what the container was given


def write_allocation(uid: str, vfs: list[str], devices: list[str]) -> None:
    """The kubelet's checkpoint, as of Kubernetes 1.20 and later, with one container's allocation."""
    spec = b"".join(
        b"\x1a"
        + bytes([2 * len(path) + 7])
        + b"".join((b"\x0a", bytes([len(path)]), path, b"\x12", bytes([len(path)])))
        + path
        + b"\x1a\x01m"
        for path in [f"/dev/infiniband/{name}".encode() for name in ["rdma_cm", *devices]]
    )
    entry = {
        "PodUID": uid,
        "ContainerName": "main",
        "ResourceName": "example.com/ib",
        "DeviceIDs": {"-1": vfs},
        "AllocResp": base64.b64encode(spec).decode(),
    }
    CHECKPOINT.parent.mkdir(parents=True, exist_ok=True)
    CHECKPOINT.write_text(json.dumps({"Data": {"PodDeviceEntries": [entry], "RegisteredDevices": {}}, "Checksum": 1}))


def test_what_the_kubelet_gave_the_container(rig: Rig) -> None:
    """A VF whose numbers have changed since then is refused, at every try, with a rebind or without."""
    pod = rig.pod()
    env = {"CNI_ARGS": "IgnoreUnknown=1;K8S_POD_UID=u-1"}
    write_allocation("u-1", [rig.hca.pci(0)], numbers(rig, 1))
    for more in ({}, asks(0)):
        refused = end(rig.start("ADD", pod, 0, env=env, **more))
        assert refused.code == 101, refused
        for name in (numbers(rig, 0)[0], numbers(rig, 1)[0]):
            assert name in refused.out["msg"]
    write_allocation("u-1", [rig.hca.pci(0)], [])
    done = end(rig.start("ADD", pod, 0, env=env))
    assert done.status == 0, done  # the container was given no file at all
    rig.delete(pod)
    write_allocation("u-1", [rig.hca.pci(0)], numbers(rig, 0))
    done = end(rig.start("ADD", pod, 0, env=env, **asks(0)))
    assert done.status == 0, done
    rig.delete(pod, 0, **asks(0))
    rig.assert_as_before()


# ---- the lock


def test_it_is_held_only_while_the_devices_are_made_anew(rig: Rig) -> None:
    for step in ("reserve_addresses", "find_netdev" if rig.exclusive else "move_netdev", "verify_rdma"):
        pod = rig.pod()
        with stopped(rig, "ADD", pod, 0, step, **asks(0)) as held:
            assert not LOCK.exists() or not is_held(LOCK), step
        assert end(held).status == 0
        rig.delete(pod, 0, **asks(0))
    pod = rig.pod()
    with stopped(rig, "ADD", pod, 0, "move_rdma" if rig.exclusive else "await_devices", **asks(0)) as held:
        assert is_held(LOCK)
    assert end(held).status == 0
    with stopped(rig, "DEL", pod, 0, "restore_names", **asks(0)) as held:
        assert not is_held(LOCK)
    assert end(held).status == 0
    rig.assert_as_before()


def test_without_a_rebind_it_is_not_even_opened(rig: Rig) -> None:
    """Nor without a move of the RDMA device, which makes the numbers anew too."""
    LOCK.unlink(missing_ok=True)
    pod = rig.pod()
    rig.add(pod, rdmaIsolation=False)
    rig.delete(pod, rdmaIsolation=False)
    assert not LOCK.exists()
    rig.assert_as_before()


@EXCLUSIVE
@pytest.mark.parametrize("other", ["bind", "move_rdma"])
def test_a_move_beside_a_rebind_or_a_move(rig: Rig, other: str) -> None:
    """The kernel gives an RDMA device that moves its numbers anew."""
    had = all_numbers(rig)
    pods = [rig.pod(), rig.pod()]
    with stopped(rig, "ADD", pods[0], 0, other, **asks(0)) as held:
        moved = rig.start("ADD", pods[1], 1)
        assert waits_or_ends(moved)
    for done in (end(held), end(moved)):
        assert done.status == 0, done
    assert all_numbers(rig) == had
    at_once([partial(rig.delete, pods[0], 0, **asks(0)), partial(rig.delete, pods[1], 1)])
    assert all_numbers(rig) == had
    rig.assert_as_before()


def exchange_numbers(rig: Rig, low: int, high: int) -> None:
    """Give two VFs each other's numbers, as a namespace that ends at the wrong moment can do."""
    had = numbers(rig, low), numbers(rig, high)
    for vf in (low, high):
        assert rig.hca.unbind(vf) == "OK"
    for vf in (high, low):
        assert rig.hca.bind(vf) == "OK"
    assert rig.hca.settled()
    assert (numbers(rig, high), numbers(rig, low)) == had


@EXCLUSIVE
@pytest.mark.parametrize("del_is_running", [False, True])
@pytest.mark.parametrize(("dies", "gets"), [(0, 1), (1, 0)])
def test_numbers_that_a_dying_pod_has_taken(rig: Rig, dies: int, gets: int, del_is_running: bool) -> None:
    """Its RDMA device returns from its namespace without any lock. ADD gets the numbers back from its VF."""
    had = all_numbers(rig)
    dead, pod = rig.pod(), rig.pod()
    rig.add(dead, dies)
    with ExitStack() as stack:
        add = stack.enter_context(stopped(rig, "ADD", pod, gets, "move_rdma"))
        dead.delete()
        # the RDMA device is the last to return, and its character devices come after it
        assert wait(lambda: rig.hca.rdma(dies) and rig.hca.netdevs(dies) and numbers(rig, dies) == had[dies])
        exchange_numbers(rig, 0, 1)
        calls = [add]
        if del_is_running:
            calls.append(stack.enter_context(stopped(rig, "DEL", dead, dies, "return_devices")))
        add.send_signal(signal.SIGCONT)
        assert wait(lambda: add.poll() is not None or not rig.hca.driver(gets), 60)
    for done in map(end, calls):
        assert done.status == 0, done
    assert all_numbers(rig) == had
    rig.delete(dead, dies)
    rig.delete(pod, gets)
    assert all_numbers(rig) == had
    rig.assert_as_before()


def test_a_stopped_holder_is_named_before_anything_is_unbound(rig: Rig) -> None:
    had = all_numbers(rig)
    stuck, pod = rig.pod("stuck"), rig.pod()
    with stopped(rig, "ADD", stuck, 0, "bind", **asks(0)) as held:
        refused = rig.call("ADD", pod, 1, **asks(1, lockTimeout=0.2))
        assert refused.code == 11, refused
        holder = rf"after 0\.2 s by process {held.pid} \(container {stuck.container_id}, net1, for \d+ s\)"
        assert re.search(holder, refused.out["msg"]), refused.out
        assert rig.hca.driver(1)
        assert numbers(rig, 1) == had[1]
        rig.add(pod, 1, rdmaIsolation=False)  # nothing of it is made anew
        rig.delete(pod, 1, rdmaIsolation=False)
    assert end(held).status == 0
    rig.delete(stuck, 0, **asks(0))
    assert all_numbers(rig) == had
    rig.assert_as_before()


def test_a_killed_holder_keeps_nobody_waiting(rig: Rig) -> None:
    had = all_numbers(rig)
    dead, pod = rig.pod("dead"), rig.pod()
    killed = rig.call("ADD", dead, 0, trace="bind=kill", **asks(0))
    assert killed.status == -signal.SIGKILL
    rig.add(pod, 1, **asks(1, lockTimeout=0))
    rig.delete(dead, 0, **asks(0))
    rig.delete(pod, 1, **asks(1))
    assert all_numbers(rig) == had
    rig.assert_as_before()
