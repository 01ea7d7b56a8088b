"""The CNI commands ADD, CHECK, DEL, GC and STATUS, step by step. docs/architecture.md follows one ADD.

May import core, telemetry, kernel, state, delegation and ipam.protocol. The kernel and the state directory are reached
through the Host that is passed in (attach/host.py).
"""

from __future__ import annotations
