"""The node agent: it releases what dead pods left, repairs live attachments and exports metrics (docs/agent.md).

May import node, attach and everything below. A long-lived process, so nothing here is on the hot path.
"""

from __future__ import annotations
