"""Two at once, and a world that changes in the middle of a call: one of them wins whole, and nothing stays.

A call is held at a step (trace point `stop`) while the other thing happens, so that each race is lost on purpose.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.lab.cni import CniRun
from tests.lab.commands import links, run, wait
from tests.lab.modes import SHARED
from tests.lab.pod import Pod
from tests.lab.rig import LEASES, STATE, Rig, at_once, end, guid_of, leases

IDENTITY: dict[str, Any] = {"guid": guid_of(1), "link_state": "enable"}
NOTHING_VALID: dict[str, Any] = {"cni.dev/valid-attachments": []}
# One before the record, one with it, one between unbind and bind, one in the pod.
MOMENTS = ("read_facts", "claim", "bind", "configure")


class Held:
    """A call that stands still at a step."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> CniRun:
        self.process.send_signal(signal.SIGCONT)
        return end(self.process)


@contextmanager
def held(rig: Rig, command: str, pod: Pod, vf: int, *, at: str, **more: Any) -> Iterator[Held]:
    call = Held(rig.start(command, pod, vf, trace=f"{at}=stop", **more))
    try:
        yield call
    finally:
        call.process.kill()
        call.process.communicate()


def waits(process: subprocess.Popen[str]) -> bool:
    """Whether it has come so far that it waits for the VF's lock: it has the file open and does not hold it."""
    opened = [os.readlink(path) for path in Path(f"/proc/{process.pid}/fd").iterdir() if path.is_symlink()]
    return any(name.endswith(".lock") for name in opened)


def starts_waiting(process: subprocess.Popen[str]) -> bool:
    def look() -> bool:
        assert process.poll() is None, f"it did not wait: {process.communicate()}"
        try:
            return waits(process)
        except FileNotFoundError:  # a file it has just closed
            return False

    return wait(look, 60)


# ---- calls for one attachment


def test_two_adds_of_one_attachment(rig: Rig) -> None:
    """A runtime that repeats itself: one of them attaches, the other is refused and harms nothing."""
    pod = rig.pod()
    runs = at_once([partial(rig.call, "ADD", pod, **IDENTITY)] * 2)
    (winner,) = [found for found in runs if found.status == 0]
    (loser,) = [found for found in runs if found.status]
    assert loser.code in (4, 101), loser
    check = rig.check(pod, winner.out, **IDENTITY)
    assert check.status == 0, check.stdout
    rig.delete(pod, **IDENTITY)
    rig.assert_as_before()


@pytest.mark.parametrize("at", ["write_record", "claim", "reserve_addresses", "bind"])
def test_two_adds_of_one_attachment_with_two_vfs(rig: Rig, at: str) -> None:
    """The device plugin's answer changed between two tries: the second one's VF, or a refusal, never half of both."""
    pod = rig.pod()
    with held(rig, "ADD", pod, 0, at=at, **IDENTITY) as first:
        second = rig.call("ADD", pod, 1, guid=guid_of(2), lockTimeout=0.5)
        found = first.go_on()
    assert (found.status == 0) + (second.status == 0) == 1, (found, second)
    vf, result, conf = (0, found.out, IDENTITY) if found.status == 0 else (1, second.out, {"guid": guid_of(2)})
    check = rig.check(pod, result, vf, **conf)
    assert check.status == 0, check.stdout
    assert len(leases()) == 1
    rig.delete(pod, vf, **conf)
    rig.assert_as_before()


def test_two_dels_of_one_attachment(rig: Rig) -> None:
    pods = [rig.pod() for _ in range(3)]
    at_once(partial(rig.add, pod, vf, guid=guid_of(vf)) for vf, pod in enumerate(pods))
    pods[2].delete()
    at_once(partial(rig.delete, pod, vf, guid=guid_of(vf)) for vf, pod in enumerate(pods) for _ in range(2))
    rig.assert_as_before()


@pytest.mark.parametrize("at", MOMENTS)
def test_del_of_an_add_that_is_on_its_way(rig: Rig, at: str) -> None:
    """The runtime has given the ADD up and its process lives on: after both there is nothing."""
    pod = rig.pod()
    with held(rig, "ADD", pod, 0, at=at, **IDENTITY) as add:
        delete = rig.start("DEL", pod, 0, **IDENTITY)
        assert starts_waiting(delete)
        add.go_on()
    gone = end(delete)
    assert (gone.status, gone.stdout) == (0, ""), gone
    rig.assert_as_before()
    assert [link["ifname"] for link in pod.links()] == ["lo"]


