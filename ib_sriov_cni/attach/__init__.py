"""The story of an attachment: ADD, CHECK, DEL, GC and STATUS, in steps. docs/architecture.md follows one ADD.

May import everything below it: core, telemetry, kernel, state, delegation, ipam.protocol. It opens no file and no
socket itself: the doors come bundled in a Host (attach/host.py).
"""

from __future__ import annotations
