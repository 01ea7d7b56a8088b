"""A try whose port was not ACTIVE in time leaves its GUID on the VF, and the next ADD takes it over."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ib_sriov_cni.attach.delete import delete
from ib_sriov_cni.attach.keep_identity import (
    RETRY_SECONDS,
    continue_record,
    find_kept_identity,
    is_only_slow,
    undo_but_keep_identity,
)
from ib_sriov_cni.core.configuration import parse_netconf
from ib_sriov_cni.core.errors import PortNotReady, VerificationFailed
from ib_sriov_cni.core.plan import Plan, plan_add
from ib_sriov_cni.core.record import AWAITS_PORT, Record
from ib_sriov_cni.core.values import Guid, Link, VfConfig
from ib_sriov_cni.kernel.netns import Netns
from ib_sriov_cni.kernel.rtnetlink import Rtnl
from ib_sriov_cni.kernel.vf_settings import VfConfigs
from ipam.protocol.request import Request
from ipam.protocol.value import replace
from tests.unit.node import VFS, Node, NodeHost
from tests.unit.test_plan import FACTS, HAS, WANTED, ZERO, conf, config
from tests.unit.test_unreported_guids import Netlink
from tests.unit.trees import RECORD, link_of_pf

VF = VFS[1]
KEPT = Guid.parse("02:00:00:00:00:00:00:02")  # what VF 1 of the node has
DEVICES = ("uverbs2", "issm2", "umad2")  # likewise


NETDEV = link_of_pf("ibvf1", 11)  # of VF 1 of the node


class KnownRtnl(Rtnl):
    """The kernel's answers, and one for the netdev of VF 1, which is made."""

    def read_link(self, which: int | str) -> Link | None:
        return NETDEV if which == NETDEV.name else super().read_link(which)


class KnownHost(NodeHost):
    def open_rtnl(self, netns: Netns | None = None) -> Rtnl:
        return super().open_rtnl(netns) if netns else KnownRtnl()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    made.host = KnownHost(tmp_path)
    with made.host:
        netlink = Netlink({1: VfConfig(node_guid=KEPT, port_guid=KEPT, link_state="auto")})
        made.host.vf_configs = VfConfigs(lambda: netlink, str(tmp_path / "sys"))  # type: ignore[arg-type, return-value]
        yield made


def left(node: Node, *, ago: float = 1.0, **changes: object) -> Record:
    """Write the record of a try that ended so many seconds ago."""
    facts = {"committed": False, "result": {AWAITS_PORT: time.time() - ago}, "port_guid": KEPT, "node_guid": KEPT}
    return node.record(VF, **{**facts, **changes})  # type: ignore[arg-type]


def request(record: Record) -> Request:
    return Request(
        command="DEL",
        args={},
        conf={"name": "ib", "deviceID": str(VF)},
        version="1.1.0",
        environ={},
        container_id=record.key.container_id,
        ifname="net1",
    )


def failed(node: Node, **changes: object) -> Record:
    """Write the record of an ADD whose port is not ACTIVE in time: the VF has the GUID that it has set."""
    had = dict.fromkeys(("had_node_guid", "had_port_guid", "had_config_node_guid", "had_config_port_guid"), ZERO)
    facts = {"committed": False, "result": {}, "port_guid": KEPT, "node_guid": KEPT, "rdma_isolation": False}
    names = {"had_netdev": NETDEV.name, "had_altnames": (), "had_rdma": "mlx5_2", "had_char_devices": DEVICES}
    return node.record(VF, **{**facts, **had, **names, **changes})  # type: ignore[arg-type]


def undone(node: Node, record: Record) -> bool:
    asked = request(record)
    return undo_but_keep_identity(node.host, record, asked, parse_netconf(asked))


def test_undoing_rebinds_nothing_and_notes_what_the_vf_had(node: Node) -> None:
    """A rebind would start the subnet manager's work anew."""
    record = failed(node)
    assert undone(node, record)
    assert (node.tree.driver("mlx5_core") / "unbind").read_text() == ""
    kept = node.host.records.read(record.key)
    assert kept is not None
    assert kept.undone_at is not None
    assert replace(kept, result={}) == record
    assert find_kept_identity(node.host, VF) == kept


def test_a_vf_that_cannot_be_returned_keeps_nothing(node: Node) -> None:
    node.unbind(VF)  # and no driver takes it: this sysfs is a made one
    record = failed(node)
    assert not undone(node, record)
    assert node.host.records.read(record.key) == record


@pytest.mark.parametrize(
    ("is_slow", "sets_guid", "link_state", "kept"),
    [(True, True, "", True), (True, False, "auto", True), (True, False, "", False), (False, True, "auto", False)],
)
def test_what_is_kept_for_the_next_try(is_slow: bool, sets_guid: bool, link_state: str, kept: bool) -> None:
    """Nothing if another try cannot help, or if nothing was set."""
    fault, record = PortNotReady("port 1 is INIT"), replace(RECORD, sets_guid=sets_guid, link_state=link_state)
    fault.is_slow = is_slow
    assert is_only_slow(fault, record) is kept
    assert not is_only_slow(VerificationFailed("port 1 has another GUID"), record)


