"""Multus as a node has it: eth0 by bridge and host-local, as flannel delegates to them, net1 by our plugin."""

from __future__ import annotations

from typing import Any

from tests.lab import commands

BRIDGE = "cni0"
CLUSTER_SUBNET = "10.244.1.0/24"
GATEWAY = "10.244.1.1"


def cluster_network(version: str) -> dict[str, Any]:
    """What the flannel plugin makes of its subnet.env (N7), without the masquerading, which wants iptables."""
    return {
        "cniVersion": version,
        "name": "cbr0",
        "type": "bridge",
        "bridge": BRIDGE,
        "mtu": 1450,
        "hairpinMode": True,
        "ipMasq": False,
        "isGateway": True,
        "isDefaultGateway": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": CLUSTER_SUBNET}]], "routes": [{"dst": "10.244.0.0/16"}]},
    }


def conf(version: str, delegate: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Multus with delegates that need no API server: eth0's, then `delegate` for net1."""
    return {
        "cniVersion": version,
        "name": "multus-cni-network",
        "type": "multus",
        "logFile": "/run/multus.log",
        "logLevel": "debug",
        "delegates": [cluster_network(version), delegate],
        **more,
    }


def forget_bridge() -> None:
    """The bridge plugin leaves its bridge for the next pod."""
    commands.run(["ip", "link", "del", "dev", BRIDGE], check=False)
