"""STATUS: could an ADD be served now? If not, why, and what to do (C18). Cheap: containerd asks every few seconds."""

from __future__ import annotations

from ib_sriov_cni.attach.release import is_alive
from ib_sriov_cni.delegate import ask_addresses
from ib_sriov_cni.errors import CniError, NotAvailable
from ib_sriov_cni.plan import PASS_THROUGH_DRIVERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.host import Host
    from ib_sriov_cni.model import PciAddress
    from ib_sriov_cni.netconf import NetConf
    from ipam.request import Request


def status(host: Host, request: Request, conf: NetConf) -> None:
    """Say nothing if an ADD could be served. NotAvailable (50) tells what is in the way."""
    _demand_free_vf(host, conf)
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


def _demand_free_vf(host: Host, conf: NetConf) -> None:
    pfs = host.sysfs.read_pfs()
    if not pfs:
        raise NotAvailable(
            "no InfiniBand PF with SR-IOV is here",
            "is the HCA there (lspci), its driver loaded, and SR-IOV enabled in its firmware?",
        )
    reasons = []
    for pf in pfs:
        reason = _why_not(host, pf, conf)
        if not reason:
            return
        reasons.append(f"PF {pf}: {reason}")
    raise NotAvailable("no VF is free: " + "; ".join(reasons), "see docs/troubleshooting.md, or end a pod")


def _why_not(host: Host, pf: PciAddress, conf: NetConf) -> str:
    """Tell why no VF of this PF can be given to a pod; empty if one can."""
    vfs = host.sysfs.read_vfs(pf)
    if not vfs:
        return "it has no VFs (write their number to sriov_numvfs)"
    if not host.sysfs.read_netdev(pf):
        return "it has no netdev: ib_ipoib is not loaded (modprobe ib_ipoib)"
    unbound = 0
    for vf in vfs:
        if conf.device not in (None, vf):
            continue
        driver = host.sysfs.read_driver(vf)
        unbound += not driver
        if driver and _is_free(host, vf, passed_through=driver in PASS_THROUGH_DRIVERS):
            return ""
    if unbound == len(vfs):
        return f"none of its {len(vfs)} VFs has a driver (echo a VF's address to /sys/bus/pci/drivers_probe)"
    return f"all of its {len(vfs)} VFs are in use" + (f", {unbound} without driver" if unbound else "")


def _is_free(host: Host, vf: PciAddress, *, passed_through: bool) -> bool:
    """Whether nobody owns it, or only somebody the next ADD would heal away."""
    owner = host.records.read_owner(vf)
    if owner is None:
        return passed_through or bool(host.sysfs.read_netdev(vf))
    record = host.records.read(owner)
    return record is None or not is_alive(host, record)
