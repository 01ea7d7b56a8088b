"""The doctor, and what packaging/ puts on a host."""

from __future__ import annotations
