"""A DEL request made from an attachment's record, for attachments whose runtime never sends one."""

from __future__ import annotations

from ipam.protocol.request import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.core.record import Record


def make_del_request(record: Record) -> Request:
    """Return the DEL that the attachment's runtime would send, without CNI_NETNS.

    CNI_PATH is that of this process, /opt/cni/bin if it has none.
    """
    import os

    from ipam.protocol.fastjson import dumps
    from ipam.protocol.request import parse_args

    # The key was checked, and the name becomes a folder of leases.
    conf = {**record.conf, "name": record.key.network}
    version = record.conf.get("cniVersion") or "0.1.0"
    path = os.environ.get("CNI_PATH", "/opt/cni/bin")
    environ = {
        **os.environ,
        "CNI_COMMAND": "DEL",
        "CNI_CONTAINERID": record.key.container_id,
        "CNI_NETNS": "",
        "CNI_IFNAME": record.key.ifname,
        "CNI_ARGS": record.args,
        "CNI_PATH": path,
    }
    return Request(
        command="DEL",
        container_id=record.key.container_id,
        ifname=record.key.ifname,
        path=tuple(path.split(":")),
        args=parse_args(record.args, frozenset(), lenient=True),
        conf=conf,
        version=str(version),
        environ=environ,
        stdin=dumps(conf).encode(),
    )
