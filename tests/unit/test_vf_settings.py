"""The PF's settings of its VFs: in OFED's files, on a fake tree (kernel 4.19 with OFED), and in a netlink message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ib_sriov_cni.core.errors import KernelRefused
from ib_sriov_cni.core.values import Guid, Link, PciAddress, VfConfig, VfFunction
from ib_sriov_cni.kernel import netlink_messages as m
from ib_sriov_cni.kernel.rtnetlink import vf_configs
from ib_sriov_cni.kernel.vf_settings import VfConfigs
from tests.unit.trees import link_of_pf

PF, VF = PciAddress("0000:3b:00.0"), PciAddress("0000:3b:00.3")
FUNCTION = VfFunction(pci=VF, pf=PF, index=2, driver="mlx5_core", pf_driver="mlx5_core", pf_netdev="ib0")
LINK = link_of_pf("ib0", 4)
GUID = Guid.parse("02:11:22:33:44:55:66:77")


class Netlink:
    """Kernel 4.19: it accepts settings but reports none of them."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def read_pf(self, pf_netdev: str, pf_index: int, *, only: int | None = None) -> tuple[Link, dict[int, VfConfig]]:
        self.calls.append(f"read {pf_netdev} {pf_index}" + ("" if only is None else f" VF {only}"))
        return LINK, {2: VfConfig(link_state="auto")}

    def set_vf_node_guid(self, vf: VfFunction, guid: Guid) -> None:
        self.calls.append(f"node {vf.pf_netdev} {vf.index} {guid}")


@pytest.fixture
def netlink() -> Netlink:
    return Netlink()


@pytest.fixture
def ofed(tmp_path: Path) -> Path:
    folder = tmp_path / f"bus/pci/devices/{PF}/sriov/2"
    folder.mkdir(parents=True)
    (folder / "node").write_text("00:00:00:00:00:00:00:00\n")
    (folder / "port").write_text(f"{GUID}\n")
    (folder / "policy").write_text("Follow\n")
    return folder


def configs(root: Path, netlink: Netlink) -> VfConfigs:
    return VfConfigs(lambda: netlink, str(root))  # type: ignore[arg-type, return-value]  # only the rtnetlink calls that are needed


def test_files_are_read_where_they_are(tmp_path: Path, ofed: Path, netlink: Netlink) -> None:
    link, found = configs(tmp_path, netlink).read(FUNCTION)
    assert link is LINK
    assert found == {2: VfConfig(node_guid=Guid(0), port_guid=GUID, link_state="auto")}


def test_one_vf_is_read_alone(tmp_path: Path, ofed: Path, netlink: Netlink) -> None:
    """With 127 VFs, the other 126 need not be read."""
    (ofed.parent / "3").mkdir()
    assert list(configs(tmp_path, netlink).read(FUNCTION)[1]) == [2, 3]
    assert list(configs(tmp_path, netlink).read(FUNCTION, alone=True)[1]) == [2]
    assert netlink.calls == ["read ib0 0", "read ib0 0 VF 2"]
    ofed.rename(ofed.parent / "4")
    assert configs(tmp_path, netlink).read(FUNCTION, alone=True)[1] == {}


def pf_link(*indices: int) -> Any:
    """A PF's link as the kernel reports it, with these VFs in this order; a node GUID is 0x500 plus the VF index."""
    message = m.linkmsg()
    infos = [
        (
            "IFLA_VF_INFO",
            {
                "attrs": [
                    ("IFLA_VF_LINK_STATE", {"vf": index, "number": 1}),
                    ("IFLA_VF_IB_NODE_GUID", {"vf": index, "guid": 0x500 + index}),
                ]
            },
        )
        for index in indices
    ]
    message["attrs"] = [("IFLA_IFNAME", "ib0"), ("IFLA_VFINFO_LIST", {"attrs": infos})]
    message.encode()
    answer = m.linkmsg(bytes(message.data))
    answer.decode()
    return answer


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2,), (7, 2)])
def test_one_vf_of_a_message_is_decoded(order: tuple[int, ...]) -> None:
    wanted = VfConfig(node_guid=Guid(0x502), port_guid=None, link_state="enable")
    assert vf_configs(pf_link(*order), 2) == {2: wanted}
    assert vf_configs(pf_link(*order), None)[2] == wanted
    assert sorted(vf_configs(pf_link(*order), None)) == sorted(order)


def test_a_guid_that_is_not_reported_is_unknown_and_not_zero(tmp_path: Path, ofed: Path, netlink: Netlink) -> None:
    assert vf_configs(pf_link(2), 2)[2].port_guid is None
    (ofed / "node").unlink()
    (ofed / "port").write_text("?")
    assert configs(tmp_path, netlink).read(FUNCTION)[1] == {2: VfConfig(link_state="auto")}


def test_a_vf_that_the_pf_does_not_tell_of() -> None:
    assert vf_configs(pf_link(0, 1), 2) == {}
    assert vf_configs(pf_link(0, 1, 3), 2) == {}
    assert vf_configs(pf_link(), 0) == {}


@pytest.mark.parametrize(("state", "policy"), [("auto", "Follow"), ("enable", "Up"), ("disable", "Down")])
def test_link_state_is_a_policy(tmp_path: Path, ofed: Path, netlink: Netlink, state: str, policy: str) -> None:
    configs(tmp_path, netlink).set_link_state(FUNCTION, state)
    assert (ofed / "policy").read_text() == f"{policy}\n"
    assert netlink.calls == []


def test_guids_are_written_with_colons(tmp_path: Path, ofed: Path, netlink: Netlink) -> None:
    door = configs(tmp_path, netlink)
    door.set_node_guid(FUNCTION, GUID)
    door.set_port_guid(FUNCTION, Guid(0))
    assert (ofed / "node").read_text() == "02:11:22:33:44:55:66:77\n"
    assert (ofed / "port").read_text() == "00:00:00:00:00:00:00:00\n"


def test_without_files_netlink_serves(tmp_path: Path, netlink: Netlink) -> None:
    door = configs(tmp_path, netlink)
    door.set_node_guid(FUNCTION, GUID)
    assert netlink.calls == [f"node ib0 2 {GUID}"]
    assert door.read(FUNCTION)[1][2].link_state == "auto"


def test_a_refusal_names_operation_vf_and_file(tmp_path: Path, ofed: Path, netlink: Netlink) -> None:
    (ofed / "node").unlink()
    (ofed / "node").mkdir()
    with pytest.raises(KernelRefused) as refusal:
        configs(tmp_path, netlink).set_node_guid(FUNCTION, GUID)
    assert f"set node GUID {GUID} of VF 2 of PF ib0 ({ofed}/node)" in refusal.value.msg
