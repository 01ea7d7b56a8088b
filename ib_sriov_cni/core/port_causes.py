"""Why a VF's port is not ACTIVE, as far as VF, PF, and subnet manager show it: the likeliest cause first. No I/O."""

from __future__ import annotations

NO_VIRTUALIZATION = (
    "the PF's port is ACTIVE, so this is nearly always the subnet manager: it must serve VFs' ports (virtualization). "
    "opensm: virt_enabled 2 in opensm.conf, but the opensm of Linux distributions cannot do it for ConnectX-4 and "
    "later; use the opensm of MLNX_OFED or DOCA, UFM, or the subnet manager of an NVIDIA switch"
)
UNKNOWN_PF = (
    "nearly always the subnet manager does not serve VFs' ports (virtualization), or the VF's link state is disable on "
    "its PF; ask whoever has the PF"
)
# What is wrong with a PF whose port has this state. As long as it is, no VF's port can be ACTIVE.
PF_CAUSES = {
    "DOWN": "the PF's own port is DOWN: check cable, transceiver and switch port (ibstat, mlxlink)",
    "INIT": "the PF's own port is INIT: no subnet manager has configured it; is opensm (UFM, the switch's) running?",
    "ARMED": "the PF's own port is ARMED: the subnet manager is still configuring it; see its log",
}
VF_CAUSES = {
    "INIT": "the subnet manager has not configured the port yet: a slow one needs a longer portTimeout; one that never "
    "does it does not serve VFs' ports (opensm: virt_enabled 2)",
    "ARMED": "the subnet manager is configuring the port: it needs a longer portTimeout; see its log",
}


def explain_port(state: str, *, link_state: str, pf_state: str) -> str:
    """Return the likeliest cause for a VF's port in this state, and what to do.

    `link_state`: what the PF reports for the VF, "" if unknown. `pf_state`: of the PF's port, "" if unknown.
    """
    if link_state == "disable":
        return (
            "the PF has link state disable for this VF, set by somebody since: ip link set <PF> vf <index> state auto, "
            'or "link_state": "auto" in the network'
        )
    if pf_state in PF_CAUSES:
        return PF_CAUSES[pf_state]
    if state == "DOWN":
        return NO_VIRTUALIZATION if pf_state else UNKNOWN_PF
    return VF_CAUSES.get(state, "see the subnet manager's log")
