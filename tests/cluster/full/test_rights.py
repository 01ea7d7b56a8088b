"""What the agent's service account may ask of the API server, and what it has asked, by the API server's audit log."""

from __future__ import annotations

import json
from typing import Any

from tests.cluster.full import workload
from tests.cluster.full.cluster import FullCluster
from tests.cluster.hca import Host
from tests.cluster.story import assert_no_trace
from tests.lab.commands import wait

ACCOUNT = "system:serviceaccount:kube-system:ib-sriov"
EVENT = "InfiniBandRepaired"
INDEX = "/run/ib-sriov/node-index"


def requests(cluster: FullCluster) -> list[dict[str, Any]]:
    """What the agents have asked so far."""
    lines = [json.loads(line) for line in cluster.kubectl.audit_log.read_text().splitlines()]
    return [each for each in lines if each["user"]["username"] == ACCOUNT]


def right(request: dict[str, Any]) -> tuple[str, str, str]:
    what = request["objectRef"]
    return what.get("apiGroup", ""), what["resource"], request["verb"]


def granted(cluster: FullCluster) -> set[tuple[str, str, str]]:
    """The rights of the role, by API group, resource and verb."""
    rules = cluster.kubectl.get("clusterrole", "ib-sriov")["rules"]
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def events(cluster: FullCluster, pod: str) -> list[str]:
    found = cluster.kubectl.get("events", "--field-selector", f"involvedObject.name={pod},reason={EVENT}")
    return [each["message"] for each in found["items"]]


def index_of(host: Host) -> str:
    return host.machine.run(f"cat {INDEX}", check=False).stdout


def test_each_right_is_used_and_none_is_missing(cluster: FullCluster) -> None:
    before = cluster.snapshots()
    plain = granted(cluster)
    workload.create(cluster, replicas=2)
    pods = workload.running(cluster, 2)
    (pod, _) = workload.on_both_nodes(pods)
    node = cluster.nodes[0]
    listed = json.loads(cluster.in_agent(node.machine.name, "ib-sriov", "list", "-o", "json"))
    (pci,) = [each["pci"] for each in listed["attachments"] if each["pod"] == f"default/{pod}"]
    vf = [each.pci for each in node.vfs].index(pci)
    node.machine.run(f"ip link set dev eth100 vf {vf} state enable")
    assert wait(lambda: events(cluster, pod), 120, 1), "no event on the pod"
    assert {right(each) for each in requests(cluster)} == plain

    # the overlay that lets it read its node
    workload.scale(cluster, 0)
    workload.running(cluster, 0)
    cluster.deploy(overlay="pod-cidr")
    numbers = workload.numbers(cluster)
    wanted = [f"{numbers[each.machine.name]}\n" for each in cluster.nodes]
    cluster.wait_for("the nodes' numbers", lambda: [index_of(each) for each in cluster.nodes] == wanted)
    workload.scale(cluster, 4)
    workload.assert_slices(cluster, workload.running(cluster, 4))
    asked = requests(cluster)
    assert {right(each) for each in asked} == granted(cluster) > plain
    refused = [each for each in asked if each["annotations"]["authorization.k8s.io/decision"] != "allow"]
    assert not refused, refused
    failed = [each for each in asked if each["responseStatus"]["code"] >= 400]
    assert not failed, failed
    workload.scale(cluster, 0)
    workload.running(cluster, 0)
    cluster.deploy()
    assert granted(cluster) == plain
    assert_no_trace(cluster, before)
