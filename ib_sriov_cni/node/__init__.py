"""The inventory of a node (its PFs, VFs and attachments), and the repair of what is wrong with it.

Used by the command line and the node agent. May import attach, and what attach may import.
"""

from __future__ import annotations