@SHARED
def test_del_does_not_wait_for_another_attachments_add(rig: Rig) -> None:
    """A DEL of what never was, beside an ADD that got stuck on the same VF: nothing to release, so no wait."""
    stuck, never = rig.pod("stuck"), rig.pod("never")
    with held(rig, "ADD", stuck, 0, at="bind", **IDENTITY) as add:
        rig.delete(never, 0, lockTimeout=600)
        assert add.go_on().status == 0
    rig.delete(stuck, **IDENTITY)
    rig.assert_as_before()


# ---- calls for one VF


def test_del_beside_the_next_pods_add(rig: Rig) -> None:
    """Each of eight VFs goes from one pod to the next: the ADD has it or is refused; a second try then has it."""
    seed = int(os.environ.get("LAB_SEED", random.randrange(10**6)))
    print(f"seed {seed} (LAB_SEED)")
    first, successors = [rig.pod("first") for _ in range(8)], [rig.pod("successor") for _ in range(8)]
    at_once(partial(rig.add, pod, vf, guid=guid_of(vf)) for vf, pod in enumerate(first))
    calls = [partial(rig.call, "DEL", pod, vf, guid=guid_of(vf)) for vf, pod in enumerate(first)]
    calls += [partial(rig.call, "ADD", pod, vf, guid=guid_of(0x40 + vf)) for vf, pod in enumerate(successors)]
    order = list(range(len(calls)))
    random.Random(seed).shuffle(order)
    found = dict(zip(order, at_once([calls[number] for number in order]), strict=True))
    for vf, pod in enumerate(successors):
        assert found[vf].status == 0, found[vf]
        add = found[8 + vf]
        if add.status:
            assert add.code == 101, add
            assert pod.link() is None
            add = rig.call("ADD", pod, vf, guid=guid_of(0x40 + vf))
        assert add.status == 0, add
        check = rig.check(pod, add.out, vf, guid=guid_of(0x40 + vf))
        assert check.status == 0, check.stdout
    assert len(leases()) == 8
    at_once(partial(rig.delete, pod, vf, guid=guid_of(0x40 + vf)) for vf, pod in enumerate(successors))
    rig.assert_as_before()


def test_a_dead_holders_lock_is_free_at_once(rig: Rig) -> None:
    """And what it left half-done is healed by who comes next."""
    dead, successor = rig.pod("dead"), rig.pod("successor")
    with held(rig, "ADD", dead, 0, at="await_devices", **IDENTITY) as add:
        add.process.kill()
        add.process.wait()
        result = rig.add(successor, 0, guid=guid_of(2), lockTimeout=0)
    assert rig.check(successor, result, guid=guid_of(2)).status == 0
    rig.delete(dead, **IDENTITY)
    rig.delete(successor, guid=guid_of(2))
    rig.assert_as_before()


def test_a_stopped_add_is_named_and_holds_nobody_else_up(rig: Rig) -> None:
    """At each moment: code 11 with pid, container and age for its own VF alone; the others are attached meanwhile.

    The one between unbind and bind also has the lock of rebinds, so nothing of the others is made anew.
    """
    stuck = [rig.pod("stuck") for _ in MOMENTS]
    successors = [rig.pod("successor") for _ in MOMENTS]
    others = [rig.pod("other") for _ in range(3)]
    calls = {
        vf: Held(rig.start("ADD", stuck[vf], vf, trace=f"{MOMENTS[vf]}=stop", guid=guid_of(vf)))
        for vf in sorted(range(len(stuck)), key=lambda vf: MOMENTS[vf] == "bind")
    }
    processes = [calls[vf].process for vf in range(len(stuck))]
    try:
        at_once(partial(rig.add, pod, 4 + n, rdmaIsolation=False) for n, pod in enumerate(others))
        refused = at_once(partial(rig.call, "ADD", pod, vf, lockTimeout=0.2) for vf, pod in enumerate(successors))
        at_once(partial(rig.delete, pod, 4 + n) for n, pod in enumerate(others))
        for found, process, pod in zip(refused, processes, stuck, strict=True):
            assert found.code == 11, found
            holder = rf"after 0\.2 s by process {process.pid} \(container {pod.container_id}, net1, for \d+ s\)"
            assert re.search(holder, found.out["msg"]), found.out
    finally:
        done = [call.go_on() for call in reversed(calls.values())]  # first the one that has the lock of rebinds
    assert [found.status for found in done] == [0] * len(done), done
    at_once(partial(rig.delete, pod, vf) for vf, pod in enumerate(stuck))
    rig.assert_as_before()


