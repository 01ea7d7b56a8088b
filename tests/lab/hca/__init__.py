"""The emulated HCA, and the lab itself: what the other suites rely on."""

from __future__ import annotations
