"""Nothing is said of what is well: by the agent while pods come and go, and by the doctor on their nodes."""

from __future__ import annotations

import json

from tests.cluster.full import metrics, workload
from tests.cluster.full.cluster import SYSTEM, FullCluster
from tests.cluster.story import assert_no_trace

# What counts that something was wrong.
ALARMS = ("errors_total", "repairs_total", "releases_total", "failures_total", "events_total", "differing", "damaged")
SECONDS = "60"  # an emulated node is slow


def alarms(cluster: FullCluster) -> list[dict[str, float]]:
    return [
        {name: value for name, value in metrics.read(each).items() if any(word in name for word in ALARMS) and value}
        for each in cluster.nodes
    ]


def said(cluster: FullCluster) -> list[str]:
    """The lines of both agents' logs that are not of level info."""
    logs = [cluster.kubectl.run(["-n", SYSTEM, "logs", pod]).stdout for pod in cluster.agents().values()]
    return [line for log in logs for line in log.splitlines() if "level=info" not in line]


def test_the_agent_says_nothing_while_pods_come_and_go(cluster: FullCluster) -> None:
    before = cluster.snapshots()
    counted, lines = alarms(cluster), said(cluster)
    workload.create(cluster, replicas=0)
    for _ in range(2):
        workload.scale(cluster, 6)
        workload.running(cluster, 6)
        for each in cluster.nodes:
            metrics.wait_for_passes(each)
        workload.scale(cluster, 0)
        workload.running(cluster, 0)
    for each in cluster.nodes:
        metrics.wait_for_passes(each)
    assert said(cluster) == lines
    assert alarms(cluster) == counted
    assert_no_trace(cluster, before)


def test_the_doctor_is_quiet(cluster: FullCluster) -> None:
    workload.create(cluster, replicas=2)
    workload.running(cluster, 2)
    definitions = cluster.kubectl.run(["get", "net-attach-def", "-A", "-o", "yaml"]).stdout
    for each in cluster.nodes:
        (each.machine.shared / "networks.yaml").write_text(definitions)
        line = f"/opt/cni/bin/ib-sriov doctor -o json --timeout {SECONDS} --config /run/out/networks.yaml"
        found = json.loads(each.machine.run(line, check=False, limit=200).stdout)["findings"]
        bad = [(item["check"], item["status"], item["text"]) for item in found if item["status"] in ("WARN", "FAIL")]
        assert not bad, bad
