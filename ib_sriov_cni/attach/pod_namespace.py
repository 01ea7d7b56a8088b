"""The pod's network namespace as an ADD or a CHECK may find it: not our own, and still there."""

from __future__ import annotations

from ib_sriov_cni.core.errors import OwnNamespace, UnknownContainer
from ib_sriov_cni.kernel.netns import open_own, try_open_netns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.core.record import Record
    from ib_sriov_cni.kernel.netns import Netns
    from ipam.protocol.request import Request


def refuse_own_namespace(request: Request, netns: Netns) -> None:
    """Refuse to attach to the namespace we run in (C20)."""
    if request.environ.get("CNI_NETNS_OVERRIDE", "").lower() in {"1", "true"}:
        return
    with open_own() as own:
        if own.inode == netns.inode:
            raise OwnNamespace(
                f"CNI_NETNS {netns.path} is the plugin's own network namespace",
                "nothing was touched; pods with hostNetwork have all interfaces already",
            )


def refuse_gone_namespace(netns: Netns) -> None:
    """Refuse a pod whose namespace was deleted since we opened it, and which we alone keep alive by now.

    Its DEL may be over, so that nobody would undo what is done from here on.
    """
    there = try_open_netns(netns.path)
    if there is not None:
        with there:
            if there.inode == netns.inode:
                return
    raise UnknownContainer(
        f"network namespace {netns.path} was deleted while ADD was at work",
        "the container is gone; everything is undone",
    )


def open_sandbox(record: Record) -> Netns | None:
    """Open the attachment's namespace, None if it is gone or another one has its path by now."""
    netns = try_open_netns(record.netns_path)
    if netns is not None and record.netns_cookie and netns.cookie() != record.netns_cookie:
        netns.close()
        return None
    return netns
