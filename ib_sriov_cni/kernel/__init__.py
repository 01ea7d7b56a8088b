"""Doors to the kernel: netlink, sysfs, network namespaces, system calls, and libibverbs through pyverbs.

May import core, telemetry and ipam.protocol. Only this package opens netlink sockets, writes to /sys and enters
namespaces. It makes no decisions. A refusal by the kernel becomes an error with operation, object and reason.
"""

from __future__ import annotations
