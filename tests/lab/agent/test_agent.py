"""The node agent on real namespaces and an emulated HCA: what it heals, what it repairs, and what it leaves alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.cni import PROJECT
from tests.lab.commands import run, wait
from tests.lab.node_agent import LOG, LONG, Agents, add, add_all, delete, running_agents, settings
from tests.lab.rig import GATEWAY_ROUTE, IPV4, STATE, TRACE, Rig, answers, connected, end, leases, state_of


@pytest.fixture
def agents(rig: Rig) -> Iterator[Agents]:
    yield from running_agents()


def test_dead_pods_are_released_while_live_ones_keep_pinging(rig: Rig, agents: Agents) -> None:
    (one, result), (two, second), (gone, _), (gone_too, _) = add_all(rig, range(4))
    assert connected(one)
    assert connected(two)
    address = second["ips"][0]["address"].partition("/")[0]
    assert answers(one, address)
    patient = agents("--grace", "3600").ready()
    ping = subprocess.Popen(
        ["ip", "netns", "exec", one.name, "ping", "-i", "0.2", "-W", "10", address], stdout=subprocess.PIPE, text=True
    )
    try:
        gone.delete()
        gone_too.delete()
        patient.until(2, "ib_sriov_attachments", "ibnet", "dead")
        patient.passes()
        assert len(leases()) == 4  # the grace period is an hour
        assert patient.metric("ib_sriov_agent_releases_total", "ibnet") is None
        assert patient.stop() == 0
        agent = agents("--grace", "1").ready()
        agent.until(2, "ib_sriov_agent_releases_total", "ibnet")
        agent.until(0, "ib_sriov_attachments", "ibnet", "dead")
        agent.until(2, "ib_sriov_attachments", "ibnet", "live")
        agent.until(0, "ib_sriov_attachments_differing", "ibnet")
        assert len(leases()) == 2
        agent.passes()
    finally:
        ping.send_signal(signal.SIGINT)
        said, _ = ping.communicate(timeout=60)
    assert " 0% packet loss" in said, said
    for vf, pod, was in ((0, one, result), (1, two, second)):
        check = rig.check(pod, was, vf, **settings(vf))
        assert check.status == 0, check
    assert agent.stop() == 0
    delete(rig, {0: one, 1: two, 2: gone, 3: gone_too})
    rig.assert_as_before()


def test_it_is_killed_at_any_moment_and_the_next_one_finishes(rig: Rig, agents: Agents) -> None:
    """Between any two steps of a release, as its log names them."""
    pod, _ = add(rig, 0)
    pod.delete()
    agent = agents("--grace", "0").ready()
    agent.until(1, "ib_sriov_agent_releases_total", "ibnet")
    agent.stop()
    rig.assert_as_before()
    lines = [line for line in agent.said().splitlines() if " step=" in line]
    steps = list(dict.fromkeys(line.partition(" step=")[2].split()[0] for line in lines))
    print("steps of a release:", *steps)
    assert {"restore_config", "release_addresses", "forget", "release"} <= set(steps)
    for point in [f"{steps[0]}=kill", *(f"{step}.done=kill" for step in steps)]:
        pod, _ = add(rig, 0)
        pod.delete()
        killed = agents("--grace", "0", env={TRACE: point})
        assert killed.process.wait(timeout=LONG) == -signal.SIGKILL, f"{point}: {killed.said()}"
        agent = agents("--grace", "0").ready()
        try:
            assert wait(lambda: not leases() and not list(STATE.glob("**/*.json")), LONG), f"{point}: {agent.said()}"
            assert agent.stop() == 0
            rig.assert_as_before()
        except AssertionError as fault:
            raise AssertionError(f"after {point}: {fault}") from None


def test_a_changed_live_pod_is_repaired_or_reported(rig: Rig, agents: Agents) -> None:
    pod, result = add(rig, 0, mtu=2000)
    assert connected(pod)
    address = result["ips"][0]["address"]
    agent = agents("--grace", "0").ready()
    agent.passes()
    assert agent.metric("ib_sriov_attachments_differing", "ibnet") == 0
    run(["ip", "link", "set", "dev", "eth100", "vf", "0", "state", "auto"])
    pod.run(["ip", "addr", "del", address, "dev", "net1"])  # its routes go with it
    pod.run(["ip", "addr", "add", "10.77.0.1/24", "dev", "net1"])  # the pod's own, and none of our business
    pod.run(["ip", "link", "set", "dev", "net1", "mtu", "1500"])
    for kind in ("link-state", "address", "route"):
        agent.until(1, "ib_sriov_agent_repairs_total", kind)
    agent.until(1, "ib_sriov_attachments_differing", "ibnet")
    assert rig.hca.link_state(0) == "enable"
    assert pod.addresses() == sorted([address, "10.77.0.1/24"])
    assert {route["dst"] for route in pod.routes() if route["dev"] == "net1"} >= {"10.56.0.0/24", "10.99.0.0/16"}
    now = pod.link()
    assert now is not None
    assert now["mtu"] == 1500
    assert "has mtu 1500" in agent.said()
    pod.run(["ip", "link", "set", "dev", "net1", "mtu", "2000"])
    pod.run(["ip", "link", "set", "dev", "net1", "down"])
    agent.passes(8)
    now = pod.link()
    assert now is not None
    assert "UP" not in now["flags"]
    agent.until(1, "ib_sriov_attachments_differing", "ibnet")
    assert agent.metric("ib_sriov_agent_repair_failures_total", "19", "route") is None
    agent.stop()
    delete(rig, {0: pod})
    rig.assert_as_before()


def test_what_the_pod_undoes_again_and_again_is_left_at_last(rig: Rig, agents: Agents) -> None:
    pod, result = add(rig, 0)
    address = result["ips"][0]["address"]
    agent = agents().ready()
    for count in range(1, 4):
        pod.run(["ip", "addr", "del", address, "dev", "net1"])
        agent.until(count, "ib_sriov_agent_repairs_total", "address")
    pod.run(["ip", "addr", "del", address, "dev", "net1"])
    agent.until(1, "ib_sriov_attachments_differing", "ibnet")
    agent.passes(8)
    assert pod.addresses() == []
    assert "undoes this again and again" in agent.said()
    agent.stop()
    delete(rig, {0: pod})
    rig.assert_as_before()


@pytest.mark.parametrize("point", ["set_node_guid=stop", "verify_netdev=stop"])
def test_an_add_on_its_way_is_left_alone(rig: Rig, agents: Agents, point: str) -> None:
    pod = rig.pod()
    process = rig.start("ADD", pod, 0, trace=point, **settings(0))
    assert wait(lambda: state_of(process.pid) == "T", LONG)
    agent = agents("--grace", "0").ready()
    agent.until(1, "ib_sriov_attachments", "ibnet", "adding")
    agent.passes(3)
    assert len(leases()) == 1
    os.kill(process.pid, signal.SIGCONT)
    added = end(process)
    assert added.status == 0, added
    agent.until(1, "ib_sriov_attachments", "ibnet", "live")
    check = rig.check(pod, added.out, 0, **settings(0))
    assert check.status == 0, check
    agent.stop()
    delete(rig, {0: pod})
    rig.assert_as_before()


def test_an_add_that_died_is_released(rig: Rig, agents: Agents) -> None:
    """Its namespace lives, and nobody ever sends DEL."""
    pod = rig.pod()
    rig.call("ADD", pod, 0, trace="move_netdev.done=kill", **settings(0))
    agent = agents("--grace", "1").ready()
    agent.until(1, "ib_sriov_agent_releases_total", "ibnet")
    agent.stop()
    pod.delete()
    rig.assert_as_before()


def test_without_sight_of_the_namespaces_nothing_is_released(rig: Rig, agents: Agents) -> None:
    """A container without the host's /run/netns: every path is gone, and every pod lives."""
    pod, result = add(rig, 0)
    without_namespaces = ["unshare", "--mount", "sh", "-c", 'umount -l /run/netns/* /run/netns; exec "$@"', "sh"]
    agent = agents("--grace", "0", wrap=without_namespaces).ready()
    agent.until(1, "ib_sriov_attachments", "ibnet", "hidden")
    agent.passes(3)
    assert agent.metric("ib_sriov_vfs", rig.hca.pf, "in_use") == 1
    assert len(leases()) == 1
    agent.stop()
    check = rig.check(pod, result, 0, **settings(0))
    assert check.status == 0, check
    delete(rig, {0: pod})
    rig.assert_as_before()


