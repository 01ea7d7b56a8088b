"""The pod's network namespace: opening it, and refusing one that is our own or is gone."""

from __future__ import annotations

from ib_sriov_cni.core.errors import OwnNamespace, UnknownContainer
from ib_sriov_cni.kernel.netns import open_own, try_open_netns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.core.record import Record
    from ib_sriov_cni.kernel.netns import Netns
    from ipam.protocol.request import Request


def refuse_own_namespace(request: Request, netns: Netns) -> None:
    """Raise OwnNamespace (8) if it is the namespace we run in (C20). CNI_NETNS_OVERRIDE=1 allows it."""
    if request.environ.get("CNI_NETNS_OVERRIDE", "").lower() in {"1", "true"}:
        return
    with open_own() as own:
        if own.inode == netns.inode:
            raise OwnNamespace(
                f"CNI_NETNS {netns.path} is the plugin's own network namespace",
                "nothing was changed; a pod with hostNetwork has all interfaces already",
            )


def refuse_gone_namespace(netns: Netns) -> None:
    """Raise UnknownContainer (3) if the namespace was deleted since we opened it, so that only we keep it alive.

    Its DEL may have run already; then nobody would undo what is done from here on.
    """
    there = try_open_netns(netns.path)
    if there is not None:
        with there:
            if there.inode == netns.inode:
                return
    raise UnknownContainer(
        f"network namespace {netns.path} was deleted during ADD",
        "the container is gone; everything is undone",
    )


def open_sandbox(record: Record) -> Netns | None:
    """Open the attachment's network namespace. None if it is gone, or another one is at its path.

    Raises KernelRefused (102) if it cannot be entered, which reading its cookie takes.
    """
    netns = try_open_netns(record.netns_path)
    if netns is None or not record.netns_cookie:
        return netns
    try:
        is_same = netns.cookie() == record.netns_cookie
    except BaseException:
        netns.close()  # an open file would keep the namespace, and so the pod's VF, from ending
        raise
    if is_same:
        return netns
    netns.close()
    return None
