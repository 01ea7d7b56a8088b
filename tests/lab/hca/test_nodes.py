"""The knobs for what nodes in the field do (the lab's own checks)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.lab.commands import complaint, has_carrier, link, names, read, run, wait, write
from tests.lab.emulated_hca import DEVICES, DRIVERS, KNOBS, NO_GUID, Hca
from tests.lab.hca.conftest import MakeHca

GUID = "00:11:22:33:44:55:0a:0a"
DISABLE = 2
HOUR_MS = 3600000


def test_vfs_whose_link_state_starts_as_disable(make_hca: MakeHca) -> None:
    """As a ConnectX's VFs may: GUIDs do not help, only the PF's link state does."""
    hca = make_hca(preset=True, vf_state=DISABLE)
    assert {hca.link_state(vf) for vf in range(4)} == {"disable"}
    assert {hca.port_state(vf) for vf in range(4)} == {"DOWN"}
    hca.rebind(0)
    assert hca.port_state(0) == "DOWN"
    for vf, state in enumerate(("auto", "enable")):
        run(["ip", "link", "set", "dev", hca.pf_netdev, "vf", str(vf), "state", state])
        assert hca.port_state(vf) == "ACTIVE"
        run(["ip", "link", "set", "dev", hca.netdev(vf), "up"])
        assert wait(partial(has_carrier, hca.netdev(vf)))
    assert hca.port_state(2) == "DOWN"


def test_pf_refuses_guid_zero(hca: Hca) -> None:
    hca.knob("refuse_zero_guid", 1 << 1)
    hca.sets_guid(1, GUID)
    for kind in ("node_guid", "port_guid"):
        assert "Invalid argument" in complaint(f"ip link set {hca.pf_netdev} vf 1 {kind} {NO_GUID}")
    assert hca.guids_at_pf(1) == (GUID, GUID)
    hca.sets_guid(0, NO_GUID)


def test_pf_does_not_answer_which_guids(make_hca: MakeHca) -> None:
    """The VFs are listed with everything else, and setting works."""
    hca = make_hca(preset=True)
    hca.knob("no_guid_readback", 1)
    assert not {"node guid", "port guid"} & set(hca.vf_info(0))
    assert hca.link_state(0) == "auto"
    hca.sets_guid(0, GUID)
    hca.rebind(0)
    assert hca.port_guid(0) == GUID


def test_pf_leaves_vfs_out_of_its_list(hca: Hca) -> None:
    """The others are listed; what is set for one that is not still arrives."""
    hca.knob("unlisted_vfs", 0b0101)
    assert hca.listed_vfs() == [1, 3]
    hca.sets_guid(0, GUID)
    hca.rebind(0)
    assert hca.port_guid(0) == GUID
    hca.knob("unlisted_vfs", 0b1111)
    assert hca.listed_vfs() == []


def test_rename_of_an_rdma_device_is_refused(hca: Hca) -> None:
    name = hca.rdma(0)
    hca.knob("refuse_rdma_rename", 22)
    assert "Invalid argument" in complaint(f"rdma dev set {name} name other")
    assert hca.rdma(0) == name
    hca.knob("refuse_rdma_rename", 16)
    assert "busy" in complaint(f"rdma dev set {name} name other")
    hca.knob("refuse_rdma_rename", 0)
    run(f"rdma dev set {name} name other")
    assert hca.rdma(0) == "other"


def test_slow_subnet_manager(make_hca: MakeHca) -> None:
    """A port waits for it after a bind, and after the PF has taken the link away; the others stay as they are."""
    hca = make_hca(preset=True)
    hca.knob("sm_delay_ms", HOUR_MS)
    hca.rebind(0)
    run(["ip", "link", "set", "dev", hca.netdev(0), "up"])
    run(f"ip link set {hca.pf_netdev} vf 1 state disable; ip link set {hca.pf_netdev} vf 1 state enable")
    assert [hca.port_state(vf) for vf in range(3)] == ["INIT", "INIT", "ACTIVE"]
    assert (hca.port(0, "lid"), hca.port(0, "sm_lid"), hca.port(0, "phys_state")) == ("0xffff", "0x0", "5: LinkUp")
    assert not has_carrier(hca.netdev(0))
    hca.knob("sm_delay_ms", 0)
    assert wait(lambda: [hca.port_state(vf) for vf in range(2)] == ["ACTIVE", "ACTIVE"])
    assert (hca.port(0, "lid"), hca.port(0, "sm_lid")) == ("0x3", "0x1")
    assert wait(lambda: has_carrier(hca.netdev(0)))


def test_subnet_manager_that_catches_up(make_hca: MakeHca) -> None:
    hca = make_hca(preset=True, sm_delay_ms=300)
    run(["ip", "link", "set", "dev", hca.netdev(0), "up"])
    assert wait(lambda: hca.port_state(0) == "ACTIVE" and has_carrier(hca.netdev(0)))


def test_late_p_key(make_hca: MakeHca) -> None:
    hca = make_hca(preset=True, pkeys="0:ffff,8001")
    hca.knob("pkey_delay_ms", HOUR_MS)
    hca.rebind(0)
    assert hca.port_state(0) == "ACTIVE"
    assert (hca.port(0, "pkeys/0"), hca.port(0, "pkeys/1")) == ("0xffff", "0x0000")
    hca.knob("pkey_delay_ms", 0)
    assert wait(lambda: hca.port(0, "pkeys/1") == "0x8001")


@pytest.mark.parametrize(("value", "state"), [(1, "DOWN"), (2, "INIT")])
def test_subnet_manager_without_virtualization(make_hca: MakeHca, value: int, state: str) -> None:
    hca = make_hca(preset=True)
    run(["ip", "link", "set", "dev", hca.netdev(0), "up"])
    assert wait(lambda: has_carrier(hca.netdev(0)))
    hca.knob("sm_ignores_vfs", value)
    assert (hca.port_state(0), hca.port(0, "lid")) == (state, "0xffff")
    assert read(f"/sys/class/infiniband/{hca.pf_rdma}/ports/1/state") == "4: ACTIVE"
    assert wait(lambda: not has_carrier(hca.netdev(0)))
    hca.rebind(1)
    run(["ip", "link", "set", "dev", hca.pf_netdev, "vf", "1", "state", "enable"])
    assert hca.port_state(1) == state
    hca.knob("sm_ignores_vfs", 0)
    assert hca.port_state(1) == "ACTIVE"
    assert wait(lambda: has_carrier(hca.netdev(0)))


@pytest.mark.parametrize(("group", "mtu"), [(1024, 1020), (4096, 4092)])
def test_mtu_of_the_broadcast_group(make_hca: MakeHca, group: int, mtu: int) -> None:
    """IPoIB starts with the port's MTU, and falls to the group's when it joins."""
    hca = make_hca(preset=True, pf_name=None, mcast_mtu=group)
    netdev = hca.netdev(0)
    assert link(netdev)["mtu"] == 4092
    run(["ip", "link", "set", "dev", netdev, "up"])
    assert wait(lambda: has_carrier(netdev))
    assert wait(lambda: link(netdev)["mtu"] == mtu)


def test_netdev_is_lost_until_the_next_bind(hca: Hca) -> None:
    hca.knob("lose_netdev", 1)
    hca.rebind(0)
    assert (hca.netdevs(0), bool(hca.rdma(0))) == ([], True)
    hca.rebind(0)
    assert hca.settled()


def test_devices_are_lost_until_the_next_bind(hca: Hca) -> None:
    hca.knob("lose_rdma", 1)
    hca.rebind(0)
    assert (hca.driver(0), hca.netdevs(0), hca.rdma(0)) == ("ib_qib", [], None)
    hca.rebind(0)
    assert hca.settled()


def test_ethernet(hca: Hca) -> None:
    hca.knob("ethernet", 1)
    hca.sets_guid(0, GUID)
    hca.rebind(0)
    assert hca.port(0, "link_layer") == "Ethernet"
    assert hca.port_state(0) == "ACTIVE"
    assert hca.netdevs(0) == []
    assert hca.uverbs(0)
    hca.knob("ethernet", 0)
    hca.rebind(0)
    assert hca.port(0, "link_layer") == "InfiniBand"
    assert hca.settled()


def test_functions_without_a_pf(make_hca: MakeHca) -> None:
    """As the machine of a cloud has them: both devices, a GUID, and no way to set one."""
    hca = make_hca(no_physfn=2)
    assert [hca.plain(number) for number in range(2)] == ["0001:00:1f.0", "0001:00:1e.0"]
    for number in range(2):
        path = Path(DEVICES, hca.plain(number))
        assert not (path / "physfn").exists()
        assert not (path / "sriov_totalvfs").exists()
        (netdev,), (name,) = names(path / "net"), names(path / "infiniband")
        assert read(f"/sys/class/infiniband/{name}/ports/1/state") == "4: ACTIVE"
        assert link(netdev)["address"].endswith(f":{0xF8 - 8 * number:02x}")
        run(["ip", "link", "set", "dev", netdev, "up"])
        assert wait(partial(has_carrier, netdev))
    assert write(f"{DRIVERS}/ib_qib/unbind", hca.plain(0)) == "OK"
    assert write(f"{DRIVERS}/ib_qib/bind", hca.plain(0)) == "OK"
    assert hca.numvfs == 4


def test_two_ports(make_hca: MakeHca) -> None:
    hca = make_hca(preset=True, ports=2)
    by_port = {read(f"/sys/class/net/{each}/dev_port"): each for each in hca.netdevs(0)}
    assert sorted(by_port) == ["0", "1"]
    assert (hca.port_state(0), hca.port(0, "state", port=2)) == ("ACTIVE", "1: DOWN")
    assert hca.port(0, "gids/0") != hca.port(0, "gids/0", port=2)
    run(f"ip link set {by_port['0']} up; ip link set {by_port['1']} up")
    assert wait(lambda: has_carrier(by_port["0"]))
    assert not has_carrier(by_port["1"])


def test_reads_are_counted(hca: Hca) -> None:
    """One for each VF of the list; `ip` asks for the list more than once."""

    def reads_of_a_look() -> int:
        hca.knob("vf_reads", 0)
        run(["ip", "link", "show", "dev", hca.pf_netdev])
        return int(read(f"{KNOBS}/vf_reads"))

    count = reads_of_a_look()
    assert count
    assert count % 4 == 0
    assert reads_of_a_look() == count
    assert hca.set_numvfs(0) == "OK"
    assert reads_of_a_look() == 0
