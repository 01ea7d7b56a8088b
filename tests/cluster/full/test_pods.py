"""Pods of a scheduler and of a Deployment: whose devices they open, and which addresses they get."""

from __future__ import annotations

import ipaddress

from tests.cluster import story
from tests.cluster.full import workload
from tests.cluster.full.cluster import FullCluster
from tests.cluster.pods.test_devices import PROBE_MS
from tests.cluster.story import assert_no_trace


def test_the_quick_starts_pods(cluster: FullCluster) -> None:
    story.tell(cluster, lambda text: print(text, flush=True))


def test_a_deployment_scaled_up_and_down(cluster: FullCluster) -> None:
    """With rebinds of three seconds, as an mlx5 VF's probe takes."""
    before = cluster.snapshots()
    for each in cluster.nodes:
        each.knob("probe_delay_ms", PROBE_MS)
    workload.create(cluster, replicas=0)
    workload.scale(cluster, 4)
    pods = workload.running(cluster, 4)
    workload.assert_own_devices(cluster, pods)
    assert sorted(pods.values()).count("node1") == 2, pods
    workload.scale(cluster, 0)
    workload.running(cluster, 0)
    assert_no_trace(cluster, before)


def test_every_vf_in_use_and_no_address_twice(cluster: FullCluster) -> None:
    """All of them are given back and taken again once, by a restart of the Deployment."""
    before = cluster.snapshots()
    count = sum(len(each.vfs) for each in cluster.nodes)
    workload.create(cluster, replicas=count)
    first = workload.running(cluster, count)
    workload.assert_slices(cluster, first)
    workload.restart(cluster)
    second = workload.running(cluster, count)
    assert not first.keys() & second.keys()
    workload.assert_slices(cluster, second)
    workload.assert_own_devices(cluster, second)
    workload.scale(cluster, 0)
    workload.running(cluster, 0)
    assert_no_trace(cluster, before)


def test_a_pod_of_two_networks(cluster: FullCluster) -> None:
    before = cluster.snapshots()
    workload.define_second_network(cluster)
    workload.create(cluster, replicas=2, networks="fabric,storage", vfs=2)
    pods = workload.running(cluster, 2)
    workload.assert_own_devices(cluster, pods, netdevs=("net1", "net2"))
    for name in pods:
        for netdev, subnet in (("net1", "172.16.0.0/16"), ("net2", workload.STORAGE)):
            address = story.ipv4(cluster, name, netdev)
            assert ipaddress.ip_address(address) in ipaddress.ip_network(subnet)
    workload.scale(cluster, 0)
    workload.running(cluster, 0)
    assert_no_trace(cluster, before)