def test_its_metrics_are_right(rig: Rig, agents: Agents) -> None:
    LOG.unlink(missing_ok=True)
    LOG.touch()
    agent = agents("--grace", "3600", "--log-file", str(LOG)).ready()
    pods = {vf: pod for vf, (pod, _) in enumerate(add_all(rig, range(3)))}
    refused = rig.call("ADD", rig.pod(), 0, **settings(0))
    assert refused.code == 101, refused
    rig.delete(pods.pop(2), 2, **settings(2))
    name = rig.hca.netdev(7)
    assert rig.hca.unbind(7) == "OK"
    pf = rig.hca.pf
    agent.until(1, "ib_sriov_vfs", pf, "unhealthy")
    found = agent.metrics()
    vfs = {name[2]: value for name, value in found.items() if name[0] == "ib_sriov_vfs"}
    assert vfs == {"free": 5, "in_use": 2, "unhealthy": 1, "busy": 0, "leftover": 0}
    assert found["ib_sriov_attachments", "ibnet", "live"] == 2
    assert found["ib_sriov_leases", "ibnet", "10.56.0.1-10.56.0.254", "used"] == len(leases()) == 2
    assert found["ib_sriov_leases", "ibnet", "10.56.0.1-10.56.0.254", "free"] == 251
    assert found["ib_sriov_call_duration_seconds_count", "ADD"] == 4
    assert found["ib_sriov_call_duration_seconds_count", "DEL"] == 1
    assert found["ib_sriov_call_failures_total", "101", "ADD"] == 1
    assert 0 < found["ib_sriov_call_duration_seconds_sum", "ADD"] < 400
    assert found["ib_sriov_log_readable",] == 1
    assert found["ib_sriov_pf_info", found_driver(rig), "eth100", pf, rig.hca.pf_rdma] == 1
    assert found["ib_sriov_port_state", pf, "pf", pf, rig.hca.pf_rdma] == 4
    listed = json.loads(run([sys.executable, "-m", "ib_sriov_cni", "list", "-o", "json"]).stdout)
    states = [vf["state"] for each in listed["pfs"] for vf in each["vfs"]]
    assert {state: states.count(state) for state in states} == {"free": 5, "in use": 2, "unbound": 1}
    assert [each["state"] for each in listed["attachments"]] == ["alive"] * 2
    ports = {name[1] for name in found if name[0] == "ib_sriov_port_state" and name[2] == "vf"}
    assert ports == {rig.hca.pci(vf) for vf in range(7)}  # those in pods too, with their RDMA devices isolated or not
    assert rig.hca.bind(7) == "OK"
    if rig.hca.netdev(7) != name:  # it took the name of one that is in a pod
        run(["ip", "link", "set", "dev", rig.hca.netdev(7), "name", name])
    passes = [found["ib_sriov_agent_pass_duration_seconds_" + part,] for part in ("sum", "count")]
    memory = found["process_resident_memory_bytes",]
    print(f"a pass: {passes[0] / passes[1] * 1000:.0f} ms, memory: {memory / 1e6:.0f} MB, {passes[1]:.0f} passes")
    agent.stop()
    delete(rig, pods)
    rig.assert_as_before()


