"""Undoing an attachment from its record: DEL, the undo of a failed ADD, and the healing of a dead one.

Nothing is taken on trust: where the VF and its devices are is read from the kernel each time, so that this can be
interrupted anywhere and run again. What is done already is done; a fault in one part keeps no other from running.
"""

from __future__ import annotations

import errno

from ib_sriov_cni.attach.child import parent_name, remove_children
from ib_sriov_cni.attach.vf import (
    await_devices,
    await_fact,
    netdev_aside,
    pod_of,
    read_home,
    read_netdev,
    rebind,
    restore_names,
)
from ib_sriov_cni.delegate import delete_addresses
from ib_sriov_cni.errors import CniError, DeviceUnusable, KernelRefused
from ib_sriov_cni.netconf import parse_netconf
from ib_sriov_cni.netns import Inside, open_own, try_open_netns
from ib_sriov_cni.plan import PASS_THROUGH_DRIVERS
from ib_sriov_cni.records import Key
from ib_sriov_cni.undo import Undo
from ipam.request import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ib_sriov_cni.host import Host
    from ib_sriov_cni.model import Link, PciAddress, RdmaDevice, VfConfig, VfFunction
    from ib_sriov_cni.netconf import NetConf
    from ib_sriov_cni.netns import Netns
    from ib_sriov_cni.records import Record
    from ib_sriov_cni.rtnl import Rtnl

HOME_SECONDS = 5.0  # for the kernel to bring home what a dead namespace held (measured: 0.6 s)


def delete(host: Host, request: Request, conf: NetConf) -> None:
    """DEL: release what the attachment holds; repeatable, with or without record, namespace or prevResult (C13)."""
    key = Key(network=conf.name, container_id=request.container_id, ifname=request.ifname)
    undo = Undo()
    record = host.records.read(key)
    if record is None:
        try:
            record = _take_over(host, request, conf, key)
        except CniError as fault:
            undo.faults.append(fault)
    if record is None and not undo.faults and conf.device is not None:
        record = _await_own_add(host, conf.device, key, conf.lock_timeout)
    if record is None:
        host.log.debug("no record: nothing was attached, or it is released already")
        host.records.sweep(conf.name, key)  # its ADD may have died while it wrote one
        undo.attempt(lambda: release_addresses(host, request, conf))
    else:
        with host.log.step("lock", vf=record.pci):
            lock = host.locks.take(record.pci, f"{key.container_id} {key.ifname}", conf.lock_timeout)
        with lock:
            # Whoever held the lock may have released it in the meantime.
            record = host.records.read(key)
            if record is not None:
                release(host, record, request, conf, undo)
            else:
                undo.attempt(lambda: release_addresses(host, request, conf))
    if not undo.faults:
        undo.attempt(lambda: host.records.forget_foreign(key))
    undo.raise_faults()


def _await_own_add(host: Host, pci: PciAddress, key: Key, seconds: float) -> Record | None:
    """An ADD of this attachment that its runtime has given up may be at work, with no record yet: wait for its end.

    Somebody else's ADD on that VF is none of ours.
    """
    holder = f"{key.container_id} {key.ifname}"
    if host.locks.was_last_taken_by(pci, holder):
        with host.log.step("await_add", vf=pci), host.locks.take(pci, holder, seconds):
            pass
    return host.records.read(key)


def _take_over(host: Host, request: Request, conf: NetConf, key: Key) -> Record | None:
    """Make the Go plugin's record of this attachment ours, owner of its VF unless somebody else is."""
    from ib_sriov_cni.attach.adopt import adopt

    record = adopt(host, request, conf, key)
    if record is not None:
        with host.locks.take(record.pci, f"{key.container_id} {key.ifname}", conf.lock_timeout):
            host.records.write(record)
            if host.records.read_owner(record.pci) is None:
                host.records.claim(record.pci, key)
    return record


def release(host: Host, record: Record, request: Request, conf: NetConf, undo: Undo) -> None:
    """Undo an attachment, under its VF's lock. The record goes only when nothing failed."""
    before = len(undo.faults)
    undo.attempt(lambda: release_device(host, record))
    undo.attempt(lambda: release_addresses(host, request, conf))
    if len(undo.faults) == before:
        undo.attempt(lambda: forget(host, record))


def release_recorded(host: Host, record: Record, undo: Undo) -> None:
    """Undo an attachment nobody asks about any more, from its record alone."""
    request = request_of(record)
    release(host, record, request, parse_netconf(request, lenient=True), undo)


def request_of(record: Record) -> Request:
    """Make the DEL that its runtime never sent."""
    import os

    from ipam.fastjson import dumps
    from ipam.request import parse_args

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
        conf=record.conf,
        version=str(version),
        environ=environ,
        stdin=dumps(record.conf).encode(),
    )


