"""One cluster for all tests here: it takes minutes to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.kubernetes_cluster import Cluster, started


@pytest.fixture(scope="session")
def running_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with started(Cluster(tmp_path_factory.mktemp("cluster"))) as made:
        yield made


@pytest.fixture(scope="session", params=["shared", "exclusive"])
def each_mode(request: pytest.FixtureRequest, running_cluster: Cluster) -> None:
    """For tests that run in both RDMA namespace modes of the nodes; the others take whichever there is."""
    running_cluster.set_mode(request.param)


@pytest.fixture
def cluster(running_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, without pods after the test."""
    yield running_cluster
    names = [each["metadata"]["name"] for each in running_cluster.kubectl.get("pods")["items"]]
    if names:
        running_cluster.delete(*names)
    for each in running_cluster.nodes:
        each.restore_knobs()
