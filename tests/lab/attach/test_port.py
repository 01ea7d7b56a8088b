"""The pod's port: it is up when ADD succeeds, or ADD says why not, and its next try goes on from there."""

from __future__ import annotations

from typing import Any

from tests.lab.commands import run, wait
from tests.lab.modes import SHARED
from tests.lab.rig import Rig, guid_of

IDENTITY: dict[str, Any] = {"guid": guid_of(1)}


def set_link_state(rig: Rig, state: str) -> None:
    run(f"ip link set {rig.hca.pf_netdev} vf 0 state {state}")


def assert_disabled_as_before(rig: Rig) -> None:
    """The link state that the test has set is restored, and all else is as when the HCA was loaded."""
    assert rig.hca.link_state(0) == "disable"
    set_link_state(rig, "auto")
    rig.assert_as_before()


@SHARED
def test_a_disabled_vf_is_enabled_for_the_attachment(rig: Rig) -> None:
    """Some HCAs start with all VFs disabled on the PF. Without link_state such a VF gets auto, and DEL restores it."""
    set_link_state(rig, "disable")
    pod = rig.pod()
    result = rig.add(pod, **IDENTITY)
    assert rig.hca.link_state(0) == "auto"
    assert rig.hca.port_state(0) == "ACTIVE"
    assert rig.check(pod, result, **IDENTITY).status == 0
    rig.delete(pod, **IDENTITY)
    assert_disabled_as_before(rig)


def test_a_slow_subnet_manager_is_waited_for(rig: Rig) -> None:
    rig.hca.knob("sm_delay_ms", 2000)
    pod = rig.pod()
    rig.add(pod, **IDENTITY)
    rig.delete(pod, **IDENTITY)
    rig.hca.knob("sm_delay_ms", 0)
    rig.assert_as_before()


def test_a_try_that_is_too_short_leaves_its_guid_for_the_next(rig: Rig) -> None:
    """The VF keeps GUID and link state, so that the subnet manager goes on; the next pod's DEL restores all of it."""
    rig.hca.knob("sm_delay_ms", 600_000)
    set_link_state(rig, "disable")
    first, second = rig.pod(), rig.pod()
    refused = rig.call("ADD", first, portTimeout=0.5, **IDENTITY)
    assert refused.code == 103, refused
    assert "port 1 is INIT after 0.5 s" in refused.out["msg"]
    assert "the PF's port is ACTIVE" in refused.out["msg"]
    assert f"the VF keeps GUID {guid_of(1)} for the next try" in refused.out["details"]
    assert first.link() is None
    rig.delete(first, **IDENTITY)
    rig.delete(first, **IDENTITY)
    assert (rig.hca.port_guid(0), rig.hca.link_state(0)) == (guid_of(1), "auto")
    rig.hca.knob("sm_delay_ms", 0)
    assert wait(lambda: rig.hca.port_state(0) == "ACTIVE")
    done = rig.call("ADD", second, **IDENTITY)
    assert done.status == 0, done
    assert "step=unbind" not in done.stderr
    rig.delete(first, **IDENTITY)  # comes late, and does nothing to the other attachment
    assert second.link() is not None
    assert rig.check(second, done.out, **IDENTITY).status == 0
    rig.delete(second, **IDENTITY)
    assert_disabled_as_before(rig)


def test_another_pod_does_not_inherit_the_guid(rig: Rig) -> None:
    """The next pod requests no GUID: it gets the one that the VF had before."""
    rig.hca.knob("sm_delay_ms", 600_000)
    own = rig.hca.port_guid(0)
    first, second = rig.pod(), rig.pod()
    assert rig.call("ADD", first, portTimeout=0.2, **IDENTITY).code == 103
    rig.delete(first, **IDENTITY)
    rig.hca.knob("sm_delay_ms", 0)
    rig.add(second)
    link = second.link()
    assert link is not None
    assert link["address"].endswith(own)
    rig.delete(second)
    rig.assert_as_before()


@SHARED
def test_gc_restores_what_a_failed_try_has_left(rig: Rig) -> None:
    rig.hca.knob("sm_delay_ms", 600_000)
    pod = rig.pod()
    assert rig.call("ADD", pod, portTimeout=0.2, **IDENTITY).code == 103
    assert rig.hca.port_guid(0) == guid_of(1)
    rig.hca.knob("sm_delay_ms", 0)
    nothing: dict[str, Any] = {"cni.dev/valid-attachments": []}
    assert rig.call("GC", pod, **nothing).status == 0
    rig.assert_as_before()


@SHARED
def test_a_subnet_manager_without_virtualization(rig: Rig) -> None:
    """The VF keeps the GUID that it has: nothing was set, so nothing is left."""
    rig.hca.knob("sm_ignores_vfs", 1)
    refused = rig.call("ADD", rig.pod(), portTimeout=0.2)
    assert refused.code == 103, refused
    assert "port 1 is DOWN after 0.2 s (LID 65535, " in refused.out["msg"]
    assert "the opensm of Linux distributions cannot do it for ConnectX-4 and later" in refused.out["details"]
    rig.hca.knob("sm_ignores_vfs", 0)
    assert wait(lambda: rig.hca.port_state(0) == "ACTIVE")
    rig.assert_as_before()


@SHARED
def test_an_mtu_that_the_broadcast_group_does_not_allow(rig: Rig) -> None:
    """Set before the group is joined it passes, and falls at the join; later it is never set. Both are right."""
    early, late = rig.pod(), rig.pod()
    rig.hca.knob("sm_down", 1)
    results = [rig.add(early, 0, mtu=4092)]
    rig.hca.knob("sm_down", 0)

    def mtu() -> int:
        link: Any = early.link()
        return int(link["mtu"])

    assert wait(lambda: mtu() == 2044)
    results.append(rig.add(late, 1, mtu=4092))
    for vf, pod in enumerate((early, late)):
        checked = rig.check(pod, results[vf], vf, mtu=4092)
        assert checked.status == 0, checked
        rig.delete(pod, vf, mtu=4092)
    rig.assert_as_before()


@SHARED
def test_an_ethernet_vf_is_refused_before_it_is_touched(rig: Rig) -> None:
    rig.hca.knob("ethernet", 1)
    rig.hca.rebind(0)
    assert wait(lambda: rig.hca.rdma(0) is not None)
    refused = rig.call("ADD", rig.pod(), **IDENTITY)
    assert refused.code == 101, refused
    assert refused.out["msg"] == (
        f"VF {rig.hca.pci(0)} is not an InfiniBand VF: the link layer of its port is Ethernet"
    )
    assert "step=write_record" not in refused.stderr
    rig.hca.knob("ethernet", 0)
    rig.hca.rebind(0)
    assert rig.hca.settled()
    rig.assert_as_before()