def release_addresses(host: Host, request: Request, conf: NetConf) -> None:
    """Have the IPAM plugin release what the attachment holds."""
    if conf.ipam_type:
        with host.log.step("release_addresses", ipam=conf.ipam_type):
            delete_addresses(request, conf.ipam_type, host.log)


def forget(host: Host, record: Record) -> None:
    """Let go of the VF, then of the record: the other way round a crash would leave an owner without record."""
    with host.log.step("disclaim", vf=record.pci):
        host.records.disclaim(record.pci, record.key)
    with host.log.step("forget", vf=record.pci):
        host.records.forget(record.key)


def release_device(host: Host, record: Record) -> None:
    """Bring the VF home as it was: driver, GUIDs, link state, names."""
    pci = record.pci
    if record.boot_id != host.read_boot_id():
        host.log.debug("another boot: the devices of the record are gone", vf=pci)
        return
    if host.records.read_owner(pci) != record.key:
        host.log.debug("the VF serves somebody else by now, or nobody: left alone", vf=pci)
        return
    if not host.sysfs.exists(pci):
        host.log.debug("the VF is gone", vf=pci)
        return
    undo = Undo()
    undo.attempt(lambda: restore_config(host, record))
    if record.driver not in PASS_THROUGH_DRIVERS:
        undo.attempt(lambda: bring_home(host, record))
    undo.raise_faults()


def restore_config(host: Host, record: Record) -> None:
    """Give the VF on the PF the GUIDs and link state it had. The VF takes the GUIDs when it is bound again."""
    if not record.set_guid and not record.link_state:
        return  # the ADD left them alone
    function = host.sysfs.read_function(record.pci)
    with host.log.step("restore_config", vf=record.pci, pf=function.pf_netdev):
        _, configs = host.vf_configs.read(function, alone=True)
        now = configs.get(function.index)
        undo = Undo()
        if record.set_guid:
            undo.attempt(lambda: _restore_guids(host, record, function, now))
        if record.link_state and record.had_link_state and not (now and now.link_state == record.had_link_state):
            undo.attempt(lambda: _restore_link_state(host, record, function))
        undo.raise_faults()


def _restore_link_state(host: Host, record: Record, function: VfFunction) -> None:
    with host.log.step("restore_link_state", state=record.had_link_state):
        host.vf_configs.set_link_state(function, record.had_link_state)


def _restore_guids(host: Host, record: Record, function: VfFunction, now: VfConfig | None) -> None:
    """The VF's own GUIDs are the truth; the PF driver knows only what was set through it since it was loaded."""
    node = record.had_node_guid if record.had_node_guid is not None else record.had_config_node_guid
    port = record.had_port_guid if record.had_port_guid is not None else record.had_config_port_guid
    if now is None or now.node_guid != node:
        with host.log.step("restore_node_guid", guid=node):
            _restore_guid(now, record, lambda: host.vf_configs.set_node_guid(function, node))
    if now is None or now.port_guid != port:
        with host.log.step("restore_port_guid", guid=port):
            _restore_guid(now, record, lambda: host.vf_configs.set_port_guid(function, port))


def _restore_guid(now: VfConfig | None, record: Record, restore: Callable[[], None]) -> None:
    """Set one; a refusal is no fault if the PF has what it had before the ADD: then there it was refused too."""
    try:
        restore()
    except KernelRefused:
        had = (record.had_config_node_guid, record.had_config_port_guid)
        if now is None or (now.node_guid, now.port_guid) != had:
            raise


def bring_home(host: Host, record: Record) -> None:
    """Bring the VF's devices to the host's namespace with their old GUIDs and names.

    Binding the driver anew does it from wherever they are; it is left out when the VF has its GUIDs already
    and its devices come by being moved, because on hardware it takes long.
    """
    pci = record.pci
    with host.log.step("bring_home", vf=pci):
        found = None
        if host.sysfs.read_driver(pci) and not (record.set_guid and _is_foreign(record, host.sysfs.read_rdma(pci))):
            found = _move_home(host, record)
        if found is None:
            rebind(host, pci, record.driver)
            found = await_devices(host, pci)
        rdma, link = found
        if record.set_guid and _is_foreign(record, rdma):
            # Told, and no fault: a pod that cannot be deleted is worse, and the PF has the right ones.
            host.log.warning("VF has not taken its GUID back", vf=pci, had=record.had_port_guid, has=rdma.port_guid)
    restore_names(host, record, rdma, link)


def _is_foreign(record: Record, rdma: RdmaDevice | None) -> bool:
    """Whether the VF has, or may have, other GUIDs than it had before."""
    if rdma is None or rdma.node_guid is None or rdma.port_guid is None:
        return True  # in the pod, where it cannot be asked
    return (rdma.node_guid, rdma.port_guid) != (record.had_node_guid, record.had_port_guid)


