"""CHECK: compare an attachment with what its ADD made, and list every difference (C15)."""

from __future__ import annotations

from ib_sriov_cni.attach.pod_namespace import open_sandbox, refuse_own_namespace
from ib_sriov_cni.attach.recorded_request import make_del_request
from ib_sriov_cni.core.comparison import Difference, address_differences, child_differences, link_differences
from ib_sriov_cni.core.configuration import parse_netconf
from ib_sriov_cni.core.errors import CheckDifference, CniError, InvalidConfiguration
from ib_sriov_cni.core.record import AttachmentKey
from ib_sriov_cni.core.routes import common_routes, is_default_route
from ib_sriov_cni.core.values import is_pass_through
from ib_sriov_cni.delegation.ipam_plugin import check_addresses
from ib_sriov_cni.kernel.netns import open_netns
from ipam.protocol.bounds import join_faults
from ipam.protocol.fastjson import dumps
from ipam.protocol.request import version_at_least
from ipam.protocol.result import Result, parse_result, render_result
from ipam.protocol.value import replace
from ipam.protocol.versions import NEWEST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.configuration import NetConf
    from ib_sriov_cni.core.record import Record
    from ib_sriov_cni.core.values import Guid, VfConfig, VfFunction
    from ib_sriov_cni.kernel.netns import Netns
    from ib_sriov_cni.kernel.rtnetlink import Rtnl
    from ipam.protocol.request import Request

    ReadConfig = Callable[[Host, VfFunction], VfConfig | None]

CHECK_SINCE = "0.4.0"


def check(host: Host, request: Request, conf: NetConf) -> None:
    """Compare the kernel, the record and the IPAM plugin's reservation with prevResult.

    Raises CheckDifference (105), which lists every difference; InvalidConfiguration (7) without prevResult;
    UnknownContainer (3) if the namespace is gone; OwnNamespace (8).
    """
    wanted = conf.prev_result
    if wanted is None:
        raise InvalidConfiguration(f"network {conf.name}: prevResult is missing, which CHECK needs")
    with open_netns(request.netns) as netns:
        refuse_own_namespace(request, netns)
        with host.log.step("check") as step:
            faults = _find_differences(host, request, conf, netns, wanted)
            step.note(differences=len(faults))
    if faults:
        raise CheckDifference(
            f"{request.ifname} of container {request.container_id}: " + join_faults([*faults]),
            "delete the pod, or put back what was changed",
        )


def _find_differences(host: Host, request: Request, conf: NetConf, netns: Netns, wanted: Result) -> list[Difference]:
    key = AttachmentKey(network=conf.name, container_id=request.container_id, ifname=request.ifname)
    record = host.records.read(key)
    if record is None:
        faults = [Difference("record", f"there is no record of it ({host.records.file_of(key)})")]
    else:
        # The ADD's configuration: the network's, or the node-wide defaults, may have changed since.
        added = parse_netconf(make_del_request(record), lenient=True)
        # prevResult says which addresses are on our interface, but not which routes: those are in the record. Multus
        # takes default routes away, or replaces them, and changes prevResult accordingly.
        routes = common_routes(parse_result(record.result, NEWEST).routes, wanted.routes)
        faults = _compare(host, record, added, netns, replace(wanted, routes=tuple(routes)))
    return faults + _reservation_differences(host, request, conf)


def read_config(host: Host, function: VfFunction) -> VfConfig | None:
    """Return the PF's settings of a VF, None if it does not list it. Raises KernelRefused (102)."""
    return host.vf_configs.read(function, alone=True)[1].get(function.index)


def record_differences(
    host: Host, record: Record, *, reservation: bool = True, read: ReadConfig = read_config
) -> list[Difference]:
    """Return what CHECK would find, with the record's own result in place of prevResult.

    Default routes are not compared: Multus takes them away, or replaces them, and only prevResult says so.
    `reservation`: also ask the IPAM plugin whether the addresses are still reserved, as CHECK does. `read`: where the
    PF's settings of the VF come from, if they have been read already. Raises CniError where something cannot be read,
    such as KernelRefused (102) without the right to enter the pod's namespace.
    """
    request = make_del_request(record)
    conf = parse_netconf(request, lenient=True)
    netns = open_sandbox(record)
    if netns is None:
        return [Difference("namespace", f"its network namespace is not at {record.netns_path}")]
    made = parse_result(record.result, NEWEST)
    routes = tuple([route for route in made.routes if not is_default_route(route)])
    with netns:
        faults = _compare(host, record, conf, netns, replace(made, routes=routes), read)
    if not reservation or not version_at_least(request.version, CHECK_SINCE):
        return faults  # IPAM plugins of that version have no CHECK
    document = {**record.conf, "prevResult": render_result(made, request.version)}
    environ = {**request.environ, "CNI_COMMAND": "CHECK", "CNI_NETNS": record.netns_path}
    asked = replace(
        request,
        command="CHECK",
        netns=record.netns_path,
        conf=document,
        environ=environ,
        stdin=dumps(document).encode(),
    )
    return faults + _reservation_differences(host, asked, conf)