def test_the_next_record_has_what_the_vf_had_before_the_first_try() -> None:
    first = replace(RECORD, had_port_guid=ZERO, had_link_state="disable", had_netdev="ib7", link_state="auto")
    second = replace(RECORD, had_port_guid=KEPT, had_link_state="auto", had_char_devices=("uverbs9",), pod="train/next")
    third = continue_record(second, first)
    assert (third.had_port_guid, third.had_link_state, third.had_netdev) == (ZERO, "disable", "ib7")
    assert (third.link_state, third.had_char_devices, third.pod) == ("auto", ("uverbs9",), "train/next")
    assert continue_record(replace(second, link_state="enable"), first).link_state == "enable"


def test_the_next_add_takes_it_over(node: Node) -> None:
    record = left(node)
    assert find_kept_identity(node.host, VF) == record
    assert node.host.ownership.read_owner(VF) == record.key


def test_a_del_that_answers_the_failed_add_leaves_it(node: Node) -> None:
    record = left(node)
    asked = request(record)
    delete(node.host, asked, parse_netconf(asked))
    assert node.host.records.read(record.key) == record
    assert node.host.ownership.read_owner(VF) == record.key


@pytest.mark.parametrize("ago", [RETRY_SECONDS + 1, -60.0])
def test_a_later_del_releases_it(node: Node, ago: float) -> None:
    """So does one after the clock was set back. Restored are no devices here: the record is from another boot."""
    record = left(node, ago=ago, boot_id="another")
    asked = request(record)
    delete(node.host, asked, parse_netconf(asked))
    assert node.host.records.read(record.key) is None


def test_a_vf_with_another_guid_by_now_is_not_taken_over(node: Node) -> None:
    left(node, port_guid=WANTED)
    assert find_kept_identity(node.host, VF) is None


def test_one_from_another_boot_is_not_taken_over(node: Node) -> None:
    left(node, boot_id="another")
    assert find_kept_identity(node.host, VF) is None


# ---- the plan of the next ADD

EARLIER = replace(
    RECORD,
    result={AWAITS_PORT: 1.5},
    had_node_guid=ZERO,
    had_port_guid=ZERO,
    had_link_state="disable",
    node_guid=HAS,
    port_guid=HAS,
    link_state="auto",
)
TAKEN_OVER = replace(FACTS, earlier=EARLIER, configs={1: config(HAS, "auto")})


def decided(plan: Plan) -> tuple[Guid, bool, bool, bool, str]:
    return plan.port_guid, plan.sets_guid, plan.writes_guid, plan.needs_rebind, plan.link_state


def test_the_same_guid_is_neither_set_nor_needs_a_rebind() -> None:
    """Yet DEL will restore what the VF had before the first try."""
    assert decided(plan_add(conf(guid=str(HAS)), TAKEN_OVER)) == (HAS, True, False, False, "")


def test_another_guid_is_set() -> None:
    assert decided(plan_add(conf(guid=str(WANTED)), TAKEN_OVER)) == (WANTED, True, True, True, "")


def test_without_a_request_the_guid_of_the_pod_before_is_not_kept() -> None:
    plan = plan_add(conf(), TAKEN_OVER)
    assert plan.origin == "derived"
    assert decided(plan) == (Guid.parse("ba:59:9f:00:02:d1:c2:b4"), True, True, True, "")
    derived = replace(EARLIER, node_guid=plan.node_guid, port_guid=plan.port_guid)
    again = replace(
        TAKEN_OVER, earlier=derived, rdma=replace(FACTS.rdma, node_guid=plan.node_guid, port_guid=plan.port_guid)
    )
    assert decided(plan_add(conf(), again)) == (plan.port_guid, True, False, False, "")


def test_a_vf_that_had_a_guid_of_its_own_gets_it_back() -> None:
    facts = replace(TAKEN_OVER, earlier=replace(EARLIER, had_node_guid=WANTED, had_port_guid=WANTED))
    plan = plan_add(conf(), facts)
    assert plan.origin == "kept"
    assert decided(plan) == (WANTED, True, True, True, "")


@pytest.mark.parametrize(
    ("wanted", "had", "found", "planned"),
    [("", "disable", "auto", ""), ("", "auto", "enable", "auto"), ("enable", "auto", "enable", ""), ("", "", "", "")],
)
def test_the_link_state_of_before_decides(wanted: str, had: str, found: str, planned: str) -> None:
    facts = replace(TAKEN_OVER, earlier=replace(EARLIER, had_link_state=had), configs={1: config(HAS, found)})
    assert plan_add(conf(link_state=wanted), facts).link_state == planned
