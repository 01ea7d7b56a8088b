"""A node's number in the cluster, for slices without flannel: the position of its podCIDR in the cluster's CIDR.

Kubernetes' controller manager gives each node a podCIDR of its own (--allocate-node-cidrs, which kubeadm sets for a
podSubnet) and never changes it, whatever plugin serves the pods' first interface. So no two nodes have one number. It
is written once for each start of the agent, by a thread of its own, which tries until the API server answers. Source:
Kubernetes API reference, Node v1 core.
"""

from __future__ import annotations

import threading
from urllib.parse import quote

from ib_sriov_cni.agent.api_server import ApiFailure, ApiServer
from ib_sriov_cni.state.directory import replace_file
from ib_sriov_cni.telemetry.log import Log
from ipam.host_local.slices import number_subnet, parse_index
from ipam.protocol.bounds import FILE_BYTES, NODE_ANSWER_BYTES
from ipam.protocol.files import read_regular

FIRST_PAUSE, LAST_PAUSE = 1.0, 60.0  # seconds after a try that failed; doubled each time
OPTION = "--cluster-cidr"


class NodeIndex:
    """Writes the number into a file that `slices` can name as its indexFile."""

    def __init__(
        self, api: ApiServer, cluster_cidr: str, path: str, log: Log, *, first_pause: float = FIRST_PAUSE
    ) -> None:
        """Ask nothing yet."""
        self._api, self._cluster_cidr, self._path, self._log = api, cluster_cidr, path, log
        self._first_pause = first_pause
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="node index", daemon=True)

    def start(self) -> None:
        """Begin to ask. Does not wait for the answer."""
        if self._api.is_known:
            self._thread.start()
        else:
            self._log.error(
                f"{OPTION}: this node's index cannot be found out; run the agent in a pod with a service account, or "
                "write the file yourself",
                file=self._path,
            )

    def close(self, seconds: float = 2.0) -> None:
        """Give up, and wait up to `seconds` for a request that is running."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _work(self) -> None:
        pause, last = self._first_pause, ""
        while not self._closing.is_set():
            try:
                self._write(*self._ask())
            except (ApiFailure, ValueError, OSError) as fault:
                words = str(fault)
            else:
                return
            if words != last:
                self._log.warning(
                    f"{OPTION}: this node's index is not known yet, and pods whose network has slices by it wait; "
                    "trying again",
                    node=self._api.node,
                    error=words,
                )
            last = words
            self._closing.wait(pause)
            pause = min(pause * 2, LAST_PAUSE)

    def _ask(self) -> tuple[int, int]:
        """Return the index and how many there are. Raises ApiFailure, or ValueError if the node has none."""
        path = f"/api/v1/nodes/{quote(self._api.node, safe='', errors='replace')}"
        spec = self._api.ask("GET", path, most=NODE_ANSWER_BYTES).get("spec")
        given = spec.get("podCIDRs") or [spec.get("podCIDR")] if isinstance(spec, dict) else []
        subnets = [item for item in given if item and isinstance(item, str)] if isinstance(given, list) else []
        if not subnets:
            raise ValueError("the node has no podCIDR: the controller manager gives none (--allocate-node-cidrs)")
        for subnet in subnets[:-1]:  # one for each address family
            try:
                return number_subnet((OPTION, "podCIDR"), self._cluster_cidr, subnet)
            except ValueError:
                continue
        return number_subnet((OPTION, "podCIDR"), self._cluster_cidr, subnets[-1])

    def _write(self, index: int, count: int) -> None:
        """Write the index. Raises OSError."""
        try:
            had = parse_index(read_regular(self._path, FILE_BYTES).decode())
        except (OSError, ValueError):
            had = index
        if had != index:
            self._log.warning(
                "this node had another index: addresses of its running pods may be another node's now; drain it",
                had=had,
                index=index,
            )
        replace_file(self._path, f"{self._path}.new", f"{index}\n".encode(), private=False)
        self._log.info("this node's index is written", index=index, count=count, file=self._path)
