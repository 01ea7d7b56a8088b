"""The topics of the facts, as messages name them. No I/O."""

from __future__ import annotations

TOPICS = {
    "hca": "the PCI tree (sysfs)",
    "config": "the CNI configurations",
    "ports": "port states and P_Keys (sysfs, which asks the firmware)",
    "vf_configs": "the PF's settings of its VFs (netlink)",
    "sm": "the query to the subnet manager (umad)",
    "verbs": "opening an RDMA device (libibverbs)",
    "state": "records, leases and locks",
    "node": "kernel, programs and kubelet's files",
}
