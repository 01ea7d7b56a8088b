"""The log, the timeline, and the fault points for tests.

May import core and ipam.protocol. Writes to the log file, the timeline's file and standard error, and to nothing else.
"""

from __future__ import annotations

# Environment variables.
TIMELINE = "IB_SRIOV_TRACE"  # the timeline's file (timeline.py)
FAULT_POINT = "IB_SRIOV_TRACE_POINT"  # where a test injects a fault (fault_points.py)
