"""Door to IPAM plugins: the bundled host-local runs in this process, any other one is executed from CNI_PATH.

May import core, telemetry, kernel (for system calls) and ipam. Starts processes and ends them.
"""

from __future__ import annotations
