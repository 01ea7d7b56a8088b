"""DEL whose PF cannot be set, or was set by somebody else: no pod stays for that, and no VF is lost."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.lab import commands
from tests.lab.cni import CniRun
from tests.lab.commands import run
from tests.lab.emulated_hca import NO_GUID
from tests.lab.modes import EXCLUSIVE, SHARED
from tests.lab.pod import Pod
from tests.lab.rig import Rig, guid_of, leases, rigs

ALL_ONES = ":".join(["ff"] * 8)


@pytest.fixture(scope="module", params=["shared", "exclusive"])
def loaded(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """VFs without GUIDs, as real ones are at first."""
    yield from rigs(request.param, preset=False)


def warned(done: CniRun, *words: str) -> None:
    """Assert that a DEL succeeded, with a warning that has these words."""
    assert (done.status, done.stdout) == (0, ""), done
    warnings = [line for line in done.stderr.splitlines() if "level=warning" in line]
    assert any(all(word in line for word in words) for line in warnings), done.stderr


def assert_left(rig: Rig, pod: Pod) -> None:
    """The pod has nothing any more, and the VF no driver with which the pod's GUID would come up."""
    assert [link["ifname"] for link in pod.links()] == ["lo"]
    assert leases() == []
    assert rig.hca.driver(0) is None


def test_a_pf_that_refuses_guids(rig: Rig) -> None:
    """The pod ends, the VF waits; then DEL, or the next pod's ADD, returns it."""
    pod, successor = rig.pod(), rig.pod()
    for ends in (partial(rig.delete, pod), partial(rig.add, successor, guid=guid_of(2))):
        rig.add(pod, guid=guid_of(1))
        rig.hca.knob("fail_set_guid", 1)
        gone = rig.call("DEL", pod)
        warned(gone, "the record stays", "Input/output error")
        assert_left(rig, pod)
        refused = rig.call("ADD", successor, guid=guid_of(2))
        assert refused.code == 102, refused
        assert "its settings could not be restored" in refused.out["msg"]
        rig.hca.restore_knobs()
        ends()
        assert rig.hca.driver(0) is not None
    rig.delete(successor)
    rig.delete(pod)
    rig.assert_as_before()


def test_a_pf_that_refuses_link_states(rig: Rig) -> None:
    pod = rig.pod()
    rig.add(pod, guid=guid_of(1), link_state="enable")
    rig.hca.knob("fail_set_state", 1)
    warned(rig.call("DEL", pod), "link state not restored")
    rig.hca.restore_knobs()
    run(f"ip link set {rig.hca.pf_netdev} vf 0 state auto")
    rig.assert_as_before()


def test_a_pf_that_refuses_zero(rig: Rig) -> None:
    """All ones take its place, and the next ADD takes them for what they are: no GUID."""
    rig.hca.knob("refuse_zero_guid", 1)
    for pod in (rig.pod(), rig.pod()):
        rig.add(pod)
        rig.delete(pod)
        assert rig.hca.guids_at_pf(0) == (ALL_ONES, ALL_ONES)
        assert rig.hca.port_guid(0) == ALL_ONES
    pod, successor = rig.pod(), rig.pod()
    killed = rig.call("ADD", pod, trace="configure=kill")
    assert killed.status == -signal.SIGKILL, killed
    rig.add(successor)
    rig.delete(successor)
    rig.delete(pod)
    rig.hca.restore_knobs()
    rig.hca.sets_guid(0, NO_GUID)
    rig.hca.rebind(0)
    rig.assert_as_before()


@SHARED
def test_guids_that_an_administrator_sets(rig: Rig) -> None:
    """Before the ADD: the pod gets them. After it: they stay."""
    pod = rig.pod()
    rig.hca.sets_guid(0, guid_of(7))
    rig.add(pod)
    link = pod.link()
    assert link is not None
    assert link["address"].endswith(guid_of(7))
    rig.delete(pod)
    assert (rig.hca.port_guid(0), rig.hca.guids_at_pf(0)) == (guid_of(7), (guid_of(7),) * 2)
    # Another one is requested while an administrator's waits.
    rig.hca.sets_guid(0, guid_of(8))
    rig.add(pod, guid=guid_of(1))
    rig.delete(pod)
    assert (rig.hca.port_guid(0), rig.hca.guids_at_pf(0)) == (guid_of(8), (guid_of(8),) * 2)
    rig.add(pod, guid=guid_of(1))
    rig.hca.sets_guid(0, guid_of(9))
    gone = rig.call("DEL", pod)
    warned(gone, "somebody has set since the ADD")
    assert (rig.hca.port_guid(0), rig.hca.guids_at_pf(0)) == (guid_of(9), (guid_of(9),) * 2)
    rig.hca.sets_guid(0, NO_GUID)
    rig.hca.rebind(0)
    rig.assert_as_before()


