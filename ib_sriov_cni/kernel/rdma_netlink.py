"""Door to NETLINK_RDMA: the RDMA subsystem's namespace mode, and the RDMA devices of one network namespace.

Sources: drivers/infiniband/core/nldev.c, include/uapi/rdma/rdma_netlink.h, `man 8 rdma-dev`, `man 8 rdma-system`.
"""

from __future__ import annotations

import errno
import time

from ib_sriov_cni.core.errors import KernelRefused
from ib_sriov_cni.core.values import PORT_STATES
from ib_sriov_cni.kernel import netlink_messages as m
from ib_sriov_cni.kernel.netlink_socket import NETLINK_RDMA, NetlinkError, NetlinkSocket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

RDMA_NL_NLDEV = 5
CMD_GET, CMD_SET, CMD_PORT_GET, CMD_SYS_GET, CMD_RES_PD_GET = 1, 2, 5, 6, 14
NETNS_MODE = "RDMA_NLDEV_SYS_ATTR_NETNS_MODE"
FIRST_PAUSE, LAST_PAUSE = 0.005, 0.1  # seconds between dumps while a device is not found


class Rdma:
    """RDMA netlink (nldev) in the network namespace that the thread is in when this is made.

    All methods raise KernelRefused (102).
    """

    def __init__(self, *, trace: Callable[[str], None] | None = None) -> None:
        """Open the socket. KernelRefused has errno EPROTONOSUPPORT if the kernel has no RDMA (ib_core not loaded)."""
        try:
            self._socket = NetlinkSocket(NETLINK_RDMA, trace=trace)
        except OSError as refusal:
            hint = "load ib_core and the HCA's driver"
            raise KernelRefused("open", "RDMA netlink", refusal.errno or errno.EIO, details=hint) from None

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _ask(self, operation: str, target: str, command: int, **how: Any) -> list[Any]:
        try:
            return self._socket.ask(m.rdmamsg, RDMA_NL_NLDEV << 10 | command, **how)
        except NetlinkError as refusal:
            raise KernelRefused(operation, target, refusal.errno, reason=refusal.reason) from None

    def read_mode(self) -> str:
        """Return `shared` or `exclusive`; kernels before 5.2, which have no such mode, are shared."""
        try:
            ((mode,),) = self._ask("read", "RDMA namespace mode", CMD_SYS_GET, keep=_number(NETNS_MODE))
        except KernelRefused as refusal:
            if refusal.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                return "shared"
            raise
        # Kernels without the mode omit the attribute.
        return "exclusive" if mode == 0 else "shared"

    def read_devices(self) -> dict[str, int]:
        """Return the index of each RDMA device visible in this namespace, by name; may miss some (`find_device`)."""
        return dict(self._ask("list", "RDMA devices", CMD_GET, flags=m.NLM_F_DUMP, keep=_device))

    def find_device(self, name: str) -> int | None:
        """Return the index of a device, None if this namespace has none of that name; that takes about 0.16 s.

        A dump continues by counting devices (nldev_get_dumpit), so it skips some while others appear or disappear.
        Only several dumps in a row show that a device is not there.
        """
        pause = FIRST_PAUSE
        while True:
            index = self.read_devices().get(name)
            if index is not None or pause > LAST_PAUSE:
                return index
            time.sleep(pause)
            pause *= 2

    def read_port_state(self, name: str) -> str:
        """Return the state of a device's first port (ACTIVE …); empty if this namespace has no such device."""
        index = self.find_device(name)
        if index is None:
            return ""
        attrs = [("RDMA_NLDEV_ATTR_DEV_INDEX", index), ("RDMA_NLDEV_ATTR_PORT_INDEX", 1)]
        how = {"attrs": attrs, "keep": _number("RDMA_NLDEV_ATTR_PORT_STATE")}
        ((state,),) = self._ask("read port 1 of", f"RDMA device {name}", CMD_PORT_GET, **how)
        return PORT_STATES.get(state, "")

    def read_users(self, name: str) -> list[str | int]:
        """Return who has a protection domain of the device: names of kernel modules, numbers of processes.

        IPoIB has one for each of its interfaces, P_Key children included, in whatever namespace they are
        (ipoib_dev_init). Empty if this namespace has no such device; kernels before 4.18 refuse. Not all kernels name
        all: early ones hide processes of other PID namespaces, and kernel users from other than the initial one.
        """
        index = self.find_device(name)
        if index is None:
            return []
        attrs = [("RDMA_NLDEV_ATTR_DEV_INDEX", index)]
        how = {"flags": m.NLM_F_DUMP, "attrs": attrs, "keep": _users}
        found = self._ask("list the users of", f"RDMA device {name}", CMD_RES_PD_GET, **how)
        return [user for users in found for user in users]

    def move_device(self, name: str, netns: int, index: int | None = None) -> None:
        """Move the device to the namespace of that open file; the kernel deletes its IPoIB netdevs and makes new ones.

        The kernel finds RDMA devices only by index: passing `index` saves a dump.
        """
        self._set(f"move {name} to another namespace", name, ("RDMA_NLDEV_NET_NS_FD", netns), index)

    def set_name(self, name: str, new: str) -> None:
        """Rename the device."""
        self._set(f"rename to {new}", name, ("RDMA_NLDEV_ATTR_DEV_NAME", new))

    def _set(self, operation: str, name: str, attribute: tuple[str, object], index: int | None = None) -> None:
        index = self.find_device(name) if index is None else index
        target = f"RDMA device {name}"
        if index is None:
            raise KernelRefused(operation, target, errno.ENODEV)
        attrs = [("RDMA_NLDEV_ATTR_DEV_INDEX", index), attribute]
        self._ask(operation, target, CMD_SET, flags=m.NLM_F_ACK, attrs=attrs)


# What keeps parts of an answer. An attribute that pyroute2 cannot decode is not refused there, but becomes bytes; a
# TypeError here becomes NetlinkError.
def _device(answer: Any) -> tuple[str, int]:
    name, index = answer.get_attr("RDMA_NLDEV_ATTR_DEV_NAME"), answer.get_attr("RDMA_NLDEV_ATTR_DEV_INDEX")
    if not isinstance(name, str) or not isinstance(index, int):
        raise TypeError(f"RDMA device with name {name!r} and index {index!r}")
    return name, index


def _number(attribute: str) -> Callable[[Any], tuple[int | None]]:
    """Return what keeps one number of an answer, None if the kernel does not tell it."""

    def keep(answer: Any) -> tuple[int | None]:
        found = answer.get_attr(attribute)
        if not isinstance(found, (int, type(None))):
            raise TypeError(f"{attribute} is {found!r}")
        return (found,)

    return keep


def _users(answer: Any) -> list[str | int]:
    listed = answer.get_attr("RDMA_NLDEV_ATTR_RES_PD")
    entries = listed.get_attrs("RDMA_NLDEV_ATTR_RES_PD_ENTRY") if listed else []
    found = [
        entry.get_attr("RDMA_NLDEV_ATTR_RES_KERN_NAME") or entry.get_attr("RDMA_NLDEV_ATTR_RES_PID")
        for entry in entries
    ]
    if not all(isinstance(user, (str, int, type(None))) for user in found):
        raise TypeError(f"users of an RDMA device: {found!r}")
    return [user for user in found if user]
