"""host-local address management, a drop-in for the Go plugin: allocator, ranges and slices; leases on disk.

May import ipam.protocol. Touches the lease directory (store, index, lock) and the files that its configuration names.
"""

from __future__ import annotations
