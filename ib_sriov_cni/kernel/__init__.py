"""Doors to the kernel: netlink, sysfs, network namespaces, system calls, and libibverbs through pyverbs.

May import core, telemetry and ipam.protocol. Only this package opens netlink sockets, writes to /sys and enters
namespaces; every refusal of the kernel leaves it as an error with operation, object and reason. It decides nothing.
"""

from __future__ import annotations
