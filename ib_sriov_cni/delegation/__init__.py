"""Door to IPAM plugins: the bundled host-local runs in this process, any other one is executed from CNI_PATH.

May import core, telemetry, kernel (for system calls) and ipam. Starts processes and ends them.
"""

from __future__ import annotations

# Environment variable of an executed IPAM plugin. A CNI call of ours that finds it refuses: ipam.type names ib-sriov.
DELEGATED = "IB_SRIOV_DELEGATED"
# In the messages of all such refusals, whichever copy of this program it is that refuses.
NOT_AN_IPAM_PLUGIN = "ib-sriov is not an IPAM plugin"
