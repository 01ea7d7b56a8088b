"""ib_sriov_cni.kernel.sysfs on fake trees."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ib_sriov_cni.core.errors import DeviceUnusable, KernelRefused
from ib_sriov_cni.core.values import LONE, OTHER, PHYSICAL, VIRTUAL, Guid, PciAddress
from ib_sriov_cni.kernel.sysfs import Sysfs
from tests.unit.trees import GUID, PF, Tree, link, write

VF = PciAddress("0000:3b:00.3")
LONE_VF = PciAddress("0000:00:05.0")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    tree.add_pf()
    tree.add_vf(VF, 1)
    return tree


def sysfs(tree: Tree) -> Sysfs:
    return Sysfs(str(tree.root), str(tree.root / "proc"))


# ---- which function it is


def test_a_vf_and_its_pf(tree: Tree) -> None:
    tree.add_netdev(PF, "ibp59s0", index=4)
    function = sysfs(tree).read_function(VF)
    assert (function.pci, function.pf, function.index) == (VF, PF, 1)
    assert (function.driver, function.pf_driver) == ("mlx5_core", "mlx5_core")
    assert (function.pf_netdev, function.pf_index) == ("ibp59s0", 4)
    assert sysfs(tree).exists(VF)


@pytest.mark.parametrize(
    ("offset", "stride", "pci", "index"),
    [
        (1, 1, "0000:3b:00.1", 0),
        (2, 1, "0000:3b:01.1", 7),
        (128, 2, "0000:3b:10.2", 1),
        (256, 1, "0000:3c:00.5", 5),  # on the next bus
    ],
)
def test_the_index_is_computed_from_offset_and_stride(
    tmp_path: Path, offset: int, stride: int, pci: str, index: int
) -> None:
    tree = Tree(tmp_path)
    tree.add_pf(offset=offset, stride=stride)
    tree.add_vf(pci, index)
    # If the virtfn links were searched instead, this name would not parse.
    link(tree.device(PF) / "virtfn+", tree.device(pci))
    assert sysfs(tree).read_function(PciAddress(pci)).index == index


@pytest.mark.parametrize(
    ("offset", "stride"), [("", ""), ("2", "0"), ("0", "1"), ("x", "y"), ("9", "1"), ("2\n", "1\n")]
)
def test_the_index_is_looked_up_where_it_cannot_be_computed(tree: Tree, offset: str, stride: str) -> None:
    write(tree.device(PF) / "sriov_offset", offset)
    write(tree.device(PF) / "sriov_stride", stride)
    tree.add_vf("0000:3b:00.7", 11)
    assert sysfs(tree).read_function(VF).index == 1
    assert sysfs(tree).read_function(PciAddress("0000:3b:00.7")).index == 11


def test_attributes_of_an_old_kernel_are_not_there(tree: Tree) -> None:
    (tree.device(PF) / "sriov_offset").unlink()
    (tree.device(PF) / "sriov_stride").unlink()
    assert sysfs(tree).read_function(VF).index == 1


def test_a_pf_that_does_not_list_the_vf(tree: Tree) -> None:
    (tree.device(PF) / "virtfn1").unlink()
    with pytest.raises(DeviceUnusable, match=f"its PF {PF} does not list it"):
        sysfs(tree).read_function(VF)


def test_an_absent_device(tree: Tree) -> None:
    assert not sysfs(tree).exists(PciAddress("0000:99:00.0"))
    with pytest.raises(DeviceUnusable, match=r"deviceID 0000:99:00.0: there is no such PCI device") as caught:
        sysfs(tree).read_function(PciAddress("0000:99:00.0"))
    assert caught.value.code == 101


def test_a_vf_is_virtual(tree: Tree) -> None:
    assert sysfs(tree).read_kind(VF) == VIRTUAL
    assert sysfs(tree).read_function(VF).label == f"VF {VF}"


def test_a_pf_is_physical(tree: Tree) -> None:
    """It has the SR-IOV capability, even in a virtual machine and without VFs."""
    write(tree.root / "proc/cpuinfo", MACHINE)
    function = sysfs(tree).read_function(PciAddress(PF))
    assert (function.kind, function.pf, function.index, function.driver) == (PHYSICAL, None, -1, "mlx5_core")
    assert function.label == f"PF {PF}"


def test_another_card(tree: Tree) -> None:
    tree.device("0000:00:1f.0").mkdir()
    write(tree.root / "proc/cpuinfo", MACHINE)
    assert sysfs(tree).read_kind(PciAddress("0000:00:1f.0")) == OTHER
    tree.add_lone("0000:00:1f.1", **{"class": "0x010802", "device": "0x1234"})
    assert sysfs(tree).read_kind(PciAddress("0000:00:1f.1")) == OTHER


@pytest.mark.parametrize("device", ["0x101e", "0x101c", "0x1018", "0xa2d3", "0x1004"])
def test_a_vf_whose_pf_is_on_another_machine(tree: Tree, device: str) -> None:
    """Its device ID says what it is: no physfn link leads to a PF."""
    tree.add_lone(LONE_VF, device=device)
    function = sysfs(tree).read_function(LONE_VF)
    assert (function.kind, function.pf, function.index, function.pf_netdev) == (LONE, None, -1, "")
    assert (function.driver, function.label) == ("mlx5_core", f"VF {LONE_VF}")


HARDWARE = "processor\t: 0\nflags\t\t: fpu vme de\n"
MACHINE = "processor\t: 0\nflags\t\t: fpu vme de hypervisor\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd\n"


@pytest.mark.parametrize(
    ("cpu", "maker", "kind"),
    [
        (MACHINE, "", LONE),
        (HARDWARE, "QEMU", PHYSICAL),  # the processor knows best
        (ARM, "QEMU", LONE),
        (ARM, "Supermicro", PHYSICAL),
        ("", "", PHYSICAL),
    ],
)
def test_a_whole_hca_without_sriov(tree: Tree, cpu: str, maker: str, kind: str) -> None:
    """In a virtual machine it is what the machine was given; on hardware its firmware has SR-IOV disabled."""
    tree.add_lone(LONE_VF, device="0x101b")
    write(tree.root / "proc/cpuinfo", cpu)
    write(tree.root / "class/dmi/id/sys_vendor", f"{maker}\n")
    assert sysfs(tree).read_kind(LONE_VF) == kind


def test_lone_vfs_are_found_wherever_their_devices_are(tree: Tree) -> None:
    assert sysfs(tree).read_lone_vfs() == []
    tree.add_lone(LONE_VF)
    tree.add_lone("0000:af:00.0", driver="vfio-pci")
    tree.add_lone("0000:b0:00.0", **{"class": "0x020000"})  # Ethernet
    tree.add_lone("0000:b1:00.0", device="0x101b")  # a PF without SR-IOV
    assert sysfs(tree).read_lone_vfs() == [LONE_VF, "0000:af:00.0"]


def test_an_unbound_vf(tree: Tree) -> None:
    tree.add_vf("0000:3b:00.4", 2, driver="")
    function = sysfs(tree).read_function(PciAddress("0000:3b:00.4"))
    assert (function.driver, function.index) == ("", 2)


def test_no_sysfs_at_all(tmp_path: Path) -> None:
    with pytest.raises(DeviceUnusable):
        Sysfs(str(tmp_path / "nowhere")).read_function(VF)
    assert Sysfs(str(tmp_path)).read_pfs() == []


def test_pfs_and_their_vfs(tree: Tree) -> None:
    tree.add_pf("0000:af:00.0")
    tree.add_rdma(PF, "mlx5_0", minor=0)
    tree.add_rdma("0000:af:00.0", "mlx5_1", minor=1)
    tree.add_rdma(VF, "mlx5_2", minor=2)
    tree.add_vf("0000:3b:00.4", 2)
    tree.add_vf("0000:3b:01.4", 10)
    assert sysfs(tree).read_pfs() == [PF, "0000:af:00.0"]
    assert sysfs(tree).read_vfs(PciAddress(PF)) == [VF, "0000:3b:00.4", "0000:3b:01.4"]
    assert sysfs(tree).read_vfs(PciAddress("0000:af:00.0")) == []


# ---- netdevs


def test_the_netdev(tree: Tree) -> None:
    assert sysfs(tree).read_netdev(VF) == ""
    tree.add_netdev(VF, "ib2", index=9)
    assert sysfs(tree).read_netdev(VF) == "ib2"


def test_children_beside_the_netdev(tree: Tree) -> None:
    # Those that `ip link add … type ipoib pkey` makes have no `parent` file (ipoib_vlan.c).
    tree.add_netdev(VF, "a-child", index=10, parent=9)
    tree.add_netdev(VF, "ib2", index=9)
    tree.add_netdev(VF, "ib2.8001", index=11, parent=9)
    assert sysfs(tree).read_netdev(VF) == "ib2"


def test_a_child_whose_parent_is_in_a_pod(tree: Tree) -> None:
    tree.add_netdev(VF, "ib2.8001", index=10, parent=9)
    assert sysfs(tree).read_netdev(VF) == ""


# ---- RDMA devices


def test_an_rdma_device_here(tree: Tree) -> None:
    assert sysfs(tree).read_rdma(VF) is None
    tree.add_rdma(VF, "mlx5_3", minor=5)
    found = sysfs(tree).read_rdma(VF)
    assert found is not None
    assert (found.name, found.char_devices) == ("mlx5_3", ("uverbs5", "issm5", "umad5"))
    assert (found.node_guid, found.port_guid) == (Guid.parse(GUID), Guid.parse(GUID))


def test_an_rdma_device_in_another_namespace(tree: Tree) -> None:
    tree.add_rdma(VF, "mlx5_3", minor=5, here=False)
    found = sysfs(tree).read_rdma(VF)
    assert found is not None
    assert (found.name, found.node_guid, found.port_guid) == ("mlx5_3", None, None)
    assert found.char_devices == sysfs(tree).read_char_devices(VF) == ("uverbs5", "issm5", "umad5")


def test_an_rdma_device_without_uverbs(tree: Tree) -> None:
    tree.add_rdma(VF, "mlx5_3", minor=5)
    (tree.device(VF) / "infiniband_verbs/uverbs5").rmdir()
    found = sysfs(tree).read_rdma(VF)
    assert found is not None
    assert (found.name, found.char_devices, found.node_guid) == ("mlx5_3", ("issm5", "umad5"), Guid.parse(GUID))


def test_the_character_devices_of_all_functions(tree: Tree) -> None:
    assert sysfs(tree).read_all_char_devices() == ()
    tree.add_rdma(PF, "mlx5_0", minor=0)
    tree.add_rdma(VF, "mlx5_3", minor=5, here=False)
    (tree.root / "class/infiniband_mad/abi_version").write_text("5\n")
    found = sysfs(tree).read_all_char_devices()
    assert set(found) == {"uverbs0", "uverbs5", "umad0", "umad5", "issm0", "issm5", "abi_version"}


def test_a_port_without_gids_yet(tree: Tree) -> None:
    tree.add_rdma(VF, "mlx5_3")
    (tree.device(VF) / "infiniband/mlx5_3/ports/1/gids/0").unlink()
    found = sysfs(tree).read_rdma(VF)
    assert found is not None
    assert (found.node_guid, found.port_guid) == (Guid.parse(GUID), None)


def test_a_uverbs_without_device_file(tree: Tree) -> None:
    (tree.device(VF) / "infiniband_verbs/uverbs5").mkdir(parents=True)
    assert sysfs(tree).read_rdma(VF) is None


def test_an_attribute_that_cannot_be_read(tree: Tree) -> None:
    tree.add_rdma(VF, "mlx5_3")
    path = tree.device(VF) / "infiniband/mlx5_3/node_guid"
    path.unlink()
    path.mkdir()  # open succeeds and read fails with EISDIR, as for a device that is being removed
    found = sysfs(tree).read_rdma(VF)
    assert found is not None
    assert found.node_guid is None


# ---- drivers


def test_unbind_tells_the_driver(tree: Tree) -> None:
    sysfs(tree).unbind(VF)
    assert (tree.driver("mlx5_core") / "unbind").read_text() == VF


def test_unbind_of_an_unbound_vf_writes_nothing(tree: Tree) -> None:
    (tree.device(VF) / "driver").unlink()
    sysfs(tree).unbind(VF)
    assert (tree.driver("mlx5_core") / "unbind").read_text() == ""


def test_unbind_that_is_refused(tree: Tree) -> None:
    unbind = tree.driver("mlx5_core") / "unbind"
    unbind.unlink()
    unbind.mkdir()
    with pytest.raises(KernelRefused) as caught:
        sysfs(tree).unbind(VF)
    assert caught.value.msg == f"unbind from mlx5_core VF {VF}: Is a directory"
    assert caught.value.errno == errno.EISDIR
    assert "kernel log" in caught.value.details


def test_bind_tells_the_driver(tree: Tree) -> None:
    sysfs(tree).bind(VF, "mlx5_core")
    assert (tree.driver("mlx5_core") / "bind").read_text() == VF


def test_bind_that_is_refused(tree: Tree) -> None:
    (tree.device(VF) / "driver").unlink()
    bind = tree.driver("mlx5_core") / "bind"
    bind.unlink()
    bind.mkdir()
    with pytest.raises(KernelRefused) as caught:
        sysfs(tree).bind(VF, "mlx5_core")
    assert caught.value.msg == f"bind to mlx5_core VF {VF}: Is a directory"


def test_bind_that_fails_quietly(tree: Tree) -> None:
    (tree.device(VF) / "driver").unlink()
    with pytest.raises(KernelRefused) as caught:
        sysfs(tree).bind(VF, "mlx5_core")
    assert caught.value.msg == f"bind to mlx5_core VF {VF}: No such device"


def test_bind_to_a_driver_that_is_not_loaded(tree: Tree) -> None:
    with pytest.raises(KernelRefused) as caught:
        sysfs(tree).bind(VF, "mlx4_core")
    assert caught.value.errno == errno.ENOENT


def test_bind_to_a_driver_that_has_it(tree: Tree) -> None:
    bind = tree.driver("mlx5_core") / "bind"
    bind.unlink()
    bind.mkdir()  # opening it fails, where the kernel would return EBUSY
    sysfs(tree).bind(VF, "mlx5_core")


def test_bind_of_a_vf_another_driver_has(tree: Tree) -> None:
    (tree.device(VF) / "driver").unlink()
    tree.bind(VF, "vfio-pci")
    with pytest.raises(KernelRefused):
        sysfs(tree).bind(VF, "mlx5_core")
    assert os.readlink(tree.device(VF) / "driver").endswith("vfio-pci")


@pytest.mark.parametrize(
    ("override", "autoprobe", "bindable"),
    [
        ("(null)", "1", True),
        ("mlx5_core", "1", True),
        ("vfio-pci", "1", False),
        ("(null)", "0", False),
        ("mlx5_core", "0", True),
        ("vfio-pci", "0", False),
        ("", "", True),  # kernels that have neither file
    ],
)
def test_what_the_kernel_lets_a_driver_have(tree: Tree, override: str, autoprobe: str, bindable: bool) -> None:
    if override:
        write(tree.device(VF) / "driver_override", f"{override}\n")
        write(tree.device(PF) / "sriov_drivers_autoprobe", f"{autoprobe}\n")
    assert sysfs(tree).is_bindable(VF, "mlx5_core") is bindable


def test_an_override_is_set_and_cleared(tree: Tree) -> None:
    override = tree.device(VF) / "driver_override"
    write(override, "(null)\n")
    sysfs(tree).set_override(VF, "mlx5_core")
    assert override.read_text() == "mlx5_core\n"
    sysfs(tree).set_override(VF, "")
    assert override.read_text() == "\n"
    override.unlink()
    override.mkdir()
    with pytest.raises(KernelRefused) as caught:
        sysfs(tree).set_override(VF, "mlx5_core")
    assert caught.value.msg == f"set driver_override mlx5_core of VF {VF}: Is a directory"
    with pytest.raises(KernelRefused, match=f"^clear driver_override of VF {VF}: "):
        sysfs(tree).set_override(VF, "")