@pytest.mark.parametrize("command", ["DEL", "GC"])
def test_a_stopped_release_holds_nobody_else_up(rig: Rig, command: str) -> None:
    pod, other = rig.pod("stuck"), rig.pod("other")
    more = {**IDENTITY, **({} if command == "DEL" else NOTHING_VALID), "name": "othernet"}
    rig.add(pod, 0, **more)
    pod.delete()
    with held(rig, command, pod, 0, at="return_devices", **more) as stuck:
        rig.add(other, 1)
        rig.delete(other, 1)
        assert stuck.go_on().status == 0
    rig.assert_as_before()


# ---- GC beside others


@SHARED
def test_gc_keeps_the_lease_of_an_add_that_came_after_its_list(rig: Rig) -> None:
    """C17: GC has read who there is, then a pod is attached; its address must not be given to another one."""
    collector, pod, later = rig.pod("collector"), rig.pod("pod"), rig.pod("later")
    with held(rig, "GC", collector, 0, at="collect_addresses", **NOTHING_VALID) as gc:
        result = rig.add(pod, 0)
        assert gc.go_on().status == 0
    assert leases() == [result["ips"][0]["address"].partition("/")[0]]
    check = rig.check(pod, result)
    assert check.status == 0, check.stdout
    rig.add(later, 1)
    assert pod.addresses() != later.addresses()
    rig.delete(pod)
    rig.delete(later, 1)
    rig.assert_as_before()


@pytest.mark.parametrize("at", MOMENTS)
def test_gc_leaves_an_add_on_its_way_alone(rig: Rig, at: str) -> None:
    pod, collector = rig.pod("pod"), rig.pod("collector")
    with held(rig, "ADD", pod, 0, at=at, **IDENTITY) as add:
        gc = rig.start("GC", collector, 0, **NOTHING_VALID)
        if at != "read_facts":  # without a record GC has no reason to wait
            assert starts_waiting(gc)
        else:
            assert end(gc).status == 0
        found = add.go_on()
    assert found.status == 0, found
    if at != "read_facts":
        assert end(gc).status == 0
    check = rig.check(pod, found.out, **IDENTITY)
    assert check.status == 0, check.stdout
    rig.delete(pod, **IDENTITY)
    rig.assert_as_before()


# ---- a world that changes


@pytest.mark.parametrize("at", [*MOMENTS, "verify_rdma", "commit"])
def test_the_namespace_is_deleted_in_the_middle_of_add(rig: Rig, at: str) -> None:
    """It lives until the ADD closes it; an ADD without a pod fails, and leaves nothing for a DEL to release."""
    pod = rig.pod()
    with held(rig, "ADD", pod, 0, at=at, **IDENTITY) as add:
        pod.delete()
        found = add.go_on()
    assert found.code == 3, found
    rig.assert_as_before()
    rig.delete(pod, **IDENTITY)
    rig.assert_as_before()


@pytest.mark.parametrize("at", ["claim", "unbind", "move_netdev", "commit"])
def test_the_pf_is_renamed_in_the_middle_of_add_and_of_del(rig: Rig, at: str) -> None:
    """Neither ADD nor DEL depends on the PF's name."""
    hca, pod = rig.hca, rig.pod()
    try:
        with held(rig, "ADD", pod, 0, at=at, **IDENTITY) as add:
            hca.rename_pf("renamed0")
            found = add.go_on()
        assert found.status == 0, found
        assert rig.check(pod, found.out, **IDENTITY).status == 0
        with held(rig, "DEL", pod, 0, at="restore_config", **IDENTITY) as delete:
            hca.rename_pf("eth100")
            assert delete.go_on().status == 0
    finally:
        hca.rename_pf("eth100")
    rig.assert_as_before()


