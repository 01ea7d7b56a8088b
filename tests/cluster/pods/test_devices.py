"""Whose RDMA device a pod opens, when several pods of a node start at once."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.cluster.kubernetes_cluster import RESOURCE, TEST_IMAGE, Cluster
from tests.cluster.story import assert_no_trace

NAMES = ("three-1", "three-2", "three-3")
PROBE_MS = 3000  # an mlx5 VF's probe takes seconds as well
GID = re.compile(r"GID\[\s*0\]:\s+(\S+)")


def shell(vfs: int = 1) -> dict[str, Any]:
    """A container with so many VFs.

    No limit of processor time: QEMU's emulation does not survive it that the kernel switches those on and off.
    """
    devices = {RESOURCE: str(vfs)}
    return {
        "name": "shell",
        "image": TEST_IMAGE,
        "command": ["sleep", "infinity"],
        "securityContext": {"capabilities": {"add": ["IPC_LOCK"]}},
        "resources": {"requests": devices, "limits": devices},
    }


def pod(name: str, node: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "annotations": {"k8s.v1.cni.cncf.io/networks": "fabric"},
        },
        "spec": {"nodeName": node, "containers": [shell()]},
    }


def device_of(cluster: Cluster, name: str) -> str:
    """The RDMA device behind the one uverbs device that the pod has."""
    found = cluster.execute(
        name, "sh", "-c", "cd /dev/infiniband; cat /sys/class/infiniband_verbs/$(echo uverbs*)/ibdev"
    )
    return found.strip()


def guid_by_device(cluster: Cluster, name: str) -> str:
    """The port GUID that the pod's RDMA device answers with, when the pod opens it."""
    said = cluster.execute(name, "ibv_devinfo", "-v", "-d", device_of(cluster, name))
    found = GID.search(said)
    assert found, said
    return found[1].replace(":", "")[-16:]


def guid_of_net1(cluster: Cluster, name: str) -> str:
    """The port GUID in net1's hardware address."""
    return cluster.execute(name, "cat", "/sys/class/net/net1/address").strip().replace(":", "")[-16:]


@pytest.mark.usefixtures("each_mode")
def test_pods_that_start_at_once_open_their_own_devices(cluster: Cluster) -> None:
    before = cluster.snapshots()
    node = cluster.nodes[1]
    node.knob("probe_delay_ms", PROBE_MS)
    cluster.kubectl.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": [
        pod(name, node.machine.name) for name in NAMES
    ]}))  # fmt: skip
    cluster.wait_for("three pods Running", lambda: cluster.are_running(*NAMES))
    net1 = {name: guid_of_net1(cluster, name) for name in NAMES}
    assert {name: guid_by_device(cluster, name) for name in NAMES} == net1
    assert len(set(net1.values())) == len(NAMES)
    node.restore_knobs()
    cluster.delete(*NAMES)
    assert_no_trace(cluster, before)
