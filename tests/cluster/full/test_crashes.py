"""The agent, kubelet and containerd of a node are killed while its pods live, and RDMA traffic of those goes on."""

from __future__ import annotations

from tests.cluster.full import workload
from tests.cluster.full.cluster import FullCluster
from tests.cluster.full.traffic import Traffic
from tests.cluster.pods.test_outages import KILL
from tests.cluster.story import assert_no_trace

KILL_AGENT = "kill -KILL $(pgrep -f '^/opt/cni/bin/ib-sriov agent ')"


def test_the_agent_is_killed(cluster: FullCluster) -> None:
    before = cluster.snapshots()
    workload.create(cluster, replicas=2)
    traffic = Traffic(cluster, *workload.on_both_nodes(workload.running(cluster, 2)))
    facts = cluster.snapshots()
    had = {each.machine.name: cluster.restarts(each.machine.name) for each in cluster.nodes}
    for each in cluster.nodes:
        each.machine.run(KILL_AGENT)
    cluster.wait_for(
        "the agents are ready again",
        lambda: all(cluster.restarts(name) == count + 1 for name, count in had.items()),
    )
    assert cluster.snapshots() == facts
    traffic.assert_goes_on()
    workload.scale(cluster, 0)
    workload.running(cluster, 0)
    assert_no_trace(cluster, before)


def test_a_pod_is_replaced_while_kubelet_and_containerd_are_dead(cluster: FullCluster) -> None:
    before = cluster.snapshots()
    workload.create(cluster, replicas=4)
    pods = workload.running(cluster, 4)
    client, server = workload.on_both_nodes(pods)
    traffic = Traffic(cluster, client, server)
    (victim,) = [name for name, node in pods.items() if node == "node2" and name != server]
    host = cluster.nodes[1]
    host.machine.python(KILL)
    cluster.kubectl.run(["delete", "pod", victim, "--grace-period=1", "--wait=false"])
    cluster.start_programs(host)
    now = workload.running(cluster, 4)
    assert victim not in now
    assert {client, server} <= now.keys()
    workload.assert_own_devices(cluster, now)
    traffic.assert_goes_on()
    workload.scale(cluster, 0)
    workload.running(cluster, 0)
    assert_no_trace(cluster, before)
