"""Faulty hardware, failing address management, state that cannot be written, several HCAs."""

from __future__ import annotations
