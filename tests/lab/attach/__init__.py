"""ADD, CHECK, DEL and GC of one attachment on one HCA."""

from __future__ import annotations