def _compare(
    host: Host, record: Record, conf: NetConf, netns: Netns, wanted: Result, read: ReadConfig = read_config
) -> list[Difference]:
    """Compare the kernel's state with the record, and the pod's addresses and routes with `wanted`."""
    faults = _vf_differences(host, record, read)
    if not is_pass_through(record.driver):
        faults += _pod_differences(host, conf, record, netns, wanted)
    return faults


def _reservation_differences(host: Host, request: Request, conf: NetConf) -> list[Difference]:
    if not conf.ipam_type:
        return []
    try:
        check_addresses(request, conf.ipam_type, host.log)
    except CniError as fault:
        return [Difference("reservation", f"reservation: {fault.msg}")]
    return []


def _vf_differences(host: Host, record: Record, read: ReadConfig) -> list[Difference]:
    """Compare what the host sees: owner, driver, and the PF's GUIDs and link state for the VF."""
    pci = record.pci
    faults = []
    owner = host.ownership.read_owner(pci)
    if owner != record.key:
        faults.append(Difference("owner", f"VF {pci} belongs to {'another attachment' if owner else 'nobody'}", owner))
    if not record.committed:
        faults.append(Difference("unfinished", "its ADD was never finished"))
    if not host.sysfs.exists(pci):
        return [*faults, Difference("vf", f"VF {pci} is gone")]
    function = host.sysfs.read_function(pci)
    if function.driver != record.driver:
        faults.append(
            Difference("driver", f"VF {pci} has driver {function.driver or 'none'}, not {record.driver}", record.driver)
        )
    if function.pf is None:
        return faults
    try:
        config = read(host, function)
    except CniError as fault:
        return [*faults, Difference("pf", fault.msg)]
    if config is None:
        if not record.had_link_state:
            return faults  # nor did it when the VF was attached
        return [*faults, Difference("pf", f"PF {function.pf_netdev} does not list VF {function.index} any more")]
    return faults + _config_differences(record, config)


def _config_differences(record: Record, config: VfConfig) -> list[Difference]:
    """Compare the PF's settings of the VF with those that the ADD left, as far as both are known."""
    pci = record.pci
    had: tuple[Guid | None, Guid | None] = (record.had_config_node_guid, record.had_config_port_guid)
    node, port = (record.node_guid, record.port_guid) if record.sets_guid else had
    pairs = (("node", config.node_guid, node), ("port", config.port_guid, port))
    faults = [
        Difference("config_guid", f"the PF has {which} GUID {now} for VF {pci}, not {then}", then)
        for which, now, then in pairs
        if now is not None and then is not None and now != then
    ]
    state = record.link_state or record.had_link_state
    if config.link_state and state and config.link_state != state:
        words = f"the PF has link state {config.link_state} for VF {pci}, not {state}"
        faults.append(Difference("link_state", words, state))
    return faults


def _pod_differences(host: Host, conf: NetConf, record: Record, netns: Netns, wanted: Result) -> list[Difference]:
    """Compare what the pod sees: interface, addresses, routes, RDMA device."""
    ifname = record.key.ifname
    pod = host.open_rtnl(netns)
    try:
        link = pod.read_link(ifname)
        faults = link_differences(link, name=ifname, guid=record.port_guid, mtu=conf.mtu, pci=record.pci)
        if link is None:
            names = _read_new_names(pod, record)
            if names:
                faults = [Difference("interface", f"interface {ifname} was renamed to {names[0]}")]
        else:
            if record.child_pkey:
                faults += child_differences(link, pod.find_link(record.pci), record.child_pkey)
            index = next((i for i, interface in enumerate(wanted.interfaces) if interface.name == ifname), None)
            ours = Result(ips=tuple([ip for ip in wanted.ips if ip.interface == index]), routes=wanted.routes)
            faults += address_differences(ours, index, pod.read_addresses(link), pod.read_routes(link))
    finally:
        pod.close()
    return faults + _rdma_differences(host, record, netns)


def _read_new_names(pod: Rtnl, record: Record) -> list[str]:
    """Return the names that the attachment's interface may have been given in the pod."""
    if record.child_pkey:
        return [link.name for link in pod.find_children(record.pci, record.port_guid)]
    link = pod.find_link(record.pci)
    return [link.name] if link is not None else []


def _rdma_differences(host: Host, record: Record, netns: Netns) -> list[Difference]:
    rdma = host.sysfs.read_rdma(record.pci)
    if rdma is None:
        return [Difference("rdma", f"VF {record.pci} has no RDMA device")]
    if record.rdma_isolation:
        inside = host.open_rdma(netns)
        try:
            if inside.find_device(rdma.name) is not None:
                return []
        finally:
            inside.close()
        return [Difference("rdma", f"RDMA device {rdma.name} is not in the pod")]
    if rdma.node_guid is not None:
        return []
    return [Difference("rdma", f"RDMA device {rdma.name} has left the host's namespace")]
