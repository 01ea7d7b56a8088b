"""One attachment in detail: its state in the kernel now, and how it differs from its record."""

from __future__ import annotations

from ib_sriov_cni.attach.check import read_config, record_differences
from ib_sriov_cni.attach.pod_namespace import open_sandbox
from ib_sriov_cni.core.comparison import Difference
from ib_sriov_cni.core.errors import CniError, TryAgainLater
from ib_sriov_cni.node.contain import make_error
from ipam.protocol.value import Value, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.check import ReadConfig
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.record import Record
    from ib_sriov_cni.core.values import Link, VfConfig
    from ib_sriov_cni.node.inventory import Attachment


class Live(Value):
    """The state of an attachment in the kernel."""

    link: Link | None  # its interface in the pod, under whatever name
    addresses: tuple[str, ...]
    routes: tuple[str, ...]  # "10.0.0.0/8 via 10.1.2.1"
    rdma: str
    rdma_in_pod: bool
    driver: str
    config: VfConfig | None


def read_live(host: Host, record: Record, read: ReadConfig = read_config) -> Live:
    """Read it from the pod's namespace and the PF; `read` as for `record_differences`.

    Raises CniError: KernelRefused (102) without the right to enter the pod, InternalFault (100) for any exception that
    is not a CniError.
    """
    try:
        return _read_live(host, record, read)
    except Exception as fault:  # see node/contain.py
        raise make_error(fault) from fault


def _read_live(host: Host, record: Record, read: ReadConfig) -> Live:
    rdma = host.sysfs.read_rdma(record.pci)
    config, driver = None, ""
    if host.sysfs.exists(record.pci):
        try:
            function = host.sysfs.read_function(record.pci)
            driver = function.driver
            config = read(host, function) if function.pf is not None else None
        except CniError:
            pass  # its PF has no netdev, which is among the differences
    live = Live(
        link=None,
        addresses=(),
        routes=(),
        rdma=rdma.name if rdma else "",
        rdma_in_pod=record.rdma_isolation and rdma is not None and rdma.node_guid is None,
        driver=driver,
        config=config,
    )
    netns = open_sandbox(record)
    if netns is None:
        return live
    with netns:
        pod = host.open_rtnl(netns)
        try:
            link = pod.read_link(record.key.ifname) or pod.find_link(record.pci)
            if link is None:
                return live
            routes = [f"{route.dst} via {route.gw}" if route.gw else route.dst for route in pod.read_routes(link)]
            return replace(live, link=link, addresses=tuple(pod.read_addresses(link)), routes=tuple(routes))
        finally:
            pod.close()


def differences(host: Host, attachment: Attachment, read: ReadConfig = read_config) -> list[Difference]:
    """Return the differences from the record, as CHECK finds them; of a dead attachment only that it is dead.

    Raises CniError for what cannot be read, whatever the reason; TryAgainLater (11) if a call is changing it.
    """
    if attachment.alive is False:
        return [Difference("dead", attachment.why)]
    try:
        found = settled_differences(host, attachment.record, read=read)
    except Exception as fault:  # see node/contain.py
        raise make_error(fault) from fault
    if found is None:
        raise TryAgainLater("a call is changing it", "look again when it has ended")
    return found


def settled_differences(
    host: Host, record: Record, *, reservation: bool = True, read: ReadConfig = read_config
) -> list[Difference] | None:
    """Return what `record_differences` finds; None if it is about to change, or has changed since `record` was read.

    A DEL or an ADD at the same time makes the world differ from the record for a moment. Raises as it does.
    """
    try:
        found = record_differences(host, record, reservation=reservation, read=read)
    except Exception:
        if is_changing(host, record):
            return None
        raise
    return None if found and is_changing(host, record) else found


def is_changing(host: Host, record: Record) -> bool:
    """Return whether a call is working on the attachment, or has replaced or released it since `record` was read.

    Raises StateFailure (106) if the VF's lock or the record cannot be read.
    """
    if host.locks.read_holder(record.pci):
        return True
    try:
        return host.records.inspect(record.key) != record
    except ValueError:
        return True  # it is damaged by now