def _move_home(host: Host, record: Record) -> tuple[RdmaDevice, Link] | None:
    """Move the VF's devices home, its P_Key children deleted first, and give them; None if they do not come."""
    pci = record.pci
    found = read_home(host, pci)
    netns = open_sandbox(record) if found is None else None
    if netns is None:
        # At home, or the namespace is dying or dead: the kernel brings home what it held, a child too.
        found = found or await_fact(lambda: read_home(host, pci), HOME_SECONDS)
        return found if found and (not record.child_pkey or remove_children(host.rtnl, record)) else None
    with netns, open_own() as home:
        try:
            # The RDMA device's move ends its netdev with all children, wherever they are; a new one comes home.
            if not (record.rdma_isolation and _move_rdma_home(host, record, netns, home)):
                inside = host.open_rtnl(netns)
                try:
                    links = inside.read_links()
                    with host.log.step("remove_children"):
                        children_gone = remove_children(inside, record, links)
                    if not children_gone:
                        return None
                    _move_netdev_home(host, record, inside, home, links)
                finally:
                    inside.close()
        except KernelRefused as refusal:
            host.log.warning("cannot move the VF out of the pod, binding its driver anew", vf=pci, error=refusal)
            return None
    return await_fact(lambda: read_home(host, pci), HOME_SECONDS)


def open_sandbox(record: Record) -> Netns | None:
    """Open the attachment's namespace, None if it is gone or another one has its path by now."""
    netns = try_open_netns(record.netns_path)
    if netns is not None and record.netns_cookie and netns.cookie() != record.netns_cookie:
        netns.close()
        return None
    return netns


def _move_rdma_home(host: Host, record: Record, netns: Netns, home: Netns) -> bool:
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
            with host.log.step("move_rdma_home", rdma=name), Inside(netns):
                inside.move_device(name, home.fd, index)
        return index is not None
    finally:
        inside.close()


def _move_netdev_home(host: Host, record: Record, inside: Rtnl, home: Netns, links: list[Link]) -> None:
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
        with host.log.step("move_netdev_home", netdev=link.name, to=record.had_netdev):
            inside.move_link(link, home.fd, record.had_netdev or netdev_aside(record.pci))
    except KernelRefused as refusal:
        if refusal.errno != errno.EEXIST:
            raise
        if read_netdev(host, record.pci) is None:
            inside.move_link(link, home.fd, netdev_aside(record.pci))


def _by_guid(link: Link | None, record: Record) -> Link | None:
    """Kernels before 5.14 do not tell a netdev's PCI device: there the port GUID does."""
    return link if link is not None and not link.pci and link.port_guid == record.guid else None


def heal(host: Host, pci: PciAddress, key: Key) -> None:
    """Release whatever dead attachment owns the VF, under its lock; DeviceUnusable (101) if it is alive."""
    owner = host.records.read_owner(pci)
    if owner is None:
        return
    record = host.records.read(owner)
    if record is None or record.pci != pci:
        host.records.disclaim(pci, owner)
        return
    if is_alive(host, record):
        raise DeviceUnusable(
            f"VF {pci} is in use by {pod_of(record)}",
            "the device plugin must not give a VF twice; 'ib-sriov show' tells more"
            if owner != key
            else "it is this attachment",
        )
    with host.log.step("heal", vf=pci, owner=pod_of(record)):
        release_device(host, record)
        request = request_of(record)
        undo = Undo()
        if undo.attempt(lambda: release_addresses(host, request, parse_netconf(request, lenient=True))):
            forget(host, record)
            return
        # The VF is home, and what its dead pod's IPAM plugin says must not keep the next pod from it.
        host.records.disclaim(pci, owner)
        host.log.warning("a dead attachment keeps its addresses until its DEL", of=pod_of(record), error=undo.faults[0])


def is_alive(host: Host, record: Record) -> bool:
    """Whether the attachment serves a pod."""
    return not why_dead(host, record)


def why_dead(host: Host, record: Record) -> str:
    """Tell why the attachment serves no pod; empty if it is finished, its namespace lives, and so does the VF in it.

    The VF has a driver then, and is not at home.

    Its VF may have been moved on, into a namespace inside the pod; it serves the pod there.
    """
    if not record.committed:
        return "its ADD was never finished"
    if record.boot_id != host.read_boot_id():
        return "it was made before the last boot"
    netns = open_sandbox(record)
    if netns is None:
        return f"its network namespace {record.netns_path} is gone"
    netns.close()
    if record.driver in PASS_THROUGH_DRIVERS:
        return ""
    if not host.sysfs.read_driver(record.pci):
        return f"VF {record.pci} has no driver"
    if read_home(host, record.pci) is not None:
        return f"VF {record.pci} is back in the host's namespace"
    return ""
