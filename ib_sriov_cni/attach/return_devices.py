"""Bringing a VF's devices back to the host's namespace, by moving them or by binding the driver anew."""

from __future__ import annotations

import errno

from ib_sriov_cni.attach.devices import await_devices, await_fact, read_host_devices, read_netdev
from ib_sriov_cni.attach.names import restore_names, temporary_netdev_name
from ib_sriov_cni.attach.pkey_child import parent_name, remove_children
from ib_sriov_cni.attach.pod_namespace import open_sandbox
from ib_sriov_cni.attach.rebind import rebind
from ib_sriov_cni.core.errors import KernelRefused
from ib_sriov_cni.kernel.netns import Inside, open_own

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.record import Record
    from ib_sriov_cni.core.values import Link, RdmaDevice
    from ib_sriov_cni.kernel.netns import Netns
    from ib_sriov_cni.kernel.rtnetlink import Rtnl

RETURN_SECONDS = 5.0  # for the kernel to bring home what a dead namespace held (measured: 0.6 s)


def return_devices(host: Host, record: Record) -> None:
    """Bring the VF's devices to the host's namespace with their old GUIDs and names.

    Binding the driver anew does it from wherever they are; it is left out when the VF has its GUIDs already
    and its devices come by being moved, because on hardware it takes long.
    """
    pci = record.pci
    with host.log.step("return_devices", vf=pci):
        found = None
        if host.sysfs.read_driver(pci) and not (record.sets_guid and _is_foreign(record, host.sysfs.read_rdma(pci))):
            found = _move_to_host(host, record)
        if found is None:
            rebind(host, pci, record.driver)
            found = await_devices(host, pci)
        rdma, link = found
        if record.sets_guid and _is_foreign(record, rdma):
            # Told, and no fault: a pod that cannot be deleted is worse, and the PF has the right ones.
            host.log.warning("VF has not taken its GUID back", vf=pci, had=record.had_port_guid, has=rdma.port_guid)
    restore_names(host, record, rdma, link)


def _is_foreign(record: Record, rdma: RdmaDevice | None) -> bool:
    """Whether the VF has, or may have, other GUIDs than it had before."""
    if rdma is None or rdma.node_guid is None or rdma.port_guid is None:
        return True  # in the pod, where it cannot be asked
    return (rdma.node_guid, rdma.port_guid) != (record.had_node_guid, record.had_port_guid)


def _move_to_host(host: Host, record: Record) -> tuple[RdmaDevice, Link] | None:
    """Move the VF's devices home, its P_Key children deleted first, and give them; None if they do not come."""
    pci = record.pci
    found = read_host_devices(host, pci)
    netns = open_sandbox(record) if found is None else None
    if netns is None:
        # At home, or the namespace is dying or dead: the kernel brings home what it held, a child too.
        found = found or await_fact(lambda: read_host_devices(host, pci), RETURN_SECONDS)
        return found if found and (not record.child_pkey or remove_children(host.rtnl, record)) else None
    with netns, open_own() as host_netns:
        try:
            # The RDMA device's move ends its netdev with all children, wherever they are; a new one comes home.
            if not (record.rdma_isolation and _return_rdma(host, record, netns, host_netns)):
                inside = host.open_rtnl(netns)
                try:
                    links = inside.read_links()
                    with host.log.step("remove_children"):
                        children_gone = remove_children(inside, record, links)
                    if not children_gone:
                        return None
                    _return_netdev(host, record, inside, host_netns, links)
                finally:
                    inside.close()
        except KernelRefused as refusal:
            host.log.warning("cannot move the VF out of the pod, binding its driver anew", vf=pci, error=refusal)
            return None
    return await_fact(lambda: read_host_devices(host, pci), RETURN_SECONDS)


def _return_rdma(host: Host, record: Record, netns: Netns, host_netns: Netns) -> bool:
    """Move the RDMA device, from inside the pod, where alone it can be seen; tells whether it was there.

    Inside is where the thread has to be, not only the socket (ib_device_set_netns_put looks at current).
    """
    name = host.sysfs.read_rdma_name(record.pci)
    if not name:
        return False
    inside = host.open_rdma(netns)
    try:
        index = inside.find_device(name)
        if index is not None:
            with host.log.step("return_rdma", rdma=name), Inside(netns):
                inside.move_device(name, host_netns.fd, index)
        return index is not None
    finally:
        inside.close()


def _return_netdev(host: Host, record: Record, inside: Rtnl, host_netns: Netns, links: list[Link]) -> None:
    """Move the netdev, unless there is none: the kernel has made a new one at home already."""
    ifname = parent_name(record.key.ifname) if record.child_pkey else record.key.ifname
    named = next((link for link in links if link.name == ifname), None)
    link = inside.find_link(record.pci, links) or _by_guid(named, record)
    if link is None:
        return
    for name in link.altnames:
        if name not in record.had_altnames:
            inside.remove_altname(link, name)  # taken at home, it would keep the whole move from happening
    try:
        with host.log.step("return_netdev", netdev=link.name, to=record.had_netdev):
            inside.move_link(link, host_netns.fd, record.had_netdev or temporary_netdev_name(record.pci))
    except KernelRefused as refusal:
        if refusal.errno != errno.EEXIST:
            raise
        if read_netdev(host, record.pci) is None:
            inside.move_link(link, host_netns.fd, temporary_netdev_name(record.pci))


def _by_guid(link: Link | None, record: Record) -> Link | None:
    """Kernels before 5.14 do not tell a netdev's PCI device: there the port GUID does."""
    return link if link is not None and not link.pci and link.port_guid == record.port_guid else None
