"""The emulated HCA's RDMA devices and netdevs: GUIDs, link states (the lab's own checks)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.commands import complaint, has_carrier, link, output, read, read_json, run, wait
from tests.lab.emulated_hca import NO_GUID, Hca, load, unload

NODE = "00:11:22:33:44:55:00:a0"
PORT = "00:11:22:33:44:55:00:b0"


def guid(vf: int) -> str:
    return f"00:11:22:33:44:55:02:{vf:02x}"


@pytest.fixture(scope="module")
def hca() -> Iterator[Hca]:
    """An HCA whose names are all the drivers' own; every test here uses a VF of its own, or restores it."""
    yield load(pf_name=None, prefix="ibemu_", vfs=8)
    unload()


@pytest.fixture(scope="module")
def guided(hca: Hca) -> int:
    """A VF that got GUIDs and was bound again; its netdev is up."""
    vf = 0
    pf = hca.pf_netdev
    run(f"ip link set {pf} vf {vf} node_guid {NODE}; ip link set {pf} vf {vf} port_guid {PORT}")
    assert hca.rebind(vf) == ("OK", "OK")
    run(["ip", "link", "set", "dev", hca.netdev(vf), "up"])
    return vf


def test_pf_has_both_devices(hca: Hca) -> None:
    assert (hca.pf_netdev, hca.pf_rdma) == ("ib0", "ibemu_0")


@pytest.mark.parametrize("vf", range(4))
def test_vf_has_both_devices(hca: Hca, vf: int) -> None:
    assert hca.netdev(vf) == f"ib{vf + 1}"
    assert hca.rdma(vf) == f"ibemu_{vf + 1}"


def test_link_layer(hca: Hca) -> None:
    assert read(f"/sys/class/infiniband/{hca.rdma(1)}/ports/1/link_layer") == "InfiniBand"


def test_netdev_type(hca: Hca) -> None:
    assert read(f"/sys/class/net/{hca.netdev(1)}/type") == "32"


def test_fresh_guids_are_zero(hca: Hca) -> None:
    assert hca.node_guid(1) == NO_GUID
    assert hca.port_guid(1) == NO_GUID
    assert read(f"/sys/class/infiniband/{hca.rdma(1)}/ports/1/gids/0").startswith("fe80:0000:0000:0000:")


def test_port_without_guid_is_down(hca: Hca) -> None:
    assert hca.port_state(1) == "DOWN"


def test_pf_lists_its_vfs(hca: Hca) -> None:
    shown = read_json(["ip", "-j", "link", "show", "dev", hca.pf_netdev])[0]["vfinfo_list"]
    assert [each["vf"] for each in shown] == list(range(8))


def test_guids_read_back_at_the_pf(hca: Hca, guided: int) -> None:
    assert hca.guids_at_pf(guided) == (NODE, PORT)


def test_guids_read_back_as_text(hca: Hca, guided: int) -> None:
    shown = output(["ip", "link", "show", "dev", hca.pf_netdev]).lower()
    assert NODE in shown
    assert PORT in shown


def test_bound_vf_keeps_its_guid(hca: Hca) -> None:
    hca.sets_guid(2, guid(2))
    assert hca.guids_at_pf(2) == (guid(2), guid(2))
    assert hca.node_guid(2) == NO_GUID


def test_rebind(hca: Hca) -> None:
    before = link(hca.netdev(3))["ifindex"]
    assert hca.rebind(3) == ("OK", "OK")
    assert link(hca.netdev(3))["ifindex"] != before


def test_rebind_takes_the_guids(hca: Hca, guided: int) -> None:
    assert hca.node_guid(guided) == NODE
    assert hca.port_guid(guided) == PORT


def test_port_guid_ends_the_hardware_address(hca: Hca, guided: int) -> None:
    assert link(hca.netdev(guided))["address"].endswith(PORT)


def test_port_with_guid_is_active(hca: Hca, guided: int) -> None:
    assert hca.port_state(guided) == "ACTIVE"


def test_carrier(hca: Hca, guided: int) -> None:
    assert wait(lambda: has_carrier(hca.netdev(guided)))


def test_link_state_acts_at_once(hca: Hca, guided: int) -> None:
    netdev, pf = hca.netdev(guided), hca.pf_netdev
    assert wait(lambda: has_carrier(netdev))
    try:
        run(f"ip link set {pf} vf {guided} state disable")
        assert hca.link_state(guided) == "disable"
        assert hca.port_state(guided) == "DOWN"
        assert wait(lambda: not has_carrier(netdev)), "carrier although the VF is disabled"
        run(f"ip link set {pf} vf {guided} state enable")
        assert wait(lambda: has_carrier(netdev)), "no carrier although the VF is enabled again"
        assert hca.port_state(guided) == "ACTIVE"
    finally:
        run(f"ip link set {pf} vf {guided} state auto")


@pytest.mark.parametrize("word", ["trust on", "spoofchk on", "max_tx_rate 100", "vlan 5"])
def test_pf_refuses_what_ethernet_has(hca: Hca, word: str) -> None:
    assert "not supported" in complaint(f"ip link set {hca.pf_netdev} vf 0 {word}")


def test_pf_refuses_a_mac(hca: Hca) -> None:
    assert "must be 20 bytes" in complaint(f"ip link set {hca.pf_netdev} vf 0 mac 00:11:22:33:44:55")


def test_vf_index_out_of_range(hca: Hca) -> None:
    assert "Invalid argument" in complaint(f"ip link set {hca.pf_netdev} vf 9 state enable")


def test_vf_words_on_a_vfs_netdev(hca: Hca) -> None:
    assert "not supported" in complaint(f"ip link set {hca.netdev(4)} vf 0 state enable")


@pytest.mark.parametrize("odd", [NO_GUID, "ff:ff:ff:ff:ff:ff:ff:ff"])
def test_kernel_takes_odd_guids(hca: Hca, odd: str) -> None:
    hca.sets_guid(4, odd)
    assert hca.guids_at_pf(4) == (odd, odd)


def test_guid_of_an_unbound_vf(hca: Hca) -> None:
    assert hca.unbind(5) == "OK"
    hca.sets_guid(5, guid(5))
    assert hca.bind(5) == "OK"
    assert hca.node_guid(5) == guid(5)


def test_all_vfs_with_guids(hca: Hca) -> None:
    for vf in range(4, 8):
        hca.sets_guid(vf, guid(vf))
        assert hca.rebind(vf) == ("OK", "OK")
    assert [hca.node_guid(vf) for vf in range(4, 8)] == [guid(vf) for vf in range(4, 8)]


def test_pf_keeps_guids_without_vfs(hca: Hca) -> None:
    """The last test here: it takes all VFs away for a moment."""
    hca.sets_guid(6, guid(6))
    assert hca.set_numvfs(0) == "OK"
    assert hca.set_numvfs(8) == "OK"
    assert hca.settled()
    assert hca.node_guid(6) == guid(6)
