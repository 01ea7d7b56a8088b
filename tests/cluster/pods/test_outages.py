"""Pods while parts of their cluster are dead."""

from __future__ import annotations

import json

from tests.cluster.kubernetes_cluster import Cluster
from tests.cluster.pods.test_devices import pod
from tests.cluster.story import assert_no_trace, ipv4
from tests.lab.commands import received, wait

KILL = "from tests.cluster.guest import node\nnode.kill('kubelet', 'containerd')"


def start_pods(cluster: Cluster) -> None:
    """A pod on each node."""
    pods = [pod(f"pod-{number}", each.machine.name) for number, each in enumerate(cluster.nodes, 1)]
    cluster.kubectl.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": pods}))
    cluster.wait_for("pods Running", lambda: cluster.are_running("pod-1", "pod-2"))


def reaches(cluster: Cluster, address: str) -> bool:
    done = cluster.kubectl.run(["exec", "pod-1", "--", "ping", "-c", "1", "-W", "5", address], check=False)
    return received(done.stdout) == 1


def test_a_pod_is_deleted_while_kubelet_and_containerd_are_dead(cluster: Cluster) -> None:
    before = cluster.snapshots()
    start_pods(cluster)
    host = cluster.nodes[1]
    host.machine.python(KILL)
    cluster.kubectl.run(["delete", "pod", "pod-2", "--grace-period=1", "--wait=false"])
    cluster.start_programs(host)
    cluster.wait_for("pod-2 is gone", lambda: cluster.kubectl.run(["get", "pod", "pod-2"], check=False).returncode != 0)
    cluster.delete("pod-1")
    assert_no_trace(cluster, before)


def test_pods_outlive_the_api_server(cluster: Cluster) -> None:
    before = cluster.snapshots()
    start_pods(cluster)
    address = ipv4(cluster, "pod-2", "net1")
    assert wait(lambda: reaches(cluster, address), 60, 1)
    cluster.kubectl.kill("kube-apiserver")
    # neither node may take the missing answers for the end of its pods
    facts = cluster.snapshots()
    cluster.kubectl.start_api_server()
    cluster.kubectl.wait_until_ready()
    assert cluster.snapshots() == facts
    cluster.wait_for("both nodes Ready", cluster.are_ready)
    assert wait(lambda: reaches(cluster, address), 60, 1)
    cluster.delete("pod-1", "pod-2")
    assert_no_trace(cluster, before)
