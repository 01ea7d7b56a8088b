"""What a real runtime gets of the plugin, and what it asks of it when a pod's namespace is gone."""

from __future__ import annotations

import json
from typing import Any

from tests.cluster.hca import Host
from tests.cluster.kubernetes_cluster import Cluster
from tests.cluster.pods.test_devices import pod
from tests.cluster.pods.test_outages import KILL
from tests.cluster.story import assert_no_trace, ipv4
from tests.lab.commands import wait

# libcni's, which Multus calls the plugin by
ANSWER = "cat $(find /var/lib/cni -name 'fabric-*-net1')"
LOG = "/var/log/ib-sriov.log"
END_NAMESPACE = """\
set -e
for pid in $(ip netns pids {name}); do kill -9 $pid; done
ip netns del {name}
"""


def start_pod(cluster: Cluster, host: Host) -> dict[str, Any]:
    """A pod; the plugin's answer to its ADD."""
    cluster.kubectl.apply(json.dumps(pod("pod-1", host.machine.name)))
    cluster.wait_for("pod-1 Running", lambda: cluster.are_running("pod-1"))
    kept = json.loads(host.machine.output(ANSWER))
    # libcni of 2019 keeps nothing but the answer
    answer: dict[str, Any] = kept.get("result", kept)
    return answer


def test_the_answer_is_in_the_version_of_the_network(cluster: Cluster) -> None:
    before = cluster.snapshots()
    answer = start_pod(cluster, cluster.nodes[0])
    assert answer["cniVersion"] == cluster.parts.cni
    (address,) = answer["ips"]
    assert address["address"].partition("/")[0] == ipv4(cluster, "pod-1", "net1")
    # an address named its family before CNI 1.0.0
    assert address.get("version") == ("4" if cluster.parts.cni.startswith("0.") else None)
    cluster.delete("pod-1")
    assert_no_trace(cluster, before)


def test_a_pod_is_deleted_whose_namespace_is_gone(cluster: Cluster) -> None:
    """As after a boot: the runtime calls DEL without CNI_NETNS."""
    before = cluster.snapshots()
    host = cluster.nodes[0]
    (interface,) = [each for each in start_pod(cluster, host)["interfaces"] if each["name"] == "net1"]
    host.machine.python(KILL)
    cluster.kubectl.run(["delete", "pod", "pod-1", "--grace-period=1", "--wait=false"])
    host.machine.run(END_NAMESPACE.format(name=interface["sandbox"].rpartition("/")[2]))
    known = host.machine.output(f"grep -c cmd=DEL {LOG} || true")
    cluster.start_programs(host)
    cluster.wait_for("pod-1 is gone", lambda: cluster.kubectl.run(["get", "pod", "pod-1"], check=False).returncode != 0)
    assert wait(lambda: host.machine.output(f"grep -c cmd=DEL {LOG}") != known, 120, 1)
    assert_no_trace(cluster, before)
