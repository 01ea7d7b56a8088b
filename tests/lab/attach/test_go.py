"""Attachments of the Go plugin, whose node was upgraded in place: its record written by hand (N6)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.lab import commands
from tests.lab.attach.test_main import netconf
from tests.lab.cni import Cni
from tests.lab.conftest import MakeHca, MakePod, TakeSnapshot
from tests.lab.emulated_hca import Hca
from tests.lab.pod import Pod

STATE = Path("/var/lib/cni/ib-sriov")
GUID = "00:11:22:33:44:99:00:01"


def attach_as_go_does(hca: Hca, pod: Pod, *, isolation: bool) -> Path:
    """Set the world up as the Go plugin leaves it: GUID, rebind, devices moved, record, lease."""
    had = {"HostIFNames": hca.netdevs(0)[0], "HostIFGUID": hca.port_guid(0)}
    rdma = hca.rdma(0)
    for kind in ("node_guid", "port_guid"):
        commands.run(f"ip link set {hca.pf_netdev} vf 0 {kind} {GUID}")
    commands.run(f"ip link set {hca.pf_netdev} vf 0 state enable")
    hca.rebind(0)
    assert hca.wait(lambda: hca.netdevs(0) and hca.rdma(0), 10)
    if isolation:
        hca.to_pod(0, pod.name)
    else:
        commands.run(f"ip link set {hca.netdevs(0)[0]} netns {pod.name} name net1")
    pod.run("ip addr add 10.56.0.9/24 dev net1; ip link set net1 up")
    record = STATE / f"{pod.container_id}-net1"
    record.parent.mkdir(parents=True, exist_ok=True)
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
        "rdmaIsolation": isolation,
        "RdmaNetState": {"SandboxRdmaDevName": rdma, "ContainerRdmaDevName": rdma} if isolation else {},
    }
    record.write_text(json.dumps(doc))
    leases = Path("/var/lib/cni/networks/ibnet")
    leases.mkdir(parents=True, exist_ok=True)
    (leases / "10.56.0.9").write_text(f"{pod.container_id}\r\nnet1")
    return record


@pytest.mark.parametrize("end", ["alive", "namespace gone"])
@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_n6_a_pod_of_the_go_plugin_is_released(
    make_hca: MakeHca, pods: MakePod, cni: Cni, host_snapshot: TakeSnapshot, mode: str, end: str
) -> None:
    hca = make_hca(mode=mode, preset=True)
    before = host_snapshot(hca)
    pod = pods("old")
    attach_as_go_does(hca, pod, isolation=mode == "exclusive")
    conf = netconf(hca, link_state="enable", rdmaIsolation=mode == "exclusive")
    if end == "namespace gone":
        pod.delete()
    run = cni("DEL", pod, conf, env={"CNI_NETNS": ""} if end == "namespace gone" else {})
    assert (run.status, run.stdout) == (0, ""), run.stdout + run.stderr
    pod.delete()
    before.assert_as_before()


def test_n6_a_record_that_cannot_be_understood_is_set_aside(
    make_hca: MakeHca, pods: MakePod, cni: Cni, host_snapshot: TakeSnapshot
) -> None:
    hca = make_hca(preset=True)
    before = host_snapshot(hca)
    pod = pods("old")
    record = STATE / f"{pod.container_id}-net1"
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text('{"deviceID": "0001:')
    run = cni("DEL", pod, netconf(hca))
    assert (run.status, run.stdout) == (0, ""), run.stdout + run.stderr
    assert not record.exists()
    record.with_name(record.name + ".damaged").unlink()
    before.assert_as_before()


def test_n6_a_late_del_for_a_vf_that_another_of_its_pods_has(
    make_hca: MakeHca, pods: MakePod, cni: Cni, host_snapshot: TakeSnapshot
) -> None:
    """The first pod's DEL never came, and the Go plugin gave the VF to the second one: that keeps it."""
    hca = make_hca(preset=True)
    before = host_snapshot(hca)
    first, second = pods("first"), pods("second")
    record = attach_as_go_does(hca, second, isolation=False)
    late = record.with_name(f"{first.container_id}-net1")
    late.write_text(record.read_text())
    commands.run(["touch", "-d", "2 seconds ago", str(late)])
    run = cni("DEL", first, netconf(hca, link_state="enable"), env={"CNI_NETNS": ""})
    assert run.status == 0, run.stdout + run.stderr
    assert not late.exists()
    assert record.exists()
    assert second.addresses() == ["10.56.0.9/24"]
    assert hca.guids_at_pf(0) == (GUID, GUID)
    assert hca.link_state(0) == "enable"
    run = cni("DEL", second, netconf(hca, link_state="enable"))
    assert run.status == 0, run.stdout + run.stderr
    before.assert_as_before()


def test_n6_a_record_of_an_earlier_boot_forces_nothing_on_todays_devices(
    make_hca: MakeHca, pods: MakePod, cni: Cni, host_snapshot: TakeSnapshot
) -> None:
    hca = make_hca(preset=True)
    pod = pods("old")
    record = attach_as_go_does(hca, pod, isolation=False)
    lease = Path("/var/lib/cni/networks/ibnet/10.56.0.9")
    commands.run(["touch", "-d", "2001-01-01", str(record)])
    before = host_snapshot(hca)
    run = cni("DEL", pod, netconf(hca))
    assert run.status == 0, run.stdout + run.stderr
    assert not lease.exists()
    assert not record.exists()
    assert pod.link() is not None
    now = host_snapshot(hca)
    assert {k: v for k, v in now.facts.items() if k.startswith(("VF", "netdev"))} == {
        k: v for k, v in before.facts.items() if k.startswith(("VF", "netdev"))
    }
