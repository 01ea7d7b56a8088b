"""The DaemonSet of packaging/kubernetes: what it installs, whether its agents are well, what one sees of them."""

from __future__ import annotations

import hashlib
import json

from tests.cluster import story
from tests.cluster.full import metrics
from tests.cluster.full.cluster import LABEL, SYSTEM, FullCluster
from tests.cluster.machine import PROJECT

LIVE = 'ib_sriov_attachments{network="fabric",state="live"}'


def test_the_program_is_installed(cluster: FullCluster) -> None:
    wanted = hashlib.sha256((PROJECT / "dist/ib-sriov-x86_64").read_bytes()).hexdigest()
    for each in cluster.nodes:
        assert each.machine.output("sha256sum /opt/cni/bin/ib-sriov").split()[0] == wanted
        # beside the others' plugins, and nothing half-written
        assert "ib-sriov" in each.machine.output("ls -A /opt/cni/bin").split()
        assert not each.machine.output("ls -A /opt/cni/bin | grep '^[.]' || true")


def test_the_agents_are_ready_and_were_never_restarted(cluster: FullCluster) -> None:
    items = cluster.kubectl.get("pods", "-n", SYSTEM, "-l", LABEL)["items"]
    assert {each["spec"]["nodeName"] for each in items} == {each.machine.name for each in cluster.nodes}
    for each in items:
        (status,) = each["status"]["containerStatuses"]
        assert status["ready"], status
        assert status["restartCount"] == 0, status
    # the probes reach it
    events = cluster.kubectl.get("events", "-n", SYSTEM)["items"]
    unhealthy = [each["message"] for each in events if each["reason"] == "Unhealthy" and "ib-sriov" in str(each)]
    assert not [text for text in unhealthy if "Liveness" in text], unhealthy


def test_the_logs_of_both_containers(cluster: FullCluster) -> None:
    for pod in cluster.agents().values():
        installed = cluster.kubectl.run(["-n", SYSTEM, "logs", pod, "-c", "install"]).stdout
        assert "/host/opt/cni/bin/ib-sriov" in installed, installed
        said = cluster.kubectl.run(["-n", SYSTEM, "logs", pod]).stdout
        assert "level=error" not in said, said
        assert "level=warning" not in said, said


def test_list_and_metrics_know_the_pods(cluster: FullCluster) -> None:
    story.start_pods(cluster)
    for each in cluster.nodes:
        listed = json.loads(cluster.in_agent(each.machine.name, "ib-sriov", "list", "-o", "json"))
        (attachment,) = listed["attachments"]
        assert attachment["pod"].startswith("default/ib-"), listed
        assert attachment["state"] == "alive", listed

    cluster.wait_for(
        "the metrics know the pods", lambda: [metrics.read(each).get(LIVE) for each in cluster.nodes] == [1, 1]
    )
