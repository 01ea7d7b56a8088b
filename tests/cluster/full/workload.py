"""A Deployment whose pods have VFs, and what is to be said of such pods."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from typing import Any

from tests.cluster.full.cluster import FullCluster
from tests.cluster.pods.test_devices import GID, shell
from tests.cluster.story import ipv4

NAME = "hello"
LABELS = {"app": NAME}
STORAGE = "172.20.0.0/16"
# The GIDs of all RDMA devices that the pod may open, by what their uverbs devices are called.
GIDS = """
for node in /dev/infiniband/uverbs*; do
    ibv_devinfo -v -d "$(cat "/sys/class/infiniband_verbs/${node##*/}/ibdev")"
done
"""


def create(cluster: FullCluster, *, replicas: int, networks: str = "fabric", vfs: int = 1) -> None:
    """As many pods on each node as may be."""
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": LABELS},
    }
    pod = {
        "metadata": {"labels": LABELS, "annotations": {"k8s.v1.cni.cncf.io/networks": networks}},
        "spec": {
            "containers": [shell(vfs)],
            "terminationGracePeriodSeconds": 1,
            "topologySpreadConstraints": [spread],
        },
    }
    spec = {
        "replicas": replicas,
        "selector": {"matchLabels": LABELS},
        # a pod's VF is needed for the one that follows it
        "strategy": {"type": "Recreate"},
        "template": pod,
    }
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": NAME}, "spec": spec}
    cluster.kubectl.apply(json.dumps(deployment))


def scale(cluster: FullCluster, replicas: int) -> None:
    cluster.kubectl.run(["scale", f"deployment/{NAME}", f"--replicas={replicas}"])


def restart(cluster: FullCluster) -> None:
    """Have all pods replaced, and wait until there are none of the old ones."""
    old = pods(cluster)
    cluster.kubectl.run(["rollout", "restart", f"deployment/{NAME}"])
    names = {each["metadata"]["name"] for each in old}
    cluster.wait_for("the old pods are gone", lambda: not names & {each["metadata"]["name"] for each in pods(cluster)})


def pods(cluster: FullCluster) -> list[dict[str, Any]]:
    """All that there are, those that are about to end included."""
    found: list[dict[str, Any]] = cluster.kubectl.get("pods", "-l", f"app={NAME}")["items"]
    return found


def running(cluster: FullCluster, count: int) -> dict[str, str]:
    """Wait until there are so many pods, all of them Running; their nodes by their names."""

    def found() -> bool:
        items = pods(cluster)
        well = [
            each
            for each in items
            if each["status"].get("phase") == "Running"
            and "deletionTimestamp" not in each["metadata"]
            and all(status["ready"] for status in each["status"]["containerStatuses"])
        ]
        if len(items) == len(well) == count:
            last.update({each["metadata"]["name"]: each["spec"]["nodeName"] for each in well})
            return True
        return False

    last: dict[str, str] = {}
    cluster.wait_for(f"{count} pods Running, and no other", found)
    return last


def on_both_nodes(pods: dict[str, str]) -> tuple[str, str]:
    """A pod of each of the two nodes."""
    names = {node: name for name, node in sorted(pods.items())}
    assert len(names) == 2, pods
    return names["node1"], names["node2"]


def assert_own_devices(cluster: FullCluster, pods: dict[str, str], netdevs: Sequence[str] = ("net1",)) -> None:
    """Each pod's RDMA devices answer with the port GUIDs of its own netdevs, and no two pods have one."""
    everyone: list[str] = []
    for name, node in pods.items():
        opened = {gid.replace(":", "")[-16:] for gid in GID.findall(cluster.execute(name, "sh", "-c", GIDS))}
        paths = [f"/sys/class/net/{each}/address" for each in netdevs]
        own = {line.replace(":", "")[-16:] for line in cluster.execute(name, "cat", *paths).split()}
        assert opened == own, f"{name} on {node}"
        assert len(own) == len(netdevs), own
        everyone += own
    assert len(set(everyone)) == len(everyone), everyone


def numbers(cluster: FullCluster) -> dict[str, int]:
    """The position of each node's podCIDR, a /24, in the cluster's /16."""
    nodes = cluster.kubectl.get("nodes")["items"]
    return {each["metadata"]["name"]: int(each["spec"]["podCIDR"].split(".")[2]) for each in nodes}


def assert_slices(cluster: FullCluster, pods: dict[str, str]) -> None:
    """Each pod's address is of its node's slice, and no two have the same."""
    position = numbers(cluster)
    addresses = {name: ipv4(cluster, name, "net1") for name in pods}
    for name, address in addresses.items():
        slice_ = ipaddress.ip_network(f"172.16.{position[pods[name]]}.0/24")
        assert ipaddress.ip_address(address) in slice_, (name, pods[name], position)
    assert len(set(addresses.values())) == len(pods), addresses


def define_second_network(cluster: FullCluster) -> None:
    """As the first, with addresses of its own."""
    network = cluster.kubectl.get("network-attachment-definitions", "fabric")
    config = network["spec"]["config"].replace('"fabric"', '"storage"').replace("172.16.0.0/16", STORAGE)
    network["spec"]["config"] = config
    annotations = {
        key: value for key, value in network["metadata"]["annotations"].items() if not key.startswith("kubectl")
    }
    network["metadata"] = {"name": "storage", "namespace": "default", "annotations": annotations}
    cluster.kubectl.apply(json.dumps(network))
