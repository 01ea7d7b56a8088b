"""A made node: a PF of four VFs in a sysfs tree, a state directory, and the doors that look at them."""

from __future__ import annotations

from pathlib import Path

from ib_sriov_cni.attach.host import Host
from ib_sriov_cni.cli.output import Site
from ib_sriov_cni.core.record import AttachmentKey, Record
from ib_sriov_cni.core.values import PciAddress
from ib_sriov_cni.telemetry.log import Log
from ipam.protocol.value import replace
from tests.unit.trees import PF, RECORD, Tree, write

BOOT = "11111111-2222-3333-4444-555555555555"
HERE = "/proc/self/ns/net"  # a network namespace that lives
VFS = [PciAddress(f"0000:3b:00.{n}") for n in (2, 3, 4, 5)]


class NodeHost(Host):
    """The host whose files are below `root`; tests derive hosts with another door from it."""

    def __init__(self, root: Path) -> None:
        super().__init__(
            log=Log(level="error"),
            state_dir=str(root / "var/lib/cni/ib-sriov"),
            lock_dir=str(root / "run/ib-sriov"),
            sysfs_root=str(root / "sys"),
            proc_root=str(root / "proc"),
        )


class Node:
    """A host below `root`, in the shape of cli.output.Site."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tree = Tree(root / "sys")
        self.tree.add_pf()
        self.tree.add_netdev(PF, "nopf0", index=2)  # called as nothing on the host that runs the test
        self.tree.add_rdma(PF, "mlx5_0", guid="b8:ce:f6:03:00:00:00:01")
        for index, pci in enumerate(VFS):
            self.tree.add_vf(pci, index)
            self.home(pci, index)
        write(root / "proc/sys/kernel/random/boot_id", BOOT + "\n")
        self.state = root / "var/lib/cni/ib-sriov"
        self.site = Site(str(root))
        self.host = NodeHost(root)

    def home(self, pci: str, index: int) -> None:
        """Give a VF its devices in the host's namespace."""
        self.tree.add_netdev(pci, f"ibvf{index}", index=10 + index)
        self.tree.add_rdma(pci, f"mlx5_{index + 1}", minor=index + 1, guid=f"02:00:00:00:00:00:00:{index + 1:02x}")

    def take_away(self, pci: str) -> None:
        """Move a VF's devices into a namespace that this sysfs does not show."""
        for folder in ("net", "infiniband"):
            path = self.tree.device(pci) / folder
            path.rename(path.with_name(f".{folder}"))

    def unbind(self, pci: str) -> None:
        (self.tree.device(pci) / "driver").unlink()

    def record(self, pci: PciAddress, name: str = "w-0", *, owner: bool = True, **changes: object) -> Record:
        """Write a record of an attachment; committed, in this boot and in a living namespace unless told."""
        key = AttachmentKey(network="ib", container_id=f"c-{name}", ifname="net1")
        facts: dict[str, object] = {
            "boot_id": BOOT,
            "committed": True,
            "netns_path": HERE,
            "netns_cookie": 0,
            "pod": f"train/{name}",
            "conf": {"cniVersion": "1.0.0", "name": "ib"},
            "result": {"cniVersion": "1.1.0", "ips": [{"address": "10.1.2.3/24"}]},
        }
        record = replace(RECORD, key=key, pci=pci, **{**facts, **changes})
        self.host.records.write(record)
        if owner:
            self.host.ownership.claim(pci, key)
        return record
