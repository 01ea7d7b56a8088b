"""VFs that no pod can use are refused from what sysfs says, before anything is touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ib_sriov_cni.attach.devices import read_vf_facts
from ib_sriov_cni.core.errors import DeviceUnusable
from ib_sriov_cni.core.plan import plan_add
from tests.unit.node import Node
from tests.unit.test_lone_vfs import LONE_VF
from tests.unit.test_plan import conf
from tests.unit.trees import write


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node with a VF whose PF need not be asked."""
    made = Node(tmp_path)
    made.tree.add_lone(LONE_VF)
    with made.host:
        yield made


def refused(node: Node) -> DeviceUnusable:
    facts = read_vf_facts(node.host, LONE_VF, with_mode=False)
    with pytest.raises(DeviceUnusable) as caught:
        plan_add(conf(deviceID=str(LONE_VF)), facts)
    return caught.value


def ports(node: Node, *layers: str) -> None:
    for number, layer in enumerate(layers, 1):
        write(node.tree.device(LONE_VF) / f"infiniband/mlx5_9/ports/{number}/link_layer", f"{layer}\n")


def test_an_ethernet_vf(node: Node) -> None:
    node.home(LONE_VF, 8)
    ports(node, "Ethernet")
    fault = refused(node)
    assert fault.msg == f"VF {LONE_VF} is not an InfiniBand VF: the link layer of its port is Ethernet"
    assert '"linkTypes": ["infiniband"]' in fault.details


def test_a_vf_with_two_ports(node: Node) -> None:
    node.home(LONE_VF, 8)
    ports(node, "InfiniBand", "InfiniBand")
    assert refused(node).msg == f"VF {LONE_VF} has 2 ports: which of them the pod should get cannot be said"


def test_a_vf_without_ipoib(node: Node) -> None:
    node.tree.add_rdma(LONE_VF, "mlx5_9", minor=9)
    ports(node, "InfiniBand")
    assert refused(node).msg == f"VF {LONE_VF} has no netdev, because ib_ipoib is not loaded"
    (node.root / "sys/module/ib_ipoib").mkdir(parents=True)
    assert "has no netdev on the host, although ib_ipoib is loaded" in refused(node).msg
