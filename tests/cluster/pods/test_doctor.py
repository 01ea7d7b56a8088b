"""The doctor on a node whose kubelet is a real one."""

from __future__ import annotations

import json

from tests.cluster.kubernetes_cluster import RESOURCE, Cluster

ABOUT_KUBELET = ("kubelet", "device-plugin")


def test_the_device_plugin_is_found(cluster: Cluster) -> None:
    """It has its socket in plugins_registry, and nothing beside kubelet's own."""
    for each in cluster.nodes:
        done = each.machine.run(f"/opt/cni/bin/ib-sriov doctor -o json --only {','.join(ABOUT_KUBELET)}", check=False)
        found = [(item["check"], item["status"], item["text"]) for item in json.loads(done.stdout)["findings"]]
        assert [(name, status) for name, status, _ in found] == [(name, "OK") for name in ABOUT_KUBELET], found
        assert RESOURCE in found[1][2]
