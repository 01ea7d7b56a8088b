"""A PF that does not report its VFs' GUIDs (Linux before 5.6), or does not list a VF: nothing is compared with that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ib_sriov_cni.attach.check import record_differences
from ib_sriov_cni.attach.restore_guids import restore_config
from ib_sriov_cni.core.record import Record, parse_record, render_record
from ib_sriov_cni.core.values import Guid, Link, VfConfig, VfFunction
from ib_sriov_cni.kernel.vf_settings import VfConfigs
from ipam.protocol.value import replace
from tests.unit.node import VFS, Node
from tests.unit.trees import RECORD, link_of_pf

PF_LINK = link_of_pf("nopf0", 2)
GUID = Guid.parse("02:00:00:00:00:00:00:77")


class Netlink:
    """A PF that takes settings and reports what `lists` says."""

    def __init__(self, lists: dict[int, VfConfig]) -> None:
        self.lists = lists
        self.calls: list[str] = []

    def read_pf(self, _name: str, _index: int, *, only: int | None = None) -> tuple[Link, dict[int, VfConfig]]:
        return PF_LINK, {index: config for index, config in self.lists.items() if only in (None, index)}

    def set_vf_node_guid(self, vf: VfFunction, guid: Guid) -> None:
        self.calls.append(f"node {vf.index} {guid}")

    def set_vf_port_guid(self, vf: VfFunction, guid: Guid) -> None:
        self.calls.append(f"port {vf.index} {guid}")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    with made.host:
        yield made


def attached(node: Node, lists: dict[int, VfConfig], **changes: object) -> tuple[Record, Netlink]:
    """Return an attachment that has set a GUID on VF 1, and the PF."""
    netlink = Netlink(lists)
    node.host.vf_configs = VfConfigs(lambda: netlink, str(node.root / "sys"))  # type: ignore[arg-type, return-value]
    unknown = {
        "had_config_node_guid": None,
        "had_config_port_guid": None,
        "had_link_state": "",
        "rdma_isolation": False,
    }
    return node.record(VFS[1], **{**unknown, "port_guid": GUID, "node_guid": GUID, **changes}), netlink  # type: ignore[arg-type]


UNREPORTED = [pytest.param({1: VfConfig(link_state="auto")}, id="no GUIDs"), pytest.param({}, id="not listed")]


@pytest.mark.parametrize("lists", UNREPORTED)
def test_a_zero_guid_is_restored_without_comparing(node: Node, lists: dict[int, VfConfig]) -> None:
    record, netlink = attached(node, lists, had_node_guid=Guid(0), had_port_guid=Guid(0))
    restore_config(node.host, record)
    assert netlink.calls == [f"node 1 {Guid(0)}", f"port 1 {Guid(0)}"]


@pytest.mark.parametrize("lists", UNREPORTED)
@pytest.mark.parametrize("sets_guid", [True, False])
def test_check_compares_nothing_with_what_is_not_reported(
    node: Node, lists: dict[int, VfConfig], sets_guid: bool
) -> None:
    record, _ = attached(node, lists, sets_guid=sets_guid)
    kinds = {fault.kind for fault in record_differences(node.host, record, reservation=False)}
    assert kinds.isdisjoint({"config_guid", "link_state", "pf"})


def test_check_finds_a_vf_that_the_pf_lists_no_longer(node: Node) -> None:
    record, _ = attached(node, {}, had_link_state="auto")
    faults = record_differences(node.host, record, reservation=False)
    assert "PF nopf0 does not list VF 1 any more" in faults


def test_check_still_compares_what_is_reported(node: Node) -> None:
    record, _ = attached(node, {1: VfConfig(node_guid=Guid(0), link_state="disable")}, link_state="auto")
    kinds = [fault.kind for fault in record_differences(node.host, record, reservation=False)]
    assert kinds.count("config_guid") == kinds.count("link_state") == 1


def test_guids_that_the_pf_did_not_report_are_stored_as_older_versions_can_read_them() -> None:
    unknown = replace(RECORD, had_config_node_guid=None, had_config_port_guid=None)
    document = render_record(unknown)
    assert document["had_config_node_guid"] == document["had_config_port_guid"] == "ff:ff:ff:ff:ff:ff:ff:ff"
    assert parse_record(document) == unknown
    assert parse_record({**document, "had_config_node_guid": None}) == unknown
