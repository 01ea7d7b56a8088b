"""docs/quickstart.md's last step on a cluster: two pods on two nodes, addresses, pings, RDMA, and no trace of it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from tests.cluster.control import ControlPlane
from tests.cluster.kubernetes_cluster import REGISTRY, Cluster
from tests.cluster.quickstart import arguments, place, read_page
from tests.lab.commands import received, wait

PODS = ("ib-a", "ib-b")


def ipv4(cluster: Cluster, pod: str, netdev: str) -> str:
    """A pod's address, without its prefix length."""
    words = cluster.execute(pod, "ip", "-4", "-br", "address", "show", netdev).split()
    return next(word.split("/")[0] for word in words if "/" in word)


def in_background(kubectl: ControlPlane, words: list[str]) -> subprocess.Popen[str]:
    argv = kubectl.kubectl(words)
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def start_pods(cluster: Cluster) -> None:
    nodes = None if cluster.full else [each.machine.name for each in cluster.nodes]
    cluster.kubectl.apply(place(read_page().pods, REGISTRY, nodes))
    cluster.wait_for("both pods Running", lambda: cluster.are_running(*PODS))


def ping_eth0(cluster: Cluster) -> str:
    """Ping the other pod over the cluster's network; its address."""
    address = ipv4(cluster, "ib-b", "eth0")
    assert received(cluster.execute("ib-a", "ping", "-c", "3", "-W", "5", address)), address
    return address


def follow_page(cluster: Cluster, say: Callable[[str], None]) -> None:
    """The page's commands: the address, the ping, and RDMA's server and client."""
    shown, ping, server, client = read_page().commands
    address = next(
        word.split("/")[0] for word in cluster.kubectl.run(arguments(shown, "")).stdout.split() if "/" in word
    )
    said = cluster.kubectl.run(arguments(ping, address)).stdout
    assert received(said) > 0, said
    say(f"ping net1 {address}")
    assert server.endswith("&"), server
    serves = in_background(cluster.kubectl, arguments(server, address))
    last = ""

    def measured() -> bool:
        nonlocal last
        assert serves.poll() is None, serves.communicate()[0]
        done = cluster.kubectl.run(arguments(client, address), check=False)
        last = done.stdout + done.stderr
        return done.returncode == 0

    try:
        # the first connection may come before the server listens
        assert wait(measured, 60, 1), last
        assert "BW average" in last, last
        assert serves.wait(60) == 0
    finally:
        serves.kill()
        serves.communicate()
    say(f"RDMA from pod to pod: {bandwidth(last)}")


def bandwidth(said: str) -> str:
    """The last line of figures of perftest: bytes, iterations, peak, average.

    The average is zero if perftest could not tell the processor's frequency, as on a machine that does much else.
    """
    rows = [line.split() for line in said.splitlines() if line.split() and line.split()[0].isdigit()]
    size, count, _, average = rows[-1][:4]
    rate = f"{average} Gb/s" if float(average) else "at an unknown rate"
    return f"ib_write_bw, {count} times {size} bytes, {rate}"


def assert_no_trace(cluster: Cluster, before: list[dict[str, str]], timeout: float = 60) -> None:
    """Both nodes are as they were, soon."""
    changes: list[str] = []

    def same() -> bool:
        changes[:] = cluster.changes(before)
        return not changes

    assert wait(same, timeout, 1), "\n".join(changes)


def tell(cluster: Cluster, say: Callable[[str], None]) -> None:
    """All of it."""
    before = cluster.snapshots()
    start_pods(cluster)
    say("both pods Running")
    say(f"ping eth0 {ping_eth0(cluster)}")
    follow_page(cluster, say)
    cluster.delete(*PODS)
    say("pods deleted")
    assert_no_trace(cluster, before)
    say("both nodes as before")
