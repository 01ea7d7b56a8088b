"""Doors to our own files: records, owners of VFs, the Go plugin's records, locks, stray files, device info.

May import core, telemetry and ipam.protocol. Uses the state directory, the lock directory and the device-info file that
Multus names, and nothing else.
"""

from __future__ import annotations
