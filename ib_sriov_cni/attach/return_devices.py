"""Returning a VF's devices to the host's namespace, by moving them or by a rebind."""

from __future__ import annotations

import errno

from ib_sriov_cni.attach.devices import RETURN_SECONDS, await_fact, read_host_devices
from ib_sriov_cni.attach.keep_numbers import Renumbering, await_numbers, keep_numbers, rebind_in_turn
from ib_sriov_cni.attach.pkey_interface import parent_name, remove_children
from ib_sriov_cni.attach.pod_namespace import open_sandbox
from ib_sriov_cni.attach.remaining_users import describe_remaining_user
from ib_sriov_cni.attach.restore_guids import is_foreign
from ib_sriov_cni.attach.restore_names import restore_names, temporary_netdev_name
from ib_sriov_cni.core.device_numbers import missing_devices
from ib_sriov_cni.core.errors import CniError, DeviceUnusable, KernelRefused
from ib_sriov_cni.kernel.netns import Inside, open_own

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.record import Record
    from ib_sriov_cni.core.values import Link, RdmaDevice
    from ib_sriov_cni.kernel.netns import Netns
    from ib_sriov_cni.kernel.rtnetlink import Rtnl


def return_devices(host: Host, record: Record, lock_timeout: float) -> None:
    """Return the VF's devices to the host's namespace, with the GUIDs and names they had before the ADD.

    A rebind does that from wherever they are, but takes long on hardware. So they are moved where that is enough: the
    VF has its old GUIDs, and its devices can be reached. Devices that do not appear after the rebind are only logged:
    the VF is with its driver again, and its next ADD says what is missing. Raises KernelRefused (102) if the rebind
    fails, TryAgainLater (11) if the lock of rebinds is held for longer than `lock_timeout` seconds.
    """
    pci = record.pci
    # Other numbers than before are a warning: a pod that cannot be deleted would be worse.
    had = record.had_char_devices
    how = Renumbering(devices=had or None, holder=record.key.holder, seconds=lock_timeout, may_change=True)
    with host.log.step("return_devices", vf=pci):
        found = None
        if host.sysfs.read_driver(pci) and not (record.sets_guid and is_foreign(record, host.sysfs.read_rdma(pci))):
            found = _move_to_host(host, record, how)
        if found is not None and (user := describe_remaining_user(host, pci, found[0])):
            host.log.warning("something of the pod still uses the VF; rebinding it", vf=pci, user=user)
            found = None
        # The kernel has returned the devices with other numbers, and a rebind puts that right, if the VF can have its
        # own: an ADD may be about to give them up (keep_numbers).
        if missing_devices(had, host.sysfs.read_char_devices(pci)) and await_numbers(host, pci, had):
            found = None
        if found is None:
            try:
                found = rebind_in_turn(host, pci, record.driver, how)
            except DeviceUnusable as fault:
                if not host.sysfs.read_driver(pci):
                    raise
                host.log.warning("the VF is on the host again, but not its devices", vf=pci, error=fault)
                return
        rdma, link = found
        has = host.sysfs.read_char_devices(pci)
        if missing_devices(had, has):
            host.log.warning(
                "the numbers of the VF's devices have changed: restart the device plugin before a pod gets the VF",
                vf=pci,
                had=",".join(had),
                has=",".join(has),
            )
        if record.sets_guid and is_foreign(record, rdma) and not _has_what_the_pf_says(host, record, rdma):
            # Only a warning: the PF has the right GUIDs, and a pod that cannot be deleted would be worse.
            host.log.warning(
                "the VF did not take its old GUID back", vf=pci, had=record.had_port_guid, has=rdma.port_guid
            )
    restore_names(host, record, rdma, link)


def _has_what_the_pf_says(host: Host, record: Record, rdma: RdmaDevice) -> bool:
    """Return whether the VF has the port GUID that its PF has for it, which need not be the old one."""
    try:
        config = host.vf_configs.read_vf(host.sysfs.read_function(record.pci))
    except CniError:
        return False
    return config is not None and config.port_guid == rdma.port_guid != record.port_guid


