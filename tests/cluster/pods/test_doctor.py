"""The doctor on a node whose kubelet is a real one."""

from __future__ import annotations

import json
import shlex

from tests.cluster.kubernetes_cluster import RESOURCE, Cluster
from tests.lab.client_programs.node import PROJECT, plugin_command

SECONDS = "60"  # an emulated node is slow
ABOUT_KUBELET = ("kubelet", "device-plugin")


def test_the_device_plugin_is_found(cluster: Cluster) -> None:
    """It has its socket in plugins_registry, and nothing beside kubelet's own."""
    words = [*plugin_command(), "doctor", "-o", "json", "--timeout", SECONDS, "--only", ",".join(ABOUT_KUBELET)]
    for each in cluster.nodes:
        done = each.machine.run(f"cd {PROJECT} && {shlex.join(words)}", check=False)
        found = [(item["check"], item["status"], item["text"]) for item in json.loads(done.stdout)["findings"]]
        assert [(name, status) for name, status, _ in found] == [(name, "OK") for name in ABOUT_KUBELET], found
        assert RESOURCE in found[1][2]
