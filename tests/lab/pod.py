"""Pods as the plugin sees them: a network namespace and a container ID."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.lab import commands


class Pod:
    """A named network namespace with `lo` up."""

    def __init__(self, name: str, *, serial: int = 0) -> None:
        self.name = name
        self.netns = f"/run/netns/{name}"
        # as container runtimes make them: 64 hexadecimal digits
        self.container_id = hashlib.sha256(f"{name} {serial}".encode()).hexdigest()
        commands.run(["ip", "netns", "add", name])
        commands.run(["ip", "-n", name, "link", "set", "lo", "up"])

    def __repr__(self) -> str:
        return f"Pod({self.name!r})"

    def run(
        self, command: str | Sequence[str], check: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell line or an argument list in the pod."""
        return commands.run(command, netns=self.name, check=check, timeout=timeout)

    def links(self) -> list[dict[str, Any]]:
        """The netdevs as `ip -j -d addr` prints them."""
        return commands.links(self.name)

    def link(self, ifname: str = "net1") -> dict[str, Any] | None:
        return next((link for link in self.links() if link["ifname"] == ifname), None)

    def addresses(self, ifname: str = "net1") -> list[str]:
        """Addresses with their prefix length ("10.1.2.3/24"), link-local ones left out; sorted."""
        link = self.link(ifname)
        found = link["addr_info"] if link else []
        return sorted(f"{each['local']}/{each['prefixlen']}" for each in found if each["scope"] != "link")

    def routes(self) -> list[dict[str, Any]]:
        """The main tables of both families, as `ip -j route` prints them."""
        found: list[dict[str, Any]] = []
        for family in ("-4", "-6"):
            found += commands.read_json(["ip", "-n", self.name, family, "-j", "route", "show"])
        return found

    def rdma(self) -> list[str]:
        """The RDMA devices that the pod sees (in shared mode: all of the host's)."""
        return commands.rdma_names(self.name)

    def exists(self) -> bool:
        return Path(self.netns).exists()

    def delete(self) -> None:
        """End the namespace; the kernel returns the devices to the host a little later."""
        if self.exists():
            commands.run(["ip", "netns", "del", self.name])
