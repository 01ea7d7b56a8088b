"""An attachment to a real namespace, of a VF in a fake sysfs: its devices are away until they are returned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ib_sriov_cni.attach.host import Host
from ib_sriov_cni.core.record import Record
from ib_sriov_cni.telemetry.log import Log
from ipam.protocol.value import replace
from tests.netns.conftest import Sandbox
from tests.unit.trees import PF, RECORD, VF, Tree


class Attached:
    """The host, the record, and what may happen to them."""

    def __init__(self, root: Path, sandbox: Sandbox, **changes: Any) -> None:
        self.root, self.sandbox = root, sandbox
        self.tree = Tree(root / "sys")
        self.tree.add_pf()
        self.tree.add_netdev(PF, "ib0", index=6)
        self.tree.add_rdma(PF, "mlx5_0")
        self.tree.add_vf(VF, 0, driver=changes.get("driver", "mlx5_core"))
        self.host = self.host_with("/proc")
        with sandbox.open() as netns:
            cookie = netns.cookie()
        conf = {"cniVersion": "1.1.0", "name": RECORD.key.network, "type": "ib-sriov", "cni.dev/valid-attachments": []}
        self.record: Record = replace(
            RECORD, boot_id=self.host.read_boot_id(), netns_path=sandbox.path, netns_cookie=cookie, conf=conf
        )
        # A record is new only once: what nobody has begun is not committed (state/records.py).
        self.host.records.write(self.record)
        self.host.ownership.claim(VF, self.record.key)
        self.change(committed=True, **changes)

    def host_with(self, proc_root: str) -> Host:
        """Return a host with another /proc."""
        places = {"state_dir": self.root / "state", "lock_dir": self.root / "run", "sysfs_root": self.root / "sys"}
        log = Log(path=str(self.root / "log"))
        return Host(log=log, proc_root=proc_root, **{name: str(path) for name, path in places.items()})

    def change(self, **changes: Any) -> None:
        """Write the record with other values."""
        self.record = replace(self.record, **changes)
        self.host.records.write(self.record)

    def return_devices(self, *, netdev: bool = True) -> None:
        """Have the kernel return the VF's devices to the host's namespace."""
        self.tree.add_rdma(VF, "mlx5_3", minor=3)
        if netdev:
            self.tree.add_netdev(VF, "ib1", index=7)

    def hide_pf(self) -> None:
        """Make it the sysfs of another namespace than the host's: the PF's netdev is not there."""
        (self.tree.device(PF) / "net").rename(self.tree.device(PF) / ".net")
