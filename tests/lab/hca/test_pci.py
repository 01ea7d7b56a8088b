"""The emulated HCA on the PCI bus: SR-IOV, binding, other drivers (the lab's own checks)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.lab.commands import read, run, wait, write
from tests.lab.emulated_hca import DEVICES, DRIVERS, Hca, load, unload

VF = 1


@pytest.fixture(scope="module")
def hca() -> Iterator[Hca]:
    yield load(preset=True)
    unload()


@pytest.fixture
def unbound(hca: Hca) -> Iterator[str]:
    """The PCI address of a VF without driver; bound again after the test."""
    address = hca.pci(VF)
    assert hca.unbind(VF) == "OK"
    yield address
    if hca.driver(VF) != "ib_qib":
        hca.bind(VF)
    assert hca.settled()


@pytest.fixture
def stubbed(hca: Hca, unbound: str) -> Iterator[str]:
    """The PCI address of a VF that pci-stub has, as vfio-pci would (which wants an IOMMU)."""
    run(["modprobe", "pci-stub"])
    override = hca.vf_path(VF) / "driver_override"
    assert write(override, "pci-stub") == "OK"
    assert write("/sys/bus/pci/drivers_probe", unbound) == "OK"
    yield unbound
    write(f"{DRIVERS}/pci-stub/unbind", unbound)
    write(override, "\n")


def test_total_vfs(hca: Hca) -> None:
    assert read(hca.pf_path / "sriov_totalvfs") == "8"


def test_class_is_infiniband_controller(hca: Hca) -> None:
    assert read(hca.pf_path / "class") == "0x020700"


def test_more_vfs_than_there_are(hca: Hca) -> None:
    assert hca.set_numvfs(9) == "ERANGE"


def test_number_of_vfs(hca: Hca) -> None:
    assert hca.numvfs == 4


@pytest.mark.parametrize("vf", range(4))
def test_vf_and_pf_name_each_other(hca: Hca, vf: int) -> None:
    assert os.path.realpath(hca.vf_path(vf) / "physfn") == os.path.realpath(hca.pf_path)


def test_other_number_of_vfs_wants_zero_first(hca: Hca) -> None:
    assert hca.set_numvfs(6) == "EBUSY"


def test_unbind_takes_the_driver(hca: Hca, unbound: str) -> None:
    assert hca.driver(VF) is None


def test_unbound_vf_has_no_devices(hca: Hca, unbound: str) -> None:
    assert (hca.netdevs(VF), hca.rdma(VF)) == ([], None)
    assert not (hca.vf_path(VF) / "net").exists()
    assert not (hca.vf_path(VF) / "infiniband").exists()


def test_second_unbind(hca: Hca, unbound: str) -> None:
    assert hca.unbind(VF) == "ENODEV"


def test_bind_brings_the_devices(hca: Hca, unbound: str) -> None:
    assert hca.bind(VF) == "OK"
    assert hca.netdevs(VF)
    assert hca.rdma(VF)


def test_bind_of_a_bound_vf(hca: Hca) -> None:
    assert hca.bind(VF) == "EBUSY"


def test_bind_of_an_absent_address(hca: Hca) -> None:
    assert write(f"{DRIVERS}/ib_qib/bind", "0001:00:07.7") == "ENODEV"


def test_driver_override_gives_the_vf_away(hca: Hca, stubbed: str) -> None:
    assert hca.driver(VF) == "pci-stub"


def test_bind_of_a_vf_that_another_driver_has(hca: Hca, stubbed: str) -> None:
    assert hca.bind(VF) == "ENODEV"


def test_unbind_of_a_vf_that_another_driver_has(hca: Hca, stubbed: str) -> None:
    assert hca.unbind(VF) == "ENODEV"


def test_bind_against_driver_override(hca: Hca, stubbed: str) -> None:
    assert write(f"{DRIVERS}/pci-stub/unbind", stubbed) == "OK"
    assert hca.bind(VF) == "ENODEV"
    assert hca.driver(VF) is None


def test_drivers_probe_gives_the_vf_back(hca: Hca, stubbed: str) -> None:
    assert write(f"{DRIVERS}/pci-stub/unbind", stubbed) == "OK"
    assert write(hca.vf_path(VF) / "driver_override", "\n") == "OK"
    assert write("/sys/bus/pci/drivers_probe", stubbed) == "OK"
    assert wait(lambda: hca.driver(VF) == "ib_qib" and hca.netdevs(VF) and hca.rdma(VF))


def test_vfio_pci_without_iommu(hca: Hca, unbound: str) -> None:
    """drivers_probe says success although the probe failed: only the driver link shows it."""
    run(["modprobe", "vfio-pci"])
    override = hca.vf_path(VF) / "driver_override"
    try:
        assert write(override, "vfio-pci") == "OK"
        assert write("/sys/bus/pci/drivers_probe", unbound) == "OK"
        assert hca.driver(VF) is None
    finally:
        write(override, "\n")


def test_no_vfs(hca: Hca) -> None:
    try:
        assert hca.set_numvfs(0) == "OK"
        assert not (hca.pf_path / "virtfn0").exists()
        assert os.listdir(DEVICES).count(hca.pf) == 1
    finally:
        hca.set_numvfs(4)
    assert hca.settled()


def test_vfs_without_autoprobe(hca: Hca) -> None:
    assert hca.set_numvfs(0) == "OK"
    try:
        assert write(hca.pf_path / "sriov_drivers_autoprobe", 0) == "OK"
        assert hca.set_numvfs(2) == "OK"
        assert [hca.driver(vf) for vf in (0, 1)] == [None, None]
    finally:
        hca.set_numvfs(0)
        write(hca.pf_path / "sriov_drivers_autoprobe", 1)
        hca.set_numvfs(4)
    assert hca.settled()
