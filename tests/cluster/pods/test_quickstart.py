"""docs/quickstart.md's two pods."""

from __future__ import annotations

import pytest

from tests.cluster import story
from tests.cluster.kubernetes_cluster import Cluster


@pytest.mark.usefixtures("each_mode")
def test_two_pods_on_two_nodes(cluster: Cluster) -> None:
    story.tell(cluster, lambda text: print(text, flush=True))
