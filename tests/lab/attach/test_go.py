"""Attachments of the Go plugin on a node that was upgraded in place: its record is written by hand (N6)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.lab.commands import run
from tests.lab.modes import SHARED
from tests.lab.pod import Pod
from tests.lab.rig import LEASES, STATE, Rig
from tests.lab.snapshot import host_snapshot

GUID = "00:11:22:33:44:99:00:01"
UNTOLD = {"CNI_NETNS": ""}  # the runtime no longer knows the namespace


def record_of(pod: Pod) -> Path:
    """Where the Go plugin keeps an attachment's record."""
    STATE.mkdir(parents=True, exist_ok=True)
    return STATE / f"{pod.container_id}-net1"


def attach_as_go_does(rig: Rig, pod: Pod) -> Path:
    """Leave VF 0 as the Go plugin leaves it: GUID, rebind, devices moved, record, lease."""
    hca = rig.hca
    had = {"HostIFNames": hca.netdevs(0)[0], "HostIFGUID": hca.port_guid(0)}
    rdma = hca.rdma(0)
    hca.sets_guid(0, GUID)
    run(f"ip link set {hca.pf_netdev} vf 0 state enable")
    hca.rebind(0)
    assert hca.wait(lambda: hca.netdevs(0) and hca.rdma(0), 10)
    if rig.exclusive:
        hca.to_pod(0, pod.name)
    else:
        run(f"ip link set {hca.netdevs(0)[0]} netns {pod.name} name net1")
    pod.run("ip addr add 10.56.0.9/24 dev net1; ip link set net1 up")
    record = record_of(pod)
    doc = {
        "cniVersion": "0.3.1",
        "name": "ibnet",
        "type": "ib-sriov",
        "Master": hca.pf_netdev,
        "deviceID": hca.pci(0),
        "VFID": 0,
        **had,
        "ContIFNames": "net1",
        "link_state": "enable",
        "rdmaIsolation": rig.exclusive,
        "RdmaNetState": {"SandboxRdmaDevName": rdma, "ContainerRdmaDevName": rdma} if rig.exclusive else {},
    }
    record.write_text(json.dumps(doc))
    LEASES.mkdir(parents=True, exist_ok=True)
    (LEASES / "10.56.0.9").write_text(f"{pod.container_id}\r\nnet1")
    return record


def release(rig: Rig, pod: Pod, *, env: Mapping[str, str] | None = None, **more: Any) -> None:
    """DEL that has to succeed."""
    gone = rig.cni("DEL", pod, rig.conf(**more), env=env)
    assert (gone.status, gone.stdout) == (0, ""), gone


@pytest.mark.parametrize("end", ["alive", "namespace gone"])
def test_n6_a_pod_of_the_go_plugin_is_released(rig: Rig, end: str) -> None:
    pod = rig.pod("old")
    attach_as_go_does(rig, pod)
    if end == "namespace gone":
        pod.delete()
    release(rig, pod, env=UNTOLD if end == "namespace gone" else None, link_state="enable")
    pod.delete()
    rig.assert_as_before()


@SHARED
def test_n6_a_record_that_cannot_be_understood_is_set_aside(rig: Rig) -> None:
    pod = rig.pod("old")
    record = record_of(pod)
    record.write_text('{"deviceID": "0001:')
    release(rig, pod)
    assert not record.exists()
    record.with_name(record.name + ".damaged").unlink()
    rig.assert_as_before()


@SHARED
def test_n6_a_late_del_for_a_vf_that_another_of_its_pods_has(rig: Rig) -> None:
    """The first pod's DEL never came, and the Go plugin gave the VF to the second one, which keeps it."""
    hca, first, second = rig.hca, rig.pod("first"), rig.pod("second")
    record = attach_as_go_does(rig, second)
    late = record_of(first)
    late.write_text(record.read_text())
    run(["touch", "-d", "2 seconds ago", str(late)])
    release(rig, first, env=UNTOLD, link_state="enable")
    assert not late.exists()
    assert record.exists()
    assert second.addresses() == ["10.56.0.9/24"]
    assert hca.guids_at_pf(0) == (GUID, GUID)
    assert hca.link_state(0) == "enable"
    release(rig, second, link_state="enable")
    rig.assert_as_before()


@SHARED
def test_n6_a_record_of_an_earlier_boot_forces_nothing_on_todays_devices(rig: Rig) -> None:
    pod = rig.pod("old")
    record = attach_as_go_does(rig, pod)
    run(["touch", "-d", "2001-01-01", str(record)])
    before = host_snapshot(rig.hca)
    release(rig, pod)
    assert not (LEASES / "10.56.0.9").exists()
    assert not record.exists()
    assert pod.link() is not None
    now = host_snapshot(rig.hca)
    assert {k: v for k, v in now.facts.items() if k.startswith(("VF", "netdev"))} == {
        k: v for k, v in before.facts.items() if k.startswith(("VF", "netdev"))
    }
