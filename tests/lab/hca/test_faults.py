"""The HCA's fault knobs and the module's life (the lab's own checks)."""

from __future__ import annotations

import threading

from tests.lab.commands import complaint, has_carrier, kernel_log, link, run, wait, write
from tests.lab.emulated_hca import DRIVERS, NO_GUID, Hca, load, unload
from tests.lab.hca.conftest import MakeHca
from tests.lab.vm import kernel_faults

GUID = "00:11:22:33:44:55:09:09"


def test_slow_probe_holds_bind_up(hca: Hca) -> None:
    hca.knob("probe_delay_ms", 700)
    assert hca.unbind(0) == "OK"
    binding = threading.Thread(target=hca.bind, args=(0,))
    binding.start()
    seen_without = 0
    while binding.is_alive():
        seen_without += not hca.netdevs(0)
    assert seen_without, "bind returned at once"
    assert hca.netdevs(0)


def test_late_devices(hca: Hca) -> None:
    hca.knob("late_ms", 1500)
    hca.rebind(0)
    assert (hca.driver(0), hca.netdevs(0), hca.rdma(0)) == ("ib_qib", [], None)
    assert wait(lambda: hca.netdevs(0) and hca.rdma(0))


def test_failing_probe(hca: Hca) -> None:
    hca.knob("fail_probe", 1)
    assert hca.rebind(0) == ("OK", "EIO")
    assert hca.driver(0) is None


def test_bind_after_a_failed_probe(hca: Hca) -> None:
    hca.knob("fail_probe", 1)
    hca.rebind(0)
    hca.knob("fail_probe", 0)
    assert hca.bind(0) == "OK"
    assert hca.netdevs(0)


def test_failing_guid(hca: Hca) -> None:
    hca.knob("fail_set_guid", 1)
    assert "Input/output error" in complaint(f"ip link set {hca.pf_netdev} vf 0 port_guid {GUID}")
    assert complaint(f"ip link set {hca.pf_netdev} vf 1 port_guid {GUID}") == ""


def test_failing_link_state(hca: Hca) -> None:
    hca.knob("fail_set_state", 1)
    hca.knob("fail_errno", 1)
    assert "not permitted" in complaint(f"ip link set {hca.pf_netdev} vf 0 state enable")
    assert hca.link_state(0) == "auto"


def test_ignored_guid(hca: Hca) -> None:
    hca.knob("ignore_guid", 1)
    hca.sets_guid(0, GUID)
    hca.rebind(0)
    assert hca.port_guid(0) == NO_GUID
    assert not link(hca.netdev(0))["address"].endswith(GUID)


def test_guid_taken_once_not_ignored(hca: Hca) -> None:
    hca.knob("ignore_guid", 1)
    hca.sets_guid(0, GUID)
    hca.rebind(0)
    hca.knob("ignore_guid", 0)
    hca.rebind(0)
    assert link(hca.netdev(0))["address"].endswith(GUID)


def test_no_netdev(hca: Hca) -> None:
    hca.knob("no_ipoib", 1)
    hca.rebind(0)
    assert hca.rdma(0)
    assert hca.netdevs(0) == []


def test_rdma_name_changes_on_rebind(hca: Hca) -> None:
    hca.knob("renumber", 1)
    before = hca.rdma(0)
    hca.rebind(0)
    assert hca.rdma(0) != before
    assert str(hca.rdma(0)).startswith("mlx5_")


def test_netdev_name_is_taken_on_rebind(hca: Hca) -> None:
    name = hca.netdev(0)
    assert hca.unbind(0) == "OK"
    run(["ip", "link", "add", name, "type", "dummy"])
    assert hca.bind(0) == "OK"
    assert hca.netdev(0) != name


def test_no_subnet_manager_no_carrier(make_hca: MakeHca) -> None:
    hca = make_hca(preset=True)
    hca.knob("sm_down", 1)
    netdev, before = hca.netdev(0), hca.packets_sent(0)
    run(["ip", "link", "set", "dev", netdev, "up"])
    # two questions asked: the first one went unanswered
    assert wait(lambda: hca.packets_sent(0) >= before + 2)
    assert not has_carrier(netdev)


def test_subnet_manager_returns(make_hca: MakeHca) -> None:
    hca = make_hca(preset=True)
    hca.knob("sm_down", 1)
    netdev, before = hca.netdev(0), hca.packets_sent(0)
    run(["ip", "link", "set", "dev", netdev, "up"])
    assert wait(lambda: hca.packets_sent(0) > before)
    hca.knob("sm_down", 0)
    assert wait(lambda: has_carrier(netdev), 60)


def test_pf_unbind_takes_the_vfs(hca: Hca) -> None:
    assert write(f"{DRIVERS}/ib_qib/unbind", hca.pf) == "OK"
    assert not (hca.pf_path / "virtfn0").exists()
    assert not (hca.pf_path / "net").exists()
    assert write(f"{DRIVERS}/ib_qib/bind", hca.pf) == "OK"
    assert hca.set_numvfs(3) == "OK"


def test_unload_leaves_nothing(hca: Hca) -> None:
    path = hca.pf_path
    unload()
    assert not path.exists()


def test_two_pfs(make_hca: MakeHca) -> None:
    first, second = make_hca(pfs=2, total_vfs=16, vfs=2).pfs
    assert (first.pf_netdev, second.pf_netdev) == ("eth100", "eth101")
    assert second.set_numvfs(0) == "OK"
    assert second.set_numvfs(16) == "OK"
    assert second.settled()
    assert second.rdma(15)


def test_preset_guids(make_hca: MakeHca) -> None:
    first, second = make_hca(pfs=2, vfs=2, preset=True).pfs
    assert first.node_guid(1) == "00:11:22:33:44:56:00:01"
    assert second.port_guid(1) == "00:11:22:33:44:56:01:01"


def test_preset_guids_of_ones_own() -> None:
    try:
        assert load(vfs=1, preset=0x0A0B0C0D0E0F1000).port_guid(0) == "0a:0b:0c:0d:0e:0f:10:00"
    finally:
        unload()


def test_kernel_log_is_clean() -> None:
    assert kernel_faults(kernel_log()) == []
