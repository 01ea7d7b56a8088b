"""ib_sriov_cni.agent.node_index: the node's number from its podCIDR, in the file that the slices of host-local read."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from ib_sriov_cni.agent.api_server import ApiServer
from ib_sriov_cni.agent.daemon import AgentSettings, Daemon
from ib_sriov_cni.agent.node_index import NodeIndex
from ib_sriov_cni.attach.host import Host
from ib_sriov_cni.telemetry.log import Log
from tests.ipam.calls import ask
from tests.unit.api_double import NODE, Api, client

PAUSE = 0.01
CLUSTER = "10.244.0.0/16"


class Case:
    """The agent's part that asks, and what it has logged."""

    def __init__(self, server: ApiServer, folder: Path, cluster: str = CLUSTER) -> None:
        self.file, self._log = folder / "node-index", folder / "log"
        self.index = NodeIndex(server, cluster, str(self.file), Log(path=str(self._log)), first_pause=PAUSE)

    def logged(self, words: str) -> bool:
        return self._log.exists() and words in self._log.read_text()

    def awaits(self, words: str) -> None:
        deadline = time.monotonic() + 60
        while not self.logged(words):
            assert time.monotonic() < deadline, self._log.read_text() if self._log.exists() else "nothing was logged"
            time.sleep(0.01)

    def finish(self) -> str:
        """Start it, wait until it has written, and return what."""
        self.index.start()
        self.awaits("is written")
        self.index.close(60)
        return self.file.read_text()


def node(*subnets: str, **spec: object) -> dict[str, object]:
    images = [{"names": [f"registry.example/image@sha256:{n:064x}"]} for n in range(2000)]  # longer than most answers
    return {"kind": "Node", "spec": {"podCIDRs": list(subnets), **spec}, "status": {"images": images}}


@pytest.mark.parametrize(
    ("cluster", "found", "index"),
    [
        (CLUSTER, node("10.244.3.0/24"), "3\n"),
        (CLUSTER, node("fd00:10:244:7::/64", "10.244.255.0/24"), "255\n"),
        ("fd00:10:244::/48", node("10.244.3.0/24", "fd00:10:244:7::/64"), "7\n"),
        ("10.0.0.0/8", {"spec": {"podCIDR": "10.0.2.128/25"}}, "5\n"),
    ],
)
def test_the_position_of_the_pod_cidr(
    api: Api, account: Path, tmp_path: Path, cluster: str, found: Any, index: str
) -> None:
    api.nodes[NODE] = found
    assert Case(client(api.port, account), tmp_path, cluster).finish() == index
    assert api.asked == [f"/api/v1/nodes/{NODE}"]


def test_host_local_gives_the_addresses_of_that_slice(api: Api, account: Path, tmp_path: Path) -> None:
    api.nodes[NODE] = node("10.244.3.0/24")
    case = Case(client(api.port, account), tmp_path)
    slices = {"indexFile": str(case.file), "count": 256}
    ipam = {"dataDir": str(tmp_path / "leases"), "subnet": "172.16.0.0/16", "slices": slices}
    conf = {"cniVersion": "1.1.0", "name": "ib", "ipam": ipam}
    early = ask("ADD", conf)
    assert early.code == 11
    assert "--cluster-cidr" in str(early.doc)
    case.finish()
    assert ask("ADD", conf).ips == ["172.16.3.1/16"]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"spec": {}}, "the node has no podCIDR"),
        ({"spec": {"podCIDRs": [7, None], "podCIDR": ""}}, "the node has no podCIDR"),
        ({"spec": {"podCIDRs": "10.244.3.0/24"}}, "the node has no podCIDR"),
        ({"spec": 7}, "the node has no podCIDR"),
        (node("10.245.3.0/24"), "podCIDR=10.245.3.0/24 is not inside --cluster-cidr=10.244.0.0/16"),
        (node("10.244.3.0"), "podCIDR=10.244.3.0: '10.244.3.0' has no prefix length"),
        (None, "the API server answered 404: no such node"),
    ],
)
def test_a_number_that_is_not_known_is_asked_for_again(
    api: Api, account: Path, tmp_path: Path, found: Any, words: str
) -> None:
    """Until it is known nothing is written, and the reason is logged once."""
    if found is not None:
        api.nodes[NODE] = found
    case = Case(client(api.port, account), tmp_path)
    case.index.start()
    case.awaits(words)
    while len(api.asked) < 3:
        time.sleep(0.01)
    assert not case.file.exists()
    api.nodes[NODE] = node("10.244.3.0/24")
    case.awaits("is written")
    case.index.close(60)
    assert case.file.read_text() == "3\n"
    assert (tmp_path / "log").read_text().count("trying again") == 1


def test_without_the_right_to_read_its_node(api: Api, account: Path, tmp_path: Path) -> None:
    api.status = 403
    case = Case(client(api.port, account), tmp_path)
    case.index.start()
    case.awaits("the API server answered 403: nodes is forbidden")
    case.index.close(60)
    assert not case.file.exists()


@pytest.mark.parametrize(("before", "warned"), [("3\n", False), ("4\n", True), ("", False), ("x", False)])
def test_an_index_that_has_changed(api: Api, account: Path, tmp_path: Path, before: str, warned: bool) -> None:
    """A node that has left the cluster and joined it again may get another podCIDR."""
    api.nodes[NODE] = node("10.244.3.0/24")
    case = Case(client(api.port, account), tmp_path)
    case.file.write_text(before)
    assert case.finish() == "3\n"
    assert case.logged("this node had another index") is warned


def test_outside_a_cluster(tmp_path: Path) -> None:
    case = Case(ApiServer({}, root=str(tmp_path)), tmp_path)
    case.index.start()
    case.index.close()
    assert case.logged("run the agent in a pod with a service account")


def test_the_agent_asks_if_it_is_told_the_clusters_cidr(api: Api, account: Path, tmp_path: Path) -> None:
    api.nodes[NODE] = node("10.244.9.0/24")
    environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(api.port), "NODE_NAME": NODE}
    run, log = tmp_path / "run", tmp_path / "log"
    settings = AgentSettings(listen="127.0.0.1:0", run_dir=str(run), account=str(account), cluster_cidr=CLUSTER)
    with Host(log=Log(path=str(log)), state_dir=str(tmp_path / "state"), lock_dir=str(run)) as host:
        daemon = Daemon(host, settings, environ)
        try:
            while "is written" not in (log.read_text() if log.exists() else ""):
                time.sleep(0.01)
        finally:
            daemon.close()
    assert (run / "node-index").read_text() == "9\n"
