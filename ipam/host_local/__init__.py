"""The host-local IPAM plugin, a drop-in replacement for the Go one: allocator, ranges and slices; leases on disk.

May import ipam.protocol. Accesses the lease directory (store, index, lock) and the files its configuration names.
"""

from __future__ import annotations
