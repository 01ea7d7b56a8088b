"""Real clients of a CNI plugin, as tests in the guest handle them (docs/runtimes.md)."""

from __future__ import annotations
