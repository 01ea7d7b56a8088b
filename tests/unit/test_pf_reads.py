"""How often a PF is read: for each read the kernel asks the firmware about every VF of the PF, under its RTNL lock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ib_sriov_cni.attach.check import record_differences
from ib_sriov_cni.attach.devices import read_pf_settings, read_vf_facts
from ib_sriov_cni.attach.guid_holders import read_holders
from ib_sriov_cni.attach.restore_guids import restore_config
from ib_sriov_cni.core.errors import KernelRefused
from ib_sriov_cni.core.values import Guid, Link, VfConfig
from ib_sriov_cni.kernel.netns import Netns
from ib_sriov_cni.kernel.rtnetlink import Rtnl
from ib_sriov_cni.node.live_state import differences, read_live
from ib_sriov_cni.node.plan_repair import plan_repairs
from ib_sriov_cni.node.read_inventory import read_inventory
from tests.unit.node import VFS, Node, NodeHost
from tests.unit.trees import PF

CONFIGS = {index: VfConfig(node_guid=Guid(9), port_guid=Guid(9), link_state="auto") for index in range(4)}


class CountingRtnl(Rtnl):
    """The kernel's answers, but for PFs: those it counts, and answers from CONFIGS, or refuses."""

    def __init__(self, reads: list[str], *, refuses: bool) -> None:
        super().__init__()
        self.reads, self.refuses = reads, refuses

    def read_pf(self, pf_netdev: str, _index: int = 0, *, only: int | None = None) -> tuple[Link, dict[int, VfConfig]]:
        self.reads.append(pf_netdev)
        if self.refuses:
            raise KernelRefused("read VFs of", f"PF {pf_netdev}", 19)
        link = super().read_link("lo")
        assert link is not None
        return link, {index: config for index, config in CONFIGS.items() if only in (None, index)}


class CountingHost(NodeHost):
    """A host that notes each read of a PF in `reads`."""

    def __init__(self, node: Node, *, refuses: bool = False) -> None:
        super().__init__(node.root)
        self.reads: list[str] = []
        self.refuses = refuses

    def open_rtnl(self, netns: Netns | None = None) -> Rtnl:
        return super().open_rtnl(netns) if netns else CountingRtnl(self.reads, refuses=self.refuses)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node with three VFs in pods, and a free one."""
    made = Node(tmp_path)
    for number, pci in enumerate(VFS[:3]):
        made.take_away(pci)
        made.record(pci, f"w-{number}", rdma_isolation=False)
    with made.host:
        yield made


@pytest.fixture
def host(node: Node) -> Iterator[CountingHost]:
    with CountingHost(node) as made:
        yield made


def test_a_pass_over_all_attachments_reads_each_pf_once(host: CountingHost) -> None:
    inventory = read_inventory(host)
    assert len(inventory.attachments) == 3
    plan = plan_repairs(host, inventory)
    for held in inventory.attachments:
        assert differences(host, held, inventory.read_config)
        assert read_live(host, held.record, inventory.read_config).config == CONFIGS[0]
    assert host.reads == ["nopf0"]
    kinds = {finding.kind for finding in plan.findings}
    assert "pf" not in kinds
    assert "interface" in kinds


def test_a_pf_that_refuses_is_asked_once(node: Node) -> None:
    with CountingHost(node, refuses=True) as host:
        inventory = read_inventory(host)
        plan = plan_repairs(host, inventory)
        assert host.reads == ["nopf0"]
        assert plan.unseen
        assert sum(finding.kind == "pf" for finding in plan.findings) == 3
        assert {finding.what for finding in plan.findings if finding.kind == "pf"} == {
            "read VFs of PF nopf0: No such device"
        }


def test_an_ethernet_port_is_not_asked(node: Node, host: CountingHost) -> None:
    folder = node.tree.device(PF) / "infiniband/mlx5_0/ports/1"
    (folder / "link_layer").write_text("Ethernet\n")
    assert read_inventory(host).pfs == ()
    assert host.reads == []


def test_a_check_of_one_attachment_reads_once(node: Node, host: CountingHost) -> None:
    record_differences(host, node.record(VFS[0], rdma_isolation=False), reservation=False)
    assert host.reads == ["nopf0"]


def test_what_an_add_and_a_del_read(node: Node, host: CountingHost) -> None:
    facts = read_pf_settings(host, read_vf_facts(host, VFS[3], with_mode=False), alone=False)
    assert read_holders(host, facts)[Guid(9)].startswith("pod train/w-")
    assert facts.config == CONFIGS[3]
    assert host.reads == ["nopf0"]
    restore_config(host, node.record(VFS[2], had_node_guid=Guid(9), had_port_guid=Guid(9)))
    assert host.reads == ["nopf0"] * 2
