"""Death, error and SIGTERM at every step of ADD, DEL and GC."""

from __future__ import annotations
