"""Real clients: cnitool, Multus, containerd and podman; systemd and Prometheus for the node agent."""

from __future__ import annotations
