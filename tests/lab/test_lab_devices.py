"""The emulated HCA: devices, GUIDs, link states (the lab's own facts, issue 3)."""

from __future__ import annotations

from tests.lab.conftest import MakeHca
from tests.lab.hca import Hca


def test_fixture_defaults(hca: Hca) -> None:
    assert hca.pf == "0001:00:00.0"
    assert hca.pf_netdev == "eth100"
    assert hca.numvfs == 4
    assert hca.rdma(0) == "mlx5_1"
    assert hca.node_guid(0) == "00:00:00:00:00:00:00:00"


def test_preset_exclusive(make_hca: MakeHca) -> None:
    hca = make_hca(vfs=2, pfs=2, preset=True, mode="exclusive")
    assert [each.pf_netdev for each in hca.pfs] == ["eth100", "eth101"]
    assert hca.node_guid(1) == "00:11:22:33:44:56:00:01"
    assert hca.pfs[1].port_guid(1) == "00:11:22:33:44:56:01:01"
