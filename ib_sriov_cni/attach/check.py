"""CHECK: is an attachment still what its ADD made? Every difference is named (C15)."""

from __future__ import annotations

from ib_sriov_cni.attach.add import NEWEST
from ib_sriov_cni.attach.sandbox import refuse_own_namespace
from ib_sriov_cni.delegate import check_addresses
from ib_sriov_cni.errors import CheckDifference, CniError, InvalidConfiguration
from ib_sriov_cni.netns import open_netns
from ib_sriov_cni.plan import PASS_THROUGH_DRIVERS, address_differences, child_differences, link_differences
from ib_sriov_cni.records import Key
from ipam.result import Result, parse_result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.host import Host
    from ib_sriov_cni.netconf import NetConf
    from ib_sriov_cni.netns import Netns
    from ib_sriov_cni.records import Record
    from ib_sriov_cni.rtnl import Rtnl
    from ipam.request import Request


def check(host: Host, request: Request, conf: NetConf) -> None:
    """Compare kernel, record and reservation with prevResult. CheckDifference (105) lists what differs."""
    wanted = conf.prev_result
    if wanted is None:
        raise InvalidConfiguration(f"network {conf.name}: prevResult is missing, which CHECK needs")
    with open_netns(request.netns) as netns:
        refuse_own_namespace(request, netns)
        with host.log.step("check") as step:
            faults = find_differences(host, request, conf, netns, wanted)
            step.tell(differences=len(faults))
    if faults:
        raise CheckDifference(
            f"{request.ifname} of container {request.container_id}: " + "; ".join(faults),
            "delete the pod, or put back what was changed",
        )


def find_differences(host: Host, request: Request, conf: NetConf, netns: Netns, wanted: Result) -> list[str]:
    """Give every difference as a few words."""
    key = Key(network=conf.name, container_id=request.container_id, ifname=request.ifname)
    record = host.records.read(key)
    faults = [] if record else [f"there is no record of it ({host.records.file_of(key)})"]
    if record:
        faults += _vf_differences(host, record)
        if record.driver not in PASS_THROUGH_DRIVERS:
            faults += _pod_differences(host, conf, record, netns, wanted)
    if conf.ipam_type:
        try:
            check_addresses(request, conf.ipam_type, host.log)
        except CniError as fault:
            faults.append(f"reservation: {fault.msg}")
    return faults


def _vf_differences(host: Host, record: Record) -> list[str]:
    """What the host's side says: owner, driver, GUIDs and link state on the PF."""
    pci = record.pci
    faults = []
    if host.records.read_owner(pci) != record.key:
        faults.append(f"VF {pci} belongs to another attachment")
    if not record.committed:
        faults.append("its ADD was never finished")
    if not host.sysfs.exists(pci):
        return [*faults, f"VF {pci} is gone"]
    function = host.sysfs.read_function(pci)
    if function.driver != record.driver:
        faults.append(f"VF {pci} has driver {function.driver or 'none'}, not {record.driver}")
    try:
        config = host.vf_configs.read(function, alone=True)[1].get(function.index)
    except CniError as fault:
        return [*faults, fault.msg]
    if config is None:
        return [*faults, f"PF {function.pf_netdev} does not list VF {function.index}"]
    if record.set_guid:
        pairs = (("node", config.node_guid, record.node_guid), ("port", config.port_guid, record.guid))
    else:
        pairs = (
            ("node", config.node_guid, record.had_config_node_guid),
            ("port", config.port_guid, record.had_config_port_guid),
        )
    faults += [f"the PF has {which} GUID {now} for VF {pci}, not {then}" for which, now, then in pairs if now != then]
    state = record.link_state or record.had_link_state
    if config.link_state != state:
        faults.append(f"the PF has link state {config.link_state} for VF {pci}, not {state}")
    return faults


def _pod_differences(host: Host, conf: NetConf, record: Record, netns: Netns, wanted: Result) -> list[str]:
    """What the pod's side says: interface, addresses, routes, RDMA device."""
    ifname = record.key.ifname
    pod = host.open_rtnl(netns)
    try:
        link = pod.read_link(ifname)
        faults = link_differences(link, name=ifname, guid=record.guid, mtu=conf.mtu, pci=record.pci)
        if link is None:
            names = _names_there(pod, record)
            if names:
                faults = [f"interface {ifname} is called {names[0]} now"]
        else:
            if record.child_pkey:
                faults += child_differences(link, pod.find_link(record.pci), record.child_pkey)
            index = next((i for i, interface in enumerate(wanted.interfaces) if interface.name == ifname), None)
            # Addresses as prevResult has them on our interface; of the chain's routes, those that are ours.
            ours = Result(
                ips=tuple([ip for ip in wanted.ips if ip.interface == index]),
                routes=parse_result(record.result, NEWEST).routes,
            )
            faults += address_differences(ours, index, pod.read_addresses(link), pod.read_routes(link))
    finally:
        pod.close()
    return faults + _rdma_differences(host, record, netns)


def _names_there(pod: Rtnl, record: Record) -> list[str]:
    """What the attachment's interface may be called by now."""
    if record.child_pkey:
        return [link.name for link in pod.find_children(record.pci, record.guid)]
    link = pod.find_link(record.pci)
    return [link.name] if link is not None else []


def _rdma_differences(host: Host, record: Record, netns: Netns) -> list[str]:
    rdma = host.sysfs.read_rdma(record.pci)
    if rdma is None:
        return [f"VF {record.pci} has no RDMA device"]
    if record.rdma_isolation:
        inside = host.open_rdma(netns)
        try:
            return [] if inside.find_device(rdma.name) is not None else [f"RDMA device {rdma.name} is not in the pod"]
        finally:
            inside.close()
    return [] if rdma.node_guid is not None else [f"RDMA device {rdma.name} has left the host's namespace"]
