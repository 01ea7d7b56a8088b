"""The versions of the CNI protocol that both programs speak (C6)."""

from __future__ import annotations

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST = VERSIONS[-1]  # results in records are in this one
