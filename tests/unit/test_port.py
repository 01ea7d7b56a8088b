"""The port as the RDMA device reports it: against the plan, its P_Keys, and why it is not ACTIVE."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ib_sriov_cni.attach.verify_rdma import verify_rdma
from ib_sriov_cni.core.comparison import child_differences, verify_pkey, verify_port
from ib_sriov_cni.core.errors import PortNotReady, VerificationFailed
from ib_sriov_cni.core.plan import needs_child, port_is_awaited
from ib_sriov_cni.core.values import Link, PortReport, VfConfig
from ib_sriov_cni.kernel.vf_settings import VfConfigs
from ipam.protocol.value import replace
from tests.unit.node import VFS, Node
from tests.unit.test_plan import HAS, KEPT, WANTED, ZERO, conf, netdev
from tests.unit.test_unreported_guids import Netlink
from tests.unit.trees import PF, write

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


@pytest.mark.parametrize("pkey", [None, "0x7fff", "0xffff", "0x0001", "0x8001"])
def test_a_port_as_planned(pkey: str | None) -> None:
    verify_port(REPORT, KEPT)
    verify_pkey(REPORT, conf(pkey=pkey))


def test_a_port_with_every_fault() -> None:
    report = replace(REPORT, link_layer="Ethernet", port_guid=ZERO, node_guid=WANTED)
    with pytest.raises(VerificationFailed) as caught:
        verify_port(report, KEPT)
    assert caught.value.msg == (
        "RDMA device mlx5_3 in the pod: its link layer is Ethernet, not InfiniBand; "
        f"its port GUID is {ZERO}, not {HAS}; its node GUID is {WANTED}, not {HAS}"
    )


def test_a_p_key_that_the_table_does_not_have() -> None:
    with pytest.raises(PortNotReady) as caught:
        verify_pkey(REPORT, conf(pkey="0x1234"))
    assert caught.value.msg == "RDMA device mlx5_3 in the pod: P_Key 0x1234 is not in its table (0xffff, 0x8001)"
    assert f"the partition needs this port's GUID, {HAS}" in caught.value.details


def test_an_empty_table_of_pkeys() -> None:
    with pytest.raises(VerificationFailed, match=r"not in its table \(empty\)"):
        verify_pkey(replace(REPORT, pkeys=(0, 0)), conf(pkey="0x7fff"))


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


class Answer:
    """The verifying process: what it reports, and what it was asked."""

    def __init__(self, report: PortReport) -> None:
        self.report = report
        self.asked: list[tuple[float, int | None]] = []

    def read_port(self, _device: str, *, wait: float, pkey: int | None) -> PortReport:
        self.asked.append((wait, pkey))
        return self.report


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    with made.host:
        yield made


def verify(node: Node, state: str, *, pf_state: str = "", link_state: str = "auto", **members: object) -> Answer:
    """Verify the port of VF 1 in that state."""
    netlink = Netlink({1: VfConfig(link_state=link_state)})
    node.host.vf_configs = VfConfigs(lambda: netlink, str(node.root / "sys"))  # type: ignore[arg-type, return-value]
    if pf_state:
        write(node.tree.device(PF) / "infiniband/mlx5_0/ports/1/state", f"4: {pf_state}\n")
    answer = Answer(replace(REPORT, state=state))
    verify_rdma(node.host, conf(**members), KEPT, answer, pci=VFS[1], rdma="mlx5_3")  # type: ignore[arg-type]
    return answer


def test_what_is_waited_for(node: Node) -> None:
    assert verify(node, "ACTIVE", pkey="0x8001", portTimeout=7).asked == [(7.0, 0x8001)]
    assert verify(node, "DOWN", portTimeout=0).asked == [(0.0, None)]
    assert port_is_awaited(conf(link_state="disable")) is False


@pytest.mark.parametrize(
    ("state", "pf_state", "link_state", "cause", "is_slow"),
    [
        ("DOWN", "ACTIVE", "disable", "the PF has link state disable for this VF", False),
        ("DOWN", "DOWN", "auto", "the PF's own port is DOWN: check cable", True),
        ("DOWN", "INIT", "auto", "no subnet manager has configured it", True),
        ("DOWN", "ACTIVE", "auto", "opensm of Linux distributions cannot do it for ConnectX-4", True),
        ("DOWN", "", "", "ask whoever has the PF", True),
        ("INIT", "INIT", "auto", "the PF's own port is INIT", True),
        ("INIT", "ACTIVE", "auto", "a slow one needs a longer portTimeout", True),
        ("ARMED", "ACTIVE", "auto", "the subnet manager is configuring the port", True),
        ("NOP", "ACTIVE", "auto", "see the subnet manager's log", True),
    ],
)
def test_why_a_port_is_not_active(
    node: Node, state: str, pf_state: str, link_state: str, cause: str, is_slow: bool
) -> None:
    with pytest.raises(PortNotReady) as caught:
        verify(node, state, pf_state=pf_state, link_state=link_state, portTimeout=2.5)
    pf = f", the PF's port is {pf_state}" if pf_state else ""
    assert caught.value.msg == (
        f"RDMA device mlx5_3: port 1 is {state} after 2.5 s (LID 5, subnet manager's LID 1{pf})"
    )
    assert cause in caught.value.details
    assert caught.value.is_slow is is_slow
