"""Door to the PF's settings of its VFs: by netlink, or by the files of Mellanox OFED where they are there.

Layout of the files, below the PF's PCI device::

    sriov/<VF index>/node     node GUID, eight pairs with colons
                    /port     port GUID, likewise
                    /policy   Follow, Up or Down

OFED has them on every kernel. Kernels before 5.6 have no read-back by netlink, so there they are the only way to know
what a VF had; they are preferred where they exist. Source: OFED's mlx5_core sriov_sysfs.c, docs of the ConnectX driver.
"""

from __future__ import annotations

import errno
import os

from ib_sriov_cni.core.errors import KernelRefused
from ib_sriov_cni.core.values import Guid, VfConfig
from ib_sriov_cni.kernel.sysfs import read_attribute

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ib_sriov_cni.core.values import Link, PciAddress, VfFunction
    from ib_sriov_cni.kernel.rtnetlink import Rtnl

POLICIES = {"auto": "Follow", "enable": "Up", "disable": "Down"}
POLICY_NAMES = {policy: state for state, policy in POLICIES.items()}


class VfConfigs:
    """Reads and sets VFs at their PF, by whichever way the PF's driver offers."""

    def __init__(self, rtnl: Callable[[], Rtnl], sysfs_root: str = "/sys") -> None:
        """`rtnl` opens the host's rtnetlink when it is wanted."""
        self._rtnl = rtnl
        self._devices = f"{sysfs_root}/bus/pci/devices"

    def _folder(self, pf: PciAddress) -> str:
        folder = f"{self._devices}/{pf}/sriov"
        return folder if os.path.isdir(folder) else ""

    def read(self, function: VfFunction, *, alone: bool = False) -> tuple[Link, dict[int, VfConfig]]:
        """Give the PF's netdev and what the PF says of each of its VFs, by VF index; `alone`: of this one."""
        only = function.index if alone else None
        link, configs = self._rtnl().read_pf(function.pf_netdev, function.pf_index, only=only)
        folder = self._folder(function.pf)
        if folder:
            listed = [str(only)] if alone else os.listdir(folder)
            indices = [int(name) for name in listed if name.isdigit() and os.path.isdir(f"{folder}/{name}")]
            configs = {index: _read_files(f"{folder}/{index}") for index in sorted(indices)}
        return link, configs

    def set_link_state(self, function: VfFunction, state: str) -> None:
        """Set the VF's link state: auto, enable or disable."""
        folder = self._folder(function.pf)
        if folder:
            _write(folder, function, "policy", POLICIES[state], f"set link state {state} of")
        else:
            self._rtnl().set_vf_link_state(function, state)

    def set_node_guid(self, function: VfFunction, guid: Guid) -> None:
        """Set the VF's node GUID; the VF takes it when its driver is bound again."""
        folder = self._folder(function.pf)
        if folder:
            _write(folder, function, "node", str(guid), f"set node GUID {guid} of")
        else:
            self._rtnl().set_vf_node_guid(function, guid)

    def set_port_guid(self, function: VfFunction, guid: Guid) -> None:
        """Set the VF's port GUID; the VF takes it when its driver is bound again."""
        folder = self._folder(function.pf)
        if folder:
            _write(folder, function, "port", str(guid), f"set port GUID {guid} of")
        else:
            self._rtnl().set_vf_port_guid(function, guid)


def _read_files(folder: str) -> VfConfig:
    return VfConfig(
        node_guid=_guid(read_attribute(f"{folder}/node")),
        port_guid=_guid(read_attribute(f"{folder}/port")),
        link_state=POLICY_NAMES.get(read_attribute(f"{folder}/policy"), ""),
    )


def _guid(text: str) -> Guid:
    try:
        return Guid.parse(text)
    except ValueError:
        return Guid(0)


def _write(folder: str, function: VfFunction, name: str, text: str, operation: str) -> None:
    path = f"{folder}/{function.index}/{name}"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_TRUNC)
        try:
            os.write(fd, f"{text}\n".encode())
        finally:
            os.close(fd)
    except OSError as fault:
        target = f"VF {function.index} of PF {function.pf_netdev or function.pf} ({path})"
        raise KernelRefused(operation, target, fault.errno or errno.EIO) from None
