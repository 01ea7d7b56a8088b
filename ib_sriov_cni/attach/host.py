"""Host: everything outside the process that an invocation uses. Made once by the caller; tests pass other paths."""

from __future__ import annotations

import os

from ib_sriov_cni.kernel.netns import Inside, Netns
from ib_sriov_cni.kernel.sysfs import Sysfs
from ib_sriov_cni.kernel.vf_settings import VfConfigs
from ib_sriov_cni.state.directory import DEFAULT_STATE_DIR
from ib_sriov_cni.state.go_records import GoRecords
from ib_sriov_cni.state.locks import Locks
from ib_sriov_cni.state.ownership import Ownership
from ib_sriov_cni.state.records import Records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from ib_sriov_cni.core.record import Record
    from ib_sriov_cni.kernel.processes import Processes
    from ib_sriov_cni.kernel.rdma_netlink import Rdma
    from ib_sriov_cni.kernel.rtnetlink import Rtnl
    from ib_sriov_cni.state.allocations import Allocations
    from ib_sriov_cni.state.overrides import Overrides
    from ib_sriov_cni.state.stray_files import StrayFiles
    from ib_sriov_cni.telemetry.log import Log


class Host:
    """Access to sysfs, netlink, the locks and the state directory."""

    def __init__(
        self,
        *,
        log: Log,
        state_dir: str = "",
        lock_dir: str = "/run/ib-sriov",
        sysfs_root: str = "/sys",
        proc_root: str = "/proc",
        kubelet_dir: str = "/var/lib/kubelet",
    ) -> None:
        """Open nothing yet: sockets are opened on first use."""
        self.log = log
        self.sysfs = Sysfs(sysfs_root, proc_root)
        self.vf_configs = VfConfigs(lambda: self.rtnl, sysfs_root)
        self.locks = Locks(lock_dir)
        self._lock_dir = lock_dir
        self._state_dir = state_dir or DEFAULT_STATE_DIR
        self.records = Records(self._state_dir)
        self.ownership = Ownership(self._state_dir)
        self.go_records = GoRecords(self._state_dir)
        self._proc = proc_root
        self._kubelet_dir = kubelet_dir
        self._boot_id = ""
        self._rtnl: Rtnl | None = None
        self._rdma: Rdma | None = None

    def close(self) -> None:
        """Close the sockets. They are opened again on the next use."""
        for client in (self._rtnl, self._rdma):
            if client is not None:
                client.close()
        self._rtnl = self._rdma = None

    def __enter__(self) -> Self:
        """For processes that serve more than one invocation."""
        return self

    def __exit__(self, *_fault: object) -> None:
        """Close the sockets."""
        self.close()

    @property
    def rtnl(self) -> Rtnl:
        """Rtnetlink of the host's namespace."""
        if self._rtnl is None:
            self._rtnl = self.open_rtnl()
        return self._rtnl

    @property
    def allocations(self) -> Allocations:
        """What the kubelet has given to pods."""
        from ib_sriov_cni.state.allocations import Allocations

        return Allocations(self._kubelet_dir)

    @property
    def overrides(self) -> Overrides:
        """What driver_override of VFs was before a rebind that is not over."""
        from ib_sriov_cni.state.overrides import Overrides

        return Overrides(self._lock_dir)

    @property
    def stray_files(self) -> StrayFiles:
        """The files in the state directory that no CNI command reads."""
        from ib_sriov_cni.state.stray_files import StrayFiles

        return StrayFiles(self._state_dir)

    @property
    def processes(self) -> Processes:
        """The processes of the node, as they are at the first question."""
        from ib_sriov_cni.kernel.processes import Processes

        return Processes(self._proc)

    @property
    def rdma(self) -> Rdma:
        """NETLINK_RDMA of the host's namespace."""
        if self._rdma is None:
            self._rdma = self.open_rdma()
        return self._rdma

    def open_rtnl(self, netns: Netns | None = None) -> Rtnl:
        """Return a new rtnetlink socket in `netns`, in the host's namespace without one. The caller closes it."""
        from ib_sriov_cni.kernel.rtnetlink import Rtnl

        if netns is None:
            return Rtnl(trace=self._trace)
        with Inside(netns):
            return Rtnl(trace=self._trace)

    def open_rdma(self, netns: Netns | None = None) -> Rdma:
        """Return a new NETLINK_RDMA socket in `netns`, in the host's namespace without one. The caller closes it."""
        from ib_sriov_cni.kernel.rdma_netlink import Rdma

        if netns is None:
            return Rdma(trace=self._trace)
        with Inside(netns):
            return Rdma(trace=self._trace)

    @property
    def _trace(self) -> Callable[[str], None] | None:
        return self.log.debug if self.log.debugging else None

    def read_boot_id(self) -> str:
        """Return the boot_id, "" if it cannot be read (kernel: Documentation/admin-guide/sysctl/kernel.rst, random)."""
        if not self._boot_id:
            try:
                fd = os.open(f"{self._proc}/sys/kernel/random/boot_id", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return ""
            try:
                self._boot_id = os.read(fd, 64).decode().strip()
            finally:
                os.close(fd)
        return self._boot_id

    def is_from_earlier_boot(self, record: Record) -> bool:
        """Return whether the record is from an earlier boot; False if the boot_id cannot be read now."""
        boot_id = self.read_boot_id()
        return bool(boot_id) and record.boot_id != boot_id

    def set_ipv6(self, netns: Netns, ifname: str, **settings: str) -> None:
        """Write settings of an interface's IPv6 in `netns`, by the names of its files (kernel: ip-sysctl.rst, conf/).

        What cannot be written is left as it is: without IPv6 there is no file, and adding an address will say so.
        """
        with Inside(netns):
            for name, wanted in settings.items():
                try:
                    fd = os.open(f"{self._proc}/sys/net/ipv6/conf/{ifname}/{name}", os.O_RDWR | os.O_CLOEXEC)
                except OSError:
                    continue
                try:
                    if os.read(fd, 16).strip() != wanted.encode():
                        os.pwrite(fd, wanted.encode(), 0)
                except OSError:
                    pass  # /proc is read-only
                finally:
                    os.close(fd)
