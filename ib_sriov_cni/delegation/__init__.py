"""The door to IPAM plugins: the bundled host-local in this process, any other as a program from CNI_PATH.

May import core, telemetry, kernel (for system calls) and ipam. Starts processes and ends them.
"""

from __future__ import annotations
