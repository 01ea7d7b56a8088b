"""Another version of the plugin comes by the DaemonSet, while pods of the one before are running."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.full import workload
from tests.cluster.full.cluster import TAG, FullCluster, make_other_image
from tests.cluster.full.traffic import Traffic
from tests.cluster.story import assert_no_trace

OTHER = "2"


@pytest.fixture(scope="module")
def other_version(running_cluster: FullCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The digest of its program, whose image both nodes have; the DaemonSet has the first one's again afterwards."""
    folder: Path = tmp_path_factory.mktemp("other")
    archive, digest = make_other_image(folder, OTHER)
    running_cluster.import_image(archive)
    yield digest
    running_cluster.deploy(TAG)


def installed(cluster: FullCluster) -> set[str]:
    """The digests of the program that the nodes' runtimes call."""
    return {each.machine.output("sha256sum /opt/cni/bin/ib-sriov").split()[0] for each in cluster.nodes}


def test_an_upgrade_with_pods_running(cluster: FullCluster, other_version: str) -> None:
    before = cluster.snapshots()
    workload.create(cluster, replicas=4)
    pods = workload.running(cluster, 4)
    client, server = workload.on_both_nodes(pods)
    traffic = Traffic(cluster, client, server)
    first = installed(cluster)
    facts = cluster.snapshots()
    cluster.deploy(OTHER)
    assert installed(cluster) == {other_version}
    assert first != {other_version}
    # nothing of the pods has changed, and the agents of the new version see them as they are
    assert cluster.snapshots() == facts
    traffic.assert_goes_on()
    for each in cluster.nodes:
        found = json.loads(each.machine.output("/opt/cni/bin/ib-sriov repair -o json"))
        assert (found["repairs"], found["findings"]) == ([], []), found
    traffic.assert_goes_on()
    # a DEL of the new version for an ADD of the old one, and the other way around
    workload.restart(cluster)
    workload.assert_own_devices(cluster, workload.running(cluster, 4))
    cluster.deploy(TAG)
    assert installed(cluster) == first
    workload.scale(cluster, 0)
    workload.running(cluster, 0)
    assert_no_trace(cluster, before)
