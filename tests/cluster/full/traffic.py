"""RDMA traffic between two pods, by one connection that stays: perftest's ib_write_bw, which runs in the pods.

It polls without a pause, but pods without a request have the least weight of all; -t 1 keeps the network's work small.
"""

from __future__ import annotations

from tests.cluster.full.cluster import FullCluster
from tests.cluster.story import ipv4
from tests.lab.commands import wait

LOG = "/tmp/traffic"  # in the pod
# Line by line, whatever it writes to.
PREFIX = "export _STDBUF_O=L LD_PRELOAD=/usr/libexec/coreutils/libstdbuf.so"
RUN = "busybox setsid ib_write_bw -F -s 4096 -t 1 -D 2 --run_infinitely {peer} </dev/null >{log} 2>&1 &"


class Traffic:
    """Begun at once between two running pods."""

    def __init__(self, cluster: FullCluster, client: str, server: str) -> None:
        self.cluster = cluster
        self.client = client
        self.start(server, "")
        address = ipv4(cluster, server, "net1")

        def connected() -> bool:
            if not self.runs():
                # the server may not listen yet
                self.start(client, address)
            return self.figures() > 0

        assert wait(connected, 90, 3), self.said()

    def start(self, pod: str, peer: str) -> None:
        self.cluster.execute(pod, "sh", "-c", f"{PREFIX}; {RUN.format(peer=peer, log=LOG)}")

    def runs(self) -> bool:
        done = self.cluster.kubectl.run(["exec", self.client, "--", "busybox", "pidof", "ib_write_bw"], check=False)
        return done.returncode == 0

    def said(self) -> str:
        return self.cluster.kubectl.run(["exec", self.client, "--", "cat", LOG], check=False).stdout

    def figures(self) -> int:
        """How many lines of figures there are: one each two seconds."""
        return sum(line.split()[0] == "4096" for line in self.said().splitlines() if line.split())

    def assert_goes_on(self) -> None:
        """It is the connection of the beginning, and more is written."""
        before = self.figures()
        assert self.runs(), self.said()
        assert wait(lambda: self.figures() > before + 1, 60, 1), self.said()
