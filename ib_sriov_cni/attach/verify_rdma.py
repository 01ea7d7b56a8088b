"""Verifying a VF's RDMA device: its GUIDs, its port and its P_Key, waiting for what the subnet manager has to do."""

from __future__ import annotations

from ib_sriov_cni.core.comparison import verify_pkey, verify_port
from ib_sriov_cni.core.errors import CniError, PortNotReady
from ib_sriov_cni.core.plan import port_is_awaited

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.configuration import NetConf
    from ib_sriov_cni.core.plan import Plan
    from ib_sriov_cni.core.values import PciAddress, PortReport
    from ib_sriov_cni.kernel.rdma_verifier import Verifier


def verify_rdma(host: Host, conf: NetConf, plan: Plan, verifier: Verifier, *, pci: PciAddress, rdma: str) -> PortReport:
    """Open the RDMA device, and wait up to portTimeout until its port is ACTIVE and has the P_Key that is asked for.

    Raises VerificationFailed (103) if the device cannot be opened or is not as planned, PortNotReady (103) if only the
    subnet manager has not done its part.
    """
    waited = port_is_awaited(conf)
    with host.log.step("verify_rdma", rdma=rdma) as step:
        report = verifier.read_port(rdma, wait=conf.port_timeout if waited else 0.0, pkey=conf.pkey)
        step.note(state=report.state, lid=report.lid, guid=report.port_guid)
        verify_port(report, plan)
        if waited and report.state != "ACTIVE":
            raise _describe_port(host, conf, report, pci)
        verify_pkey(report, conf)
        return report


def _describe_port(host: Host, conf: NetConf, report: PortReport, pci: PciAddress) -> PortNotReady:
    """Return the error for a port that is not ACTIVE. Its PF is read only now."""
    from ib_sriov_cni.core.port_causes import explain_port

    link_state = pf_state = ""
    try:
        function = host.sysfs.read_function(pci)
        if function.pf is not None:
            pf_state = host.sysfs.read_port_state(host.sysfs.read_rdma_name(function.pf))
            config = host.vf_configs.read(function, alone=True)[1].get(function.index)
            link_state = config.link_state if config else ""
    except CniError as fault:
        host.log.debug("the PF cannot be asked why the port is not ACTIVE", error=fault)
    pf = f", the PF's port is {pf_state}" if pf_state else ""
    cause = explain_port(report.state, link_state=link_state, pf_state=pf_state)
    not_active = PortNotReady(
        f"RDMA device {report.device}: port 1 is {report.state} after {conf.port_timeout:g} s (LID {report.lid}, "
        f"subnet manager's LID {report.sm_lid}{pf})",
        f"{cause}; with portTimeout 0, ADD does not wait",
    )
    not_active.is_slow = link_state != "disable"
    return not_active
