"""Hundreds of random calls at once, some of which die."""

from __future__ import annotations
