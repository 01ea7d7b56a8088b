"""Pods while the API server of their cluster is away for minutes."""

from __future__ import annotations

from tests.cluster.full import metrics, workload
from tests.cluster.full.cluster import FullCluster
from tests.cluster.full.traffic import Traffic
from tests.cluster.story import assert_no_trace

AWAY = 60  # seconds


def test_the_api_server_is_away_for_a_minute(cluster: FullCluster) -> None:
    before = cluster.snapshots()
    workload.create(cluster, replicas=2)
    pods = workload.running(cluster, 2)
    traffic = Traffic(cluster, *workload.on_both_nodes(pods))
    had = {each.machine.name: cluster.restarts(each.machine.name) for each in cluster.nodes}
    cluster.kubectl.kill("kube-apiserver")
    facts = cluster.snapshots()
    # the agents go on with their passes meanwhile
    for each in cluster.nodes:
        metrics.wait_for_passes(each, AWAY)
    assert cluster.snapshots() == facts
    cluster.kubectl.start_api_server()
    cluster.kubectl.wait_until_ready()
    cluster.wait_for("both nodes Ready", cluster.are_ready)
    traffic.assert_goes_on()
    assert workload.running(cluster, 2) == pods
    assert {each.machine.name: cluster.restarts(each.machine.name) for each in cluster.nodes} == had
    workload.scale(cluster, 0)
    workload.running(cluster, 0)
    assert_no_trace(cluster, before)
