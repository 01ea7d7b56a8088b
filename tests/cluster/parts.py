"""What a cluster is made of: what is newest, or what there was in 2019."""

from __future__ import annotations

import os
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Programs are those of tests/tools/go-client."""

    api_server: str = "kube-apiserver"
    kubelet: str = "kubelet"
    multus: str = "multus"
    # its major version: 1 is the distribution's
    containerd: int = 1
    plugins: tuple[str, ...] = ("flannel", "bridge", "host-local", "loopback")
    # kubelet is told by flags and feature gates what it has keys for since 1.27
    kubelet_flags: bool = False
    # the API server knows CustomResourceDefinitions of v1, since 1.16
    crd_v1: bool = True
    # of the network of our plugin, which is in a folder of packaging/kubernetes/networks
    cni: str = "1.0.0"
    network: str = "flannel"
    # of packaging/kubernetes/overlays, for an API server like this one
    overlay: str = "plain"
    cgroups: int = 2
    # of the lab; "" is the usual one
    kernel: str = ""
    # of the emulated HCA
    knobs: dict[str, int] = field(default_factory=dict)


CLUSTERS = {
    "newest": Parts(),
    "containerd2": Parts(containerd=2),
    "2019": Parts(
        api_server="kube-apiserver@1.15",
        kubelet="kubelet@1.15",
        multus="multus@3.4",
        plugins=("flannel@0.8", "bridge@0.8", "host-local@0.8", "loopback@0.8"),
        kubelet_flags=True,
        crd_v1=False,
        cni="0.3.1",
        network="cni-0.3.1",
        overlay="kubernetes-1.15",
        cgroups=1,
        kernel="5.10",
        # as Linux 4.19 has it: a PF does not tell its VFs' GUIDs, and an RDMA device keeps its name
        knobs={"no_guid_readback": 1, "refuse_rdma_rename": 22},
    ),
}


def chosen() -> Parts:
    """What the variable CLUSTER names; nothing is the newest."""
    return CLUSTERS[os.environ.get("CLUSTER") or "newest"]
