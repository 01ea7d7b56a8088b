"""Fake trees: a sysfs with a PF and its VFs, as the docstring of ib_sriov_cni.kernel.sysfs describes; a record."""

from __future__ import annotations

import os
from pathlib import Path

from ib_sriov_cni.core.record import AttachmentKey, Record
from ib_sriov_cni.core.values import ARPHRD_INFINIBAND, Guid, Link, PciAddress

PF = "0000:3b:00.0"
GUID = "02:00:00:00:00:00:00:11"
VF = PciAddress("0000:3b:00.2")
KEY = AttachmentKey(network="ib", container_id="c1", ifname="net1")
RECORD = Record(
    key=KEY,
    pci=VF,
    boot_id="b",
    netns_path="/run/netns/x",
    netns_cookie=7,
    pod="train/worker-0",
    since=1.5,
    committed=False,
    rdma_isolation=True,
    driver="mlx5_core",
    had_netdev="ib1",
    had_altnames=("ibp59s0f0v1",),
    had_mtu=2044,
    had_up=False,
    had_rdma="mlx5_3",
    had_char_devices=("uverbs3", "issm3", "umad3"),
    had_node_guid=None,
    had_port_guid=Guid(5),
    had_config_node_guid=Guid(0),
    had_config_port_guid=Guid(0),
    had_link_state="auto",
    port_guid=Guid(9),
    node_guid=Guid(9),
    sets_guid=True,
    link_state="",
    conf={"name": "ib", "ipam": {"type": "host-local"}},
    args="",
    result={},
)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.symlink(os.path.relpath(target, path.parent), path)


def sysfs_guid(guid: str) -> str:
    """Return the GUID as sysfs prints it: four groups of four digits."""
    digits = guid.replace(":", "")
    return ":".join([digits[i : i + 4] for i in range(0, 16, 4)])


class Tree:
    """A sysfs below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def device(self, pci: str) -> Path:
        return self.root / "bus/pci/devices" / pci

    def driver(self, name: str) -> Path:
        folder = self.root / "bus/pci/drivers" / name
        if not folder.exists():
            write(folder / "bind", "")
            write(folder / "unbind", "")
        return folder

    def add_pf(self, pci: str = PF, *, offset: int = 2, stride: int = 1, driver: str = "mlx5_core") -> None:
        device = self.device(pci)
        write(device / "sriov_numvfs", "4\n")
        write(device / "sriov_totalvfs", "16\n")
        write(device / "sriov_offset", f"{offset}\n")
        write(device / "sriov_stride", f"{stride}\n")
        link(device / "driver", self.driver(driver))

    def add_vf(self, pci: str, index: int, *, pf: str = PF, driver: str = "mlx5_core") -> None:
        device = self.device(pci)
        device.mkdir(parents=True)
        link(device / "physfn", self.device(pf))
        link(self.device(pf) / f"virtfn{index}", device)
        if driver:
            self.bind(pci, driver)

    def add_lone(self, pci: str, *, driver: str = "mlx5_core", **attributes: str) -> None:
        """Add a function without a PF: in a virtual machine a ConnectX VF unless told."""
        attributes = {"class": "0x020700", "vendor": "0x15b3", "device": "0x101e", **attributes}
        for name, text in attributes.items():
            write(self.device(pci) / name, f"{text}\n")
        if driver:
            self.bind(pci, driver)

    def bind(self, pci: str, driver: str) -> None:
        link(self.device(pci) / "driver", self.driver(driver))

    def add_netdev(self, pci: str, name: str, *, index: int, parent: int | None = None) -> None:
        """Add an IPoIB netdev; `parent` is the interface index of a P_Key child's parent."""
        folder = self.device(pci) / "net" / name
        write(folder / "ifindex", f"{index}\n")
        write(folder / "iflink", f"{index if parent is None else parent}\n")

    def add_rdma(self, pci: str, name: str, *, minor: int = 0, here: bool = True, guid: str = GUID) -> None:
        """Add an RDMA device; `here` says whether it is in the namespace of this sysfs."""
        device = self.device(pci)
        (device / f"infiniband_verbs/uverbs{minor}").mkdir(parents=True)
        write(self.root / f"class/infiniband_verbs/uverbs{minor}/ibdev", f"{name}\n")
        for kind in ("issm", "umad"):
            (device / f"infiniband_mad/{kind}{minor}").mkdir(parents=True)
            (self.root / f"class/infiniband_mad/{kind}{minor}").mkdir(parents=True)
        if here:
            write(device / f"infiniband/{name}/node_guid", f"{sysfs_guid(guid)}\n")
            gid = f"fe80:0000:0000:0000:{sysfs_guid(guid)}\n"
            write(device / f"infiniband/{name}/ports/1/gids/0", gid)
            link(self.root / f"class/infiniband/{name}", device / f"infiniband/{name}")
            # The kernel's links go up past their target and down again (kernfs_get_target_path).
            os.symlink(f"../../../{pci}", device / f"infiniband/{name}/device")


def tree(folder: Path) -> dict[str, str]:
    """Every file and link below a folder, with its content or target."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_file():
            found[name] = path.read_text()
        elif not any(path.iterdir()):
            found[f"{name}/"] = ""
    return found


def link_of_pf(name: str, index: int) -> Link:
    """A PF's netdev, up."""
    return Link(
        index=index,
        name=name,
        kind=ARPHRD_INFINIBAND,
        flags=1,
        mtu=2044,
        address=bytes(20),
        operstate="up",
        pci=PF,
        altnames=(),
    )
