"""A node that is drained, and given pods again."""

from __future__ import annotations

from tests.cluster.full import workload
from tests.cluster.full.cluster import FullCluster
from tests.cluster.story import assert_no_trace
from tests.lab.commands import wait


def test_a_node_is_drained(cluster: FullCluster) -> None:
    before = cluster.snapshots()
    workload.create(cluster, replicas=4)
    workload.running(cluster, 4)
    cluster.kubectl.run(["drain", "node1", "--ignore-daemonsets", "--timeout=200s"], timeout=240)
    pods = workload.running(cluster, 4)
    assert set(pods.values()) == {"node2"}
    workload.assert_own_devices(cluster, pods)
    assert wait(lambda: not [line for line in cluster.changes(before) if line.startswith("node1")], 60, 1)
    # the DaemonSet stays
    assert cluster.restarts("node1") >= 0
    cluster.kubectl.run(["uncordon", "node1"])
    workload.restart(cluster)
    assert set(workload.running(cluster, 4).values()) == {"node1", "node2"}
    workload.scale(cluster, 0)
    workload.running(cluster, 0)
    assert_no_trace(cluster, before)
