"""STATUS: whether ADDs can be served here; if not, what is broken, and what to do (C18).

A runtime that gets code 50 takes the whole node for not ready, and its pods are evicted. So a node whose VFs or
addresses are all in use is fine: that is for ADD to say. It has to be cheap: containerd asks every few seconds.
"""

from __future__ import annotations

from ib_sriov_cni.attach.liveness import judge
from ib_sriov_cni.core.errors import CniError, NotAvailable
from ib_sriov_cni.core.values import is_pass_through, render_bind_commands
from ib_sriov_cni.delegation.ipam_plugin import ask_addresses
from ipam.protocol.bounds import join_faults

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.configuration import NetConf
    from ib_sriov_cni.core.values import PciAddress
    from ipam.protocol.request import Request

FREE, IN_USE, UNBOUND, WITHOUT_NETDEV = "free", "in use", "without driver", "without netdev here"
HINTS = {
    UNBOUND: f"bind them: {render_bind_commands('<VF>', '<driver>')}; `ib-sriov repair` does it where it may",
    WITHOUT_NETDEV: "modprobe ib_ipoib; a netdev that was moved away returns when its namespace ends",
}


def status(host: Host, request: Request, conf: NetConf) -> None:
    """Raise NotAvailable (50), with the reasons and what to do, unless ADDs can be served."""
    _require_usable_vf(host, conf)
    if conf.rdma_isolation and host.rdma.read_mode() != "exclusive":
        raise NotAvailable(
            "rdmaIsolation needs the RDMA namespace mode exclusive, it is shared",
            "set 'options ib_core netns_mode=0' in /etc/modprobe.d and reboot",
        )
    if conf.ipam_type:
        try:
            ask_addresses(request, conf.ipam_type, host.log)
        except NotAvailable:
            raise
        except CniError as fault:
            raise NotAvailable(fault.msg, fault.details) from None


def _require_usable_vf(host: Host, conf: NetConf) -> None:
    reasons, hints = [], []
    for pf in host.sysfs.read_pfs():
        reason, hint = _why_not(host, pf, conf)
        if not reason:
            return
        reasons.append(f"PF {pf}: {reason}")
        hints.append(hint)
    lone = host.sysfs.read_lone_vfs()
    if lone:
        reason, hint = _why_none_of(host, lone, conf)
        if not reason:
            return
        reasons.append(f"VFs without a PF: {reason}")
        hints.append(hint)
    if not reasons:
        raise NotAvailable(
            "this node has no InfiniBand PF with SR-IOV",
            "does lspci list the HCA, is its driver loaded, and is SR-IOV enabled in its firmware?",
        )
    raise NotAvailable("no VF can be given to a pod: " + join_faults(reasons), join_faults([*dict.fromkeys(hints)]))


def _why_not(host: Host, pf: PciAddress, conf: NetConf) -> tuple[str, str]:
    """Return why no VF of this PF can be given to a pod, and what to do; both empty if one can or was."""
    vfs = host.sysfs.read_vfs(pf)
    if not vfs:
        return "it has no VFs", f"write their number to /sys/bus/pci/devices/{pf}/sriov_numvfs"
    if not host.sysfs.read_netdev(pf):
        return "it has no netdev, so no GUID can be set: ib_ipoib is not loaded", "modprobe ib_ipoib"
    return _why_none_of(host, vfs, conf)


def _why_none_of(host: Host, vfs: list[PciAddress], conf: NetConf) -> tuple[str, str]:
    """Return why none of these VFs can be given to a pod, and what to do; both empty if one can or was."""
    wanted = [vf for vf in vfs if conf.device in (None, vf)]
    if not wanted:
        return f"deviceID {conf.device} is not one of them", "is sriov_numvfs what the device plugin expects?"
    states = [_read_state(host, vf) for vf in wanted]
    if FREE in states or IN_USE in states:
        return "", ""
    counts = [(state, states.count(state)) for state in HINTS if state in states]
    # The hint is for the most common state.
    state = max(counts, key=lambda count: count[1])[0]
    return f"of {len(wanted)} VFs " + ", ".join([f"{number} {word}" for word, number in counts]), HINTS[state]


def _read_state(host: Host, vf: PciAddress) -> str:
    """Return what keeps a VF from being given to a pod; a dead attachment does not, the next ADD heals it."""
    driver = host.sysfs.read_driver(vf)
    if not driver:
        return UNBOUND
    owner = host.ownership.read_owner(vf)
    if owner is not None:
        record = host.records.read(owner)
        return FREE if record is None or judge(host, record).is_over else IN_USE
    if is_pass_through(driver) or host.sysfs.read_netdev(vf):
        return FREE
    rdma = host.sysfs.read_rdma(vf)
    return IN_USE if rdma is not None and rdma.node_guid is None else WITHOUT_NETDEV