def found_driver(rig: Rig) -> str:
    return os.path.basename(os.readlink(rig.hca.pf_path / "driver"))


def test_what_the_unit_grants_is_enough(rig: Rig, agents: Agents) -> None:
    """Release and repair with the capabilities of packaging/systemd, and no others."""
    unit = (PROJECT / "packaging/systemd/ib-sriov-agent.service").read_text()
    granted = unit.partition("\nCapabilityBoundingSet=")[2].partition("\n")[0].split()
    bounding = ",".join(["-all", *[f"+{name.removeprefix('CAP_').lower()}" for name in granted]])
    pod, result = add(rig, 0)
    gone, _ = add(rig, 1)
    gone.delete()
    pod.run(["ip", "addr", "del", result["ips"][0]["address"], "dev", "net1"])
    run(["ip", "link", "set", "dev", "eth100", "vf", "0", "state", "auto"])
    agent = agents("--grace", "1", wrap=["setpriv", "--no-new-privs", "--bounding-set", bounding]).ready()
    status = Path(f"/proc/{agent.process.pid}/status").read_text()
    assert int(status.partition("CapEff:")[2].split()[0], 16).bit_count() == len(granted)
    agent.until(1, "ib_sriov_agent_releases_total", "ibnet")
    for kind in ("link-state", "address", "route"):
        agent.until(1, "ib_sriov_agent_repairs_total", kind)
    assert [name for name in agent.metrics() if name[0] == "ib_sriov_agent_errors_total"] == [], agent.said()
    agent.stop()
    delete(rig, {0: pod, 1: gone})
    rig.assert_as_before()


def test_one_agent_on_a_node(rig: Rig, agents: Agents) -> None:
    first = agents().ready()
    second = agents()
    assert second.process.wait(timeout=LONG) == 4
    assert "another agent runs on this node" in second.said()
    assert first.stop() == 0


def test_default_routes_are_left_to_multus(rig: Rig, agents: Agents) -> None:
    """N1: it removes or replaces them after ADD, and tells nobody but its own cache."""
    ipam = {**IPV4, "routes": [{"dst": "0.0.0.0/0"}, GATEWAY_ROUTE]}
    pod, _ = add(rig, 0, ipam=ipam)
    pod.run("ip route del default && ip route add default via 10.56.0.99 dev net1")
    before = pod.routes()
    agent = agents("--grace", "0").ready()
    agent.passes(8)
    assert agent.metric("ib_sriov_attachments_differing", "ibnet") == 0
    assert agent.metric("ib_sriov_agent_repairs_total", "route") is None
    assert pod.routes() == before
    pod.run(["ip", "route", "del", GATEWAY_ROUTE["dst"]])  # any other route is put back
    agent.until(1, "ib_sriov_agent_repairs_total", "route")
    pod.run("ip route del default")
    agent.passes(8)
    assert agent.metric("ib_sriov_attachments_differing", "ibnet") == 0
    agent.stop()
    delete(rig, {0: pod})
    rig.assert_as_before()
