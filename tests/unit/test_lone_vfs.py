"""VFs without a PF on this machine, as a virtual machine in a cloud has them: read, listed, released, never set."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ib_sriov_cni.attach.check import record_differences
from ib_sriov_cni.attach.delete import delete
from ib_sriov_cni.attach.devices import read_vf_facts
from ib_sriov_cni.attach.guid_holders import read_holders
from ib_sriov_cni.attach.restore_guids import restore_config
from ib_sriov_cni.attach.status import status
from ib_sriov_cni.core.configuration import parse_netconf
from ib_sriov_cni.core.errors import NotAvailable
from ib_sriov_cni.core.values import LONE, PHYSICAL, Guid, PciAddress
from ib_sriov_cni.node import inventory as inv
from ib_sriov_cni.node.plan_repair import plan_repairs
from ib_sriov_cni.node.read_inventory import read_inventory
from ipam.protocol.request import Request
from tests.unit.node import VFS, Node
from tests.unit.test_cli_node import call
from tests.unit.trees import PF, write

LONE_VF = PciAddress("0000:00:05.0")
SECOND = PciAddress("0000:00:06.0")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node whose HCA has a PF, and that has two VFs without one besides, the second for a virtual machine."""
    made = Node(tmp_path)
    made.tree.add_lone(LONE_VF)
    made.home(LONE_VF, 8)
    made.tree.add_lone(SECOND, driver="vfio-pci")
    with made.host:
        yield made


def remove_pf(node: Node) -> None:
    """Leave the VFs without a PF alone."""
    for pci in (PF, *VFS):
        node.tree.device(pci).rename(node.root / f"removed-{pci}")
    (node.tree.root / "class/infiniband/mlx5_0").unlink()


def test_facts_have_no_pf(node: Node) -> None:
    facts = read_vf_facts(node.host, LONE_VF, with_mode=False)
    assert (facts.function.kind, facts.pf_link, facts.configs) == (LONE, None, {})
    assert facts.port_guid == Guid(0x0200000000000009)
    assert "RDMA device mlx5_0" in read_holders(node.host, facts).values()


def test_they_are_in_the_inventory_after_the_pfs(node: Node) -> None:
    found = read_inventory(node.host)
    assert [pf.pci for pf in found.pfs] == [PF, None]
    assert [(vf.pci, vf.state) for vf in found.pfs[1].vfs] == [(LONE_VF, inv.FREE), (SECOND, inv.FREE)]
    node.record(LONE_VF)
    node.take_away(LONE_VF)
    assert [vf.state for vf in read_inventory(node.host).pfs[1].vfs] == [inv.IN_USE, inv.FREE]


def test_list(node: Node) -> None:
    node.record(LONE_VF)
    node.take_away(LONE_VF)
    rows = call(node, "list").rows
    assert [row[:2] for row in rows[-2:]] == [[LONE_VF, "none"], [SECOND, "none"]]
    assert [row[0] for row in call(node, "list", "--pf", "none").rows] == [LONE_VF, SECOND]
    group = call(node, "list", "-o", "json").doc["pfs"][1]
    assert (group["pci"], [(vf["pci"], vf["index"]) for vf in group["vfs"]]) == (
        None,
        [(LONE_VF, None), (SECOND, None)],
    )
    assert "2 VFs without a PF on this machine (1 free, 1 in use)" in call(node, "list", "--tree").out


def test_list_without_any_pf(node: Node) -> None:
    remove_pf(node)
    listed = call(node, "list")
    assert [row[0] for row in listed.rows] == [LONE_VF, SECOND]
    assert "no InfiniBand PF" not in listed.err


def test_an_unbound_one_is_a_finding_with_its_hint(node: Node) -> None:
    node.unbind(LONE_VF)
    plan = plan_repairs(node.host)
    assert [(finding.pci, finding.hint) for finding in plan.findings] == [
        (LONE_VF, f"bind it: echo {LONE_VF} > /sys/bus/pci/drivers_probe")
    ]
    assert not plan.repairs


@pytest.mark.parametrize("pci", [LONE_VF, PF])
def test_check_and_del_ask_no_pf(node: Node, pci: str) -> None:
    """The PF is one that was passed through."""
    record = node.record(PciAddress(pci), driver="vfio-pci", sets_guid=True, had_node_guid=Guid(1))
    restore_config(node.host, record)
    faults = record_differences(node.host, record, reservation=False)
    assert [fault.kind for fault in faults] == ["driver"]
    assert node.host.sysfs.read_kind(record.pci) == (PHYSICAL if pci == PF else LONE)


def ask(node: Node, **members: object) -> None:
    conf = {"name": "ib", **members}
    request = Request(command="STATUS", args={}, conf=conf, version="1.1.0", environ={})
    status(node.host, request, parse_netconf(request, needs_device=False))


def test_status(node: Node) -> None:
    remove_pf(node)
    ask(node)
    node.unbind(LONE_VF)
    node.unbind(SECOND)
    with pytest.raises(NotAvailable, match="VFs without a PF: of 2 VFs 2 without driver"):
        ask(node)
    for pci in (LONE_VF, SECOND):
        node.tree.device(pci).rename(node.root / f"removed-{pci}")
    with pytest.raises(NotAvailable, match="this node has no InfiniBand PF with SR-IOV"):
        ask(node)


@pytest.mark.parametrize(("pci", "driver"), [(PF, "vfio-pci"), (PF, ""), (VFS[0], "mlx5_core"), (VFS[0], "")])
def test_del_of_what_the_go_plugin_passed_through(node: Node, pci: str, driver: str) -> None:
    """In its vfioPciMode that plugin has moved nothing: nothing is returned, whatever the device's driver is by now."""
    node.unbind(pci)
    if driver:
        node.tree.bind(pci, driver)
    path = node.state / "c1-net1"
    write(path, json.dumps({"name": "ib", "deviceID": pci, "vfioPciMode": True, "HostIFNames": "", "ContIFNames": ""}))
    environ = {"CNI_NETNS": "/run/netns/gone"}
    conf: dict[str, object] = {"name": "ib", "deviceID": pci, "vfioPciMode": True}
    request = Request(
        command="DEL", container_id="c1", ifname="net1", args={}, conf=conf, version="1.0.0", environ=environ
    )
    delete(node.host, request, parse_netconf(request, lenient=True))
    assert not path.exists()
    assert node.host.sysfs.read_driver(PciAddress(pci)) == driver
    assert [(node.tree.driver("mlx5_core") / name).read_text() for name in ("bind", "unbind")] == ["", ""]
