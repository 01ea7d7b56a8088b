"""ib_sriov_cni.attach.status on a simulated node: what is broken, and what is only full."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ib_sriov_cni.attach.status import status
from ib_sriov_cni.core.configuration import parse_netconf
from ib_sriov_cni.core.errors import NotAvailable
from ipam.protocol.request import Request
from tests.unit.node import VFS, Node


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    with made.host:
        yield made


def ask(node: Node, **members: object) -> None:
    request = Request(command="STATUS", args={}, conf={"name": "ib", **members}, version="1.1.0", environ={})
    status(node.host, request, parse_netconf(request, needs_device=False))


def test_c18_a_full_node_is_not_broken(node: Node) -> None:
    """A runtime makes the whole node NotReady after code 50, and its pods are evicted."""
    for number, pci in enumerate(VFS):
        node.take_away(pci)
        node.record(pci, f"w-{number}")
    ask(node)
    ask(node, deviceID=VFS[2])
    node.unbind(VFS[0])
    ask(node)


def test_c18_no_vf_that_can_be_used(node: Node) -> None:
    for pci in VFS[:2]:
        node.unbind(pci)
    for pci in VFS[2:]:
        (node.tree.device(pci) / "net").rename(node.tree.device(pci) / ".net")
    with pytest.raises(NotAvailable, match="of 4 VFs 2 without driver, 2 without netdev here"):
        ask(node)
