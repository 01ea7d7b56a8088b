"""Door to the PF's settings of its VFs: by netlink, or by Mellanox OFED's sysfs files if there are any.

The files below the PF's PCI device::

    sriov/<VF index>/node     node GUID, eight pairs with colons
                    /port     port GUID, likewise
                    /policy   Follow, Up or Down

OFED has them on every kernel. Netlink cannot read a VF's GUIDs before Linux 5.6, where the files are the only way to
know what a VF had. If they exist, they are used. Source: OFED's mlx5_core sriov_sysfs.c.
"""

from __future__ import annotations

import errno
import os

from ib_sriov_cni.core.errors import DeviceUnusable, KernelRefused
from ib_sriov_cni.core.values import Guid, VfConfig
from ib_sriov_cni.kernel.sysfs import list_folder, read_attribute, write_attribute

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ib_sriov_cni.core.values import Link, PciAddress, VfFunction
    from ib_sriov_cni.kernel.rtnetlink import Rtnl

POLICIES = {"auto": "Follow", "enable": "Up", "disable": "Down"}
POLICY_NAMES = {policy: state for state, policy in POLICIES.items()}


class VfConfigs:
    """Reads and changes the PF's settings of its VFs, in whichever way the PF's driver offers. There must be a PF.

    All methods raise KernelRefused (102), and DeviceUnusable (101) if there is no way to set anything.
    """

    def __init__(self, rtnl: Callable[[], Rtnl], sysfs_root: str = "/sys") -> None:
        """`rtnl` returns the host's rtnetlink; it is called when that is needed."""
        self._rtnl = rtnl
        self._devices = f"{sysfs_root}/bus/pci/devices"

    def _folder(self, pf: PciAddress | None) -> str:
        folder = f"{self._devices}/{pf}/sriov"
        return folder if os.path.isdir(folder) else ""

    def read(self, function: VfFunction, *, alone: bool = False) -> tuple[Link, dict[int, VfConfig]]:
        """Return the PF's netdev and its settings of all VFs, or of this VF only (`alone`), by VF index.

        VFs that the PF does not list are left out, and what it does not report of a VF is unknown (see VfConfig).
        """
        only = function.index if alone else None
        link, configs = self._netlink(function).read_pf(function.pf_netdev, function.pf_index, only=only)
        folder = self._folder(function.pf)
        if folder:
            names = [str(only)] if alone else list_folder(folder)
            indices = [int(name) for name in names if name.isdigit() and os.path.isdir(f"{folder}/{name}")]
            configs = {index: _read_files(f"{folder}/{index}") for index in sorted(indices)}
        return link, configs

    def read_vf(self, function: VfFunction) -> VfConfig | None:
        """Return the PF's settings of this VF; None if the PF does not list it. OFED's files need no netdev."""
        folder = self._folder(function.pf)
        if not folder:
            return self.read(function, alone=True)[1].get(function.index)
        return _read_files(f"{folder}/{function.index}") if os.path.isdir(f"{folder}/{function.index}") else None

    def can_set(self, function: VfFunction) -> bool:
        """Return whether there is a way to set anything: the PF's netdev in this namespace, or OFED's files."""
        return bool(function.pf_netdev or self._folder(function.pf))

    def _netlink(self, function: VfFunction) -> Rtnl:
        """Return rtnetlink. Raises DeviceUnusable (101) if it cannot address the PF, which has no netdev here."""
        if not function.pf_netdev:
            raise DeviceUnusable(
                f"VF {function.pci}: its PF {function.pf} has no netdev here, so its GUID and link state cannot be set",
                "load ib_ipoib on the host, and keep the PF's netdev in the host's namespace",
            )
        return self._rtnl()

    def set_link_state(self, function: VfFunction, state: str) -> None:
        """Set the VF's link state: auto, enable or disable."""
        folder = self._folder(function.pf)
        if folder:
            _write(folder, function, "policy", POLICIES[state], f"set link state {state} of")
        else:
            self._netlink(function).set_vf_link_state(function, state)

    def set_node_guid(self, function: VfFunction, guid: Guid) -> None:
        """Set the VF's node GUID, which takes effect when the VF is bound to its driver again."""
        folder = self._folder(function.pf)
        if folder:
            _write(folder, function, "node", str(guid), f"set node GUID {guid} of")
        else:
            self._netlink(function).set_vf_node_guid(function, guid)

    def set_port_guid(self, function: VfFunction, guid: Guid) -> None:
        """Set the VF's port GUID, which takes effect when the VF is bound to its driver again."""
        folder = self._folder(function.pf)
        if folder:
            _write(folder, function, "port", str(guid), f"set port GUID {guid} of")
        else:
            self._netlink(function).set_vf_port_guid(function, guid)


def _read_files(folder: str) -> VfConfig:
    return VfConfig(
        node_guid=Guid.parse_or_none(read_attribute(f"{folder}/node")),
        port_guid=Guid.parse_or_none(read_attribute(f"{folder}/port")),
        link_state=POLICY_NAMES.get(read_attribute(f"{folder}/policy"), ""),
    )


def _write(folder: str, function: VfFunction, name: str, text: str, operation: str) -> None:
    path = f"{folder}/{function.index}/{name}"
    try:
        write_attribute(path, f"{text}\n")
    except OSError as fault:
        target = f"VF {function.index} of PF {function.pf_netdev or function.pf} ({path})"
        raise KernelRefused(operation, target, fault.errno or errno.EIO) from None
