"""One cluster for all tests here: it takes minutes to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.full.cluster import FullCluster
from tests.cluster.full.stay import RUNNING


@pytest.fixture(scope="session")
def running_cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FullCluster]:
    running = request.config.stash.get(RUNNING, None)
    if running is not None:
        yield running
        return
    made = FullCluster(tmp_path_factory.mktemp("cluster"))
    verdicts = [-1]
    try:
        made.start(lambda text: print(text, flush=True))
        yield made
    finally:
        verdicts = made.end()
    assert verdicts == [0] * len(made.nodes), "\n".join(each.machine.said() for each in made.nodes)


@pytest.fixture
def cluster(running_cluster: FullCluster) -> Iterator[FullCluster]:
    """The cluster, without pods of its default namespace after the test."""
    yield running_cluster
    running_cluster.clear()
