"""The node agent, and the rights that plugin and agent need."""

from __future__ import annotations
