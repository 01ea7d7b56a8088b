"""A whole node: the inventory of its PFs, VFs and attachments, and the repair of what can be repaired.

May import attach and what attach may. Used by the command line and the node agent alike; reading changes nothing.
"""

from __future__ import annotations