def _move_to_host(host: Host, record: Record, how: Renumbering) -> tuple[RdmaDevice, Link] | None:
    """Delete the VF's P_Key children, move its devices to the host, and return them; None if only a rebind can help."""
    pci = record.pci
    found = read_host_devices(host, pci)
    try:
        netns = open_sandbox(record) if found is None else None
    except KernelRefused as refusal:
        host.log.warning("cannot open the pod's namespace; rebinding the VF", vf=pci, error=refusal)
        return None
    if netns is None:
        # They are in the host's namespace, or the pod's is dead and the kernel returns what it held, children included.
        found = found or await_fact(lambda: read_host_devices(host, pci), RETURN_SECONDS)
        return found if found and (not record.child_pkey or remove_children(host.rtnl, record)) else None
    with netns, open_own() as host_netns:
        try:
            # The RDMA device's move destroys its netdev with all children, wherever they are, and makes a new netdev.
            if not (record.rdma_isolation and _return_rdma(host, record, (netns, host_netns), how)):
                inside = host.open_rtnl(netns)
                try:
                    links = inside.read_links()
                    with host.log.step("remove_children"):
                        children_gone = remove_children(inside, record, links)
                    if not children_gone:
                        return None
                    _return_netdev(host, record, inside, (netns, host_netns), links)
                finally:
                    inside.close()
        except KernelRefused as refusal:
            host.log.warning("cannot move the VF out of the pod; rebinding it", vf=pci, error=refusal)
            return None
    return await_fact(lambda: read_host_devices(host, pci), RETURN_SECONDS)


def _return_rdma(host: Host, record: Record, namespaces: tuple[Netns, Netns], how: Renumbering) -> bool:
    """Move the RDMA device out of the pod. Returns whether it was there. `namespaces`: the pod's and the host's.

    The calling thread must be in the pod's namespace, not only the socket (ib_device_set_netns_put checks current).
    """
    name = host.sysfs.read_rdma_name(record.pci)
    if not name:
        return False
    netns, host_netns = namespaces
    inside = host.open_rdma(netns)
    try:
        index = inside.find_device(name)
        if index is None:
            return False

        def act() -> None:
            with host.log.step("return_rdma", rdma=name), Inside(netns):
                inside.move_device(name, host_netns.fd, index)

        keep_numbers(host, record.pci, how, act, operation="the move of its RDMA device")
        return True
    finally:
        inside.close()


def _return_netdev(
    host: Host, record: Record, inside: Rtnl, namespaces: tuple[Netns, Netns], links: list[Link]
) -> None:
    """Move the netdev, unless there is none: then the kernel has made a new one in the host's namespace.

    `namespaces`: the pod's and the host's. A pod can put another interface in the netdev's place between our look and
    the move, with its index and its name, so what arrives is checked, and sent back if it is not the VF's.
    """
    pod_netns, host_netns = namespaces
    ifname = parent_name(record.key.ifname) if record.child_pkey else record.key.ifname
    named = next((link for link in links if link.name == ifname), None)
    link = inside.find_link(record.pci, links) or _by_guid(named, record)
    if link is None:
        return
    for name in link.altnames:
        if name not in record.had_altnames:
            inside.remove_altname(link, name)  # if the host has the same name, the whole move would fail
    # A name that no other device has: with a taken one the move would be half done. restore_names gives the old one.
    name = temporary_netdev_name(record.pci)
    with host.log.step("return_netdev", netdev=link.name, to=name):
        inside.move_link(link, host_netns.fd, name)
        arrived = host.rtnl.read_link(name)
        if arrived is not None and (arrived.pci or host.sysfs.read_netdev_function(name)) != record.pci:
            host.rtnl.move_link(arrived, pod_netns.fd, link.name)
            operation, target = "move to the host", f"netdev {link.name}"
            raise KernelRefused(operation, target, errno.EXDEV, reason="it is not the VF's, and was sent back")


def _by_guid(link: Link | None, record: Record) -> Link | None:
    """Return the link if it has the attachment's port GUID: before Linux 5.14 a netdev's PCI device is unknown."""
    return link if link is not None and not link.pci and link.port_guid == record.port_guid else None
