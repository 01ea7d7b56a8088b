"""The project's own manifests, before the API server of the cluster."""

from __future__ import annotations

from tests.cluster.kubernetes_cluster import Cluster


def test_the_overlay_for_this_kubernetes_is_accepted(cluster: Cluster) -> None:
    """With its DaemonSet, whose fields an older API server may not know."""
    folder = f"packaging/kubernetes/overlays/{cluster.parts.overlay}"
    done = cluster.kubectl.run(["apply", "--dry-run=server", "-k", folder], check=False)
    assert done.returncode == 0, done.stderr
    assert "daemonset.apps/ib-sriov created" in done.stdout
