"""What an invocation says of itself: the log, the timeline, and the fault points that tests use.

May import core and ipam.protocol. Writes to the log file, the timeline's file and standard error, and to nothing else.
"""

from __future__ import annotations

# Variables of the environment.
TIMELINE = "IB_SRIOV_TRACE"  # names the timeline's file (timeline.py)
FAULT_POINT = "IB_SRIOV_TRACE_POINT"  # where a test strikes (fault_points.py)
