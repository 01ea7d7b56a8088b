"""CNI plugin that gives a Kubernetes pod an InfiniBand virtual function."""

from __future__ import annotations

__version__ = "0.1.0.dev0"