@pytest.fixture
def away(rig: Rig) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """Functions that move the PF's netdev into another namespace, and back."""
    name = rig.hca.pf_netdev
    elsewhere = rig.pod("elsewhere").name

    def go() -> None:
        run(["ip", "link", "set", "dev", name, "netns", elsewhere])

    def come() -> None:
        run(["ip", "-n", elsewhere, "link", "set", "dev", name, "netns", "1"])
        run(["ip", "link", "set", "dev", name, "up"])

    yield go, come
    if not commands.names(rig.hca.pf_path / "net"):
        come()


def test_a_pf_whose_netdev_was_moved_away(rig: Rig, away: tuple[Callable[[], None], Callable[[], None]]) -> None:
    go, come = away
    pod, successor = rig.pod(), rig.pod()
    for ends in (partial(rig.delete, pod), partial(rig.add, successor)):
        rig.add(pod, guid=guid_of(1))
        go()
        gone = rig.call("DEL", pod)
        warned(gone, f"its PF {rig.hca.pf} has no netdev here", "load ib_ipoib")
        assert_left(rig, pod)
        refused = rig.call("ADD", successor)
        assert refused.code == 101, refused
        assert f"its PF {rig.hca.pf} has no netdev here" in refused.out["msg"]
        come()
        ends()
    rig.delete(successor)
    rig.delete(pod)
    rig.assert_as_before()


@SHARED
def test_an_ipoib_that_was_unloaded(rig: Rig) -> None:
    """A pod can be deleted all the same, whether its VF has a GUID of its own or not; then everything works again."""
    own, kept, successor = rig.pod(), rig.pod(), rig.pod()
    rig.hca.sets_guid(1, guid_of(5))
    rig.hca.rebind(1)
    rig.add(own, guid=guid_of(1))
    rig.add(kept, 1)
    run(["rmmod", "ib_ipoib"])
    try:
        warned(rig.call("DEL", own), f"its PF {rig.hca.pf} has no netdev here")
        warned(rig.call("DEL", kept, 1), "the VF is on the host again, but not its devices")
        assert rig.call("ADD", successor).code == 101
    finally:
        run(["modprobe", "ib_ipoib"])
    assert commands.wait(lambda: len(rig.hca.netdevs(1)) == 1)
    for vf in (0, 1):
        rig.add(successor, vf, ifname=f"net{vf}")
        rig.delete(successor, vf, ifname=f"net{vf}")
    assert rig.hca.driver(0) is not None
    rig.load()


@EXCLUSIVE
def test_a_kernel_that_renames_no_rdma_device(rig: Rig) -> None:
    """Before Linux 4.20. A name is for people: ADD, DEL and healing do without the old one."""
    rig.hca.knob("renumber", 1)
    rig.hca.knob("refuse_rdma_rename", errno.EINVAL)
    pod, successor = rig.pod(), rig.pod()
    added = rig.call("ADD", pod, guid=guid_of(1))
    assert added.status == 0, added
    assert "name not restored: rename to" in added.stderr
    warned(rig.call("DEL", pod), "name not restored: rename to")
    killed = rig.call("ADD", pod, trace="configure=kill", guid=guid_of(1))
    assert killed.status == -signal.SIGKILL, killed
    rig.add(successor, guid=guid_of(2))
    rig.delete(successor)
    rig.delete(pod)
    rig.load()


def test_a_name_that_somebody_takes_back(rig: Rig) -> None:
    """The netdev is up again (NetworkManager) or called differently (udev) when it is to be renamed."""
    pod = rig.pod()
    rig.add(pod, guid=guid_of(1))
    process = rig.start("DEL", pod, trace="restore_names=stop")
    commands.wait(lambda: commands.read(f"/proc/{process.pid}/stat").rpartition(")")[2].split()[0] == "T")
    name = rig.hca.netdev(0)
    run(["ip", "link", "set", "dev", name, "down"])
    run(["ip", "link", "set", "dev", name, "name", "theirs"])
    run(["ip", "link", "set", "dev", "theirs", "up"])
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    rig.assert_as_before()
