"""The port as the RDMA device reports it: against the plan, its P_Keys, and why it is not ACTIVE."""

from __future__ import annotations

import pytest

from ib_sriov_cni.core.comparison import child_differences, verify_active, verify_port
from ib_sriov_cni.core.errors import VerificationFailed
from ib_sriov_cni.core.plan import Plan, needs_child, port_is_awaited
from ib_sriov_cni.core.values import Link, PortReport
from ipam.protocol.value import replace
from tests.unit.test_plan import HAS, WANTED, ZERO, conf, netdev

# ---- what the RDMA device reports

REPORT = PortReport(
    device="mlx5_3",
    node_guid=HAS,
    port_guid=HAS,
    link_layer="InfiniBand",
    state="ACTIVE",
    lid=5,
    sm_lid=1,
    pkeys=(0xFFFF, 0x8001, 0),
)
KEPT = Plan(
    port_guid=HAS, node_guid=HAS, origin="kept", sets_guid=False, needs_rebind=False, link_state="", moves_rdma=False
)


@pytest.mark.parametrize("pkey", [None, "0x7fff", "0xffff", "0x0001", "0x8001"])
def test_a_port_as_planned(pkey: str | None) -> None:
    verify_port(REPORT, KEPT, conf(pkey=pkey))


def test_a_port_with_every_fault() -> None:
    report = replace(REPORT, link_layer="Ethernet", port_guid=ZERO, node_guid=WANTED)
    with pytest.raises(VerificationFailed) as caught:
        verify_port(report, KEPT, conf(pkey="0x1234"))
    assert caught.value.msg == (
        "RDMA device mlx5_3 in the pod: its link layer is Ethernet, not InfiniBand; "
        f"its port GUID is {ZERO}, not {HAS}; its node GUID is {WANTED}, not {HAS}; "
        "P_Key 0x1234 is not in its table (0xffff, 0x8001): the subnet manager must add it"
    )


def test_an_empty_table_of_pkeys() -> None:
    with pytest.raises(VerificationFailed, match=r"not in its table \(empty\)"):
        verify_port(replace(REPORT, pkeys=(0, 0)), KEPT, conf(pkey="0x7fff"))


@pytest.mark.parametrize(("pkey", "needs"), [(0x7FFF, False), (0xFFFF, False), (0x8001, True), (0x0001, True)])
def test_which_p_key_needs_a_child(pkey: int, needs: bool) -> None:
    """The VF's own netdev uses the P_Key at index 0, whatever the membership."""
    assert needs_child(REPORT, pkey) is needs


def child_of(pkey: int, lower: int = 7) -> Link:
    """`net1` with the broadcast address of RFC 4391, section 4."""
    broadcast = bytes.fromhex("00ffffffff12401b") + pkey.to_bytes(2, "big") + bytes.fromhex("000000000000ffffffff")
    return replace(netdev(name="net1"), index=3, lower=lower, broadcast=broadcast)


def test_the_interface_of_a_p_key() -> None:
    """C15. Full and limited members belong to the same partition."""
    parent = netdev(name="net1-ib")
    assert child_of(0x8001).pkey == 0x8001
    assert netdev().pkey is None
    assert child_differences(child_of(0x8001), parent, 0x8001) == []
    assert child_differences(child_of(0x8001), parent, 0x0001) == []
    assert child_differences(child_of(0x8001), None, 0x8001) == []
    other = ["interface net1 is not the VF's child with P_Key 0x8001"]
    assert child_differences(child_of(0x8002), parent, 0x8001) == other
    assert child_differences(child_of(0x8001, lower=0), parent, 0x8001) == other
    assert child_differences(child_of(0x8001, lower=8), parent, 0x8001) == other
    down = replace(parent, flags=0)
    assert child_differences(child_of(0x8001), down, 0x8001) == ["interface net1-ib is down, which net1 needs"]


@pytest.mark.parametrize(
    ("seconds", "state", "awaited"), [(10, "auto", True), (10, "", True), (10, "disable", False), (0, "enable", False)]
)
def test_when_the_port_is_awaited(seconds: int, state: str, awaited: bool) -> None:
    assert port_is_awaited(conf(portTimeout=seconds, link_state=state)) is awaited


def test_an_active_port_or_one_nobody_waited_for() -> None:
    verify_active(REPORT, conf(), waited=True)
    verify_active(replace(REPORT, state="DOWN"), conf(), waited=False)


@pytest.mark.parametrize(
    ("state", "cause"),
    [("DOWN", "link_state disable"), ("INIT", "no subnet manager"), ("ARMED", "longer portTimeout"), ("NOP", "log")],
)
def test_a_port_that_did_not_come_up(state: str, cause: str) -> None:
    with pytest.raises(VerificationFailed) as caught:
        verify_active(replace(REPORT, state=state), conf(portTimeout=2.5), waited=True)
    assert caught.value.msg == (f"RDMA device mlx5_3: port 1 is {state} after 2.5 s (LID 5, subnet manager's LID 1)")
    assert cause in caught.value.details
