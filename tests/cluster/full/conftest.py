"""One cluster for all tests here: it takes minutes to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.full.cluster import FullCluster
from tests.cluster.full.stay import RUNNING
from tests.cluster.kubernetes_cluster import started


@pytest.fixture(scope="session")
def running_cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FullCluster]:
    running = request.config.stash.get(RUNNING, None)
    if running is not None:
        yield running
        return
    with started(FullCluster(tmp_path_factory.mktemp("cluster"))) as made:
        yield made


@pytest.fixture
def cluster(running_cluster: FullCluster) -> Iterator[FullCluster]:
    """The cluster, without pods of its default namespace after the test."""
    yield running_cluster
    running_cluster.clear()