@pytest.mark.parametrize("at", ["unbind", "move_netdev", "move_rdma"])
def test_the_vf_is_renamed_in_the_middle_of_add(rig: Rig, at: str) -> None:
    """As udev does, whenever it likes: netdev and RDMA device."""
    hca, pod = rig.hca, rig.pod()
    if at == "move_rdma" and not rig.exclusive:
        at = "move_netdev"
    with held(rig, "ADD", pod, 0, at=at, **IDENTITY) as add:
        run(["ip", "link", "set", hca.netdev(0), "name", "udevname0"])
        if hca.rdma(0):
            run(["rdma", "dev", "set", str(hca.rdma(0)), "name", "udevrdma0"])
        found = add.go_on()
    assert found.status == 0, found
    assert rig.check(pod, found.out, **IDENTITY).status == 0
    rig.delete(pod, **IDENTITY)
    rig.assert_as_before()


@pytest.mark.parametrize(("at", "code"), [("move_netdev", 102), ("configure", 102), ("verify_rdma", 103)])
def test_the_vf_is_unbound_in_the_middle_of_add(rig: Rig, at: str, code: int) -> None:
    """By somebody who administers the host: the ADD fails, and the VF has its driver again."""
    pod = rig.pod()
    with held(rig, "ADD", pod, 0, at=at, **IDENTITY) as add:
        assert rig.hca.unbind(0) == "OK"
        found = add.go_on()
    assert (found.status, found.code) == (1, code), found
    rig.assert_as_before()


@SHARED
def test_an_interface_of_the_pod_with_the_vfs_index_is_not_touched(rig: Rig) -> None:
    """Interface numbers are each namespace's own; the VF's netdev is taken away in the middle of the ADD."""
    pod, thief = rig.pod(), rig.pod("thief")
    with held(rig, "ADD", pod, 0, at="move_netdev") as add:
        name = rig.hca.netdev(0)
        index = next(link["ifindex"] for link in links() if link["ifname"] == name)
        pod.run(f"ip link add eth0 index {index} type dummy && ip link set eth0 up")
        run(["ip", "link", "set", name, "netns", thief.name])
        found = add.go_on()
    assert found.status == 1, found
    eth0 = pod.link("eth0")
    assert eth0 is not None, pod.links()
    assert "UP" in eth0["flags"]
    assert pod.link("net1") is None
    rig.assert_as_before()


def test_the_vfs_are_removed_and_made_again_under_a_live_pod(rig: Rig) -> None:
    """sriov_numvfs to 0 and back: the late DELs and the next ADDs work, and no lease is left."""
    hca = rig.hca
    pods = [rig.pod() for _ in range(3)]
    successor = rig.pod("successor")
    results = [rig.add(pod, vf, guid=guid_of(vf), link_state="enable") for vf, pod in enumerate(pods)]
    assert hca.set_numvfs(0) == "OK"
    devices = [result["interfaces"][0]["pciID"] for result in results]
    gone = rig.cni("DEL", pods[0], rig.conf(None, deviceID=devices[0]))  # while there is none
    assert (gone.status, gone.stdout) == (0, ""), gone
    refused = rig.cni("ADD", successor, rig.conf(None, deviceID=devices[1]))
    assert refused.code == 101, refused
    assert hca.set_numvfs(rig.vfs) == "OK"
    assert hca.settled()
    rig.delete(pods[1], 1)
    result = rig.add(successor, 2, guid=guid_of(0x42))  # over the third pod's dead attachment
    assert rig.check(successor, result, 2, guid=guid_of(0x42)).status == 0
    rig.delete(pods[2], 2)
    assert rig.check(successor, result, 2, guid=guid_of(0x42)).status == 0
    rig.delete(successor, 2)
    assert leases() == []
    assert not (STATE / "attachments").exists()
    assert not (STATE / "devices").exists()
    # of the first one, whose DEL came while there was no VF to set anything of, only the host knows
    assert [hca.link_state(vf) for vf in range(1, rig.vfs)] == ["auto"] * (rig.vfs - 1)
    assert [hca.netdevs(vf) and hca.rdma(vf) is not None for vf in range(rig.vfs)] == [True] * rig.vfs
    assert LEASES.is_dir()


@SHARED
def test_children_that_a_pod_makes_itself(rig: Rig) -> None:
    """IPoIB children of net1, one of them with the VF's name on the host: DEL leaves none of them."""
    pod = rig.pod()
    old_name = rig.hca.netdev(0)
    rig.add(pod, 0)
    pod.run(f"ip link add link net1 name {old_name} type ipoib pkey 0x8001 && ip link set {old_name} up")
    pod.run("ip link add link net1 name net1.8002 type ipoib pkey 0x8002")
    rig.delete(pod, 0)
    assert [link["ifname"] for link in pod.links()] == ["lo"]
    rig.assert_as_before()
