"""Only the kernel is trusted: what a process in the pod's namespace sends to our netlink sockets is never read.

tests/lab/races/test_hostile.py does the same with RDMA netlink, which needs an RDMA device.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator

import pytest

from tests.security.hostile import Hostile
from tests.security.netlink_attack import KINDS, NETLINK_ROUTE, attack

ROOT = __file__.rpartition("/tests/")[0]
ASK = """
import sys, time
from ib_sriov_cni.kernel.netns import Inside, open_netns
from ib_sriov_cni.kernel.rtnetlink import Rtnl
with open_netns(sys.argv[1]) as netns:
    for _ in range(20):
        with Inside(netns):
            pod = Rtnl()
        # The attacker gets time to find the socket and to fill it.
        time.sleep(0.02)
        for _ in range(5):
            names = [link.name for link in pod.read_links()]
            assert names == ["lo"], names
            assert pod.read_link("lo").index == 1
            assert pod.read_link("forged") is None
        pod.close()
print("true")
"""
SECONDS = 60.0  # for a hundred requests that take a moment each; one that hangs never ends


@pytest.fixture(params=KINDS)
def attacker(request: pytest.FixtureRequest) -> Iterator[Hostile]:
    with attack(NETLINK_ROUTE, request.param) as hostile:
        yield hostile


def test_the_kernel_alone_is_believed(attacker: Hostile) -> None:
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ASK), attacker.path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "true\n"), done.stderr[-2000:]
    assert attacker.process.poll() is None, "the attacker died: nothing was shown"
    assert time.monotonic() - start < SECONDS


ODD_NAMES = """
import sys
from ib_sriov_cni.kernel.netns import Inside, open_netns
from ib_sriov_cni.kernel.rtnetlink import Rtnl
with open_netns(sys.argv[1]) as netns, Inside(netns):
    pod = Rtnl()
links = pod.read_links()
names = [link.name for link in links]
for link in links:
    if link.name != "lo":
        assert pod.read_link(link.name).index == link.index
        pod.add_altname(link, "a" + link.name)
        (altname,) = pod.read_link(link.index).altnames
        pod.remove_altname(link, altname)
        pod.set_name(link, "x\\udcfe")
        pod.set_name(link, link.name)
assert [link.name for link in pod.read_links()] == names
assert all(isinstance(name, str) for name in names)
print(sorted(name.encode(errors="surrogateescape") for name in names))
"""


def test_names_of_interfaces_are_bytes() -> None:
    """The kernel allows any bytes in a name except a slash, a colon and whitespace (net/core/dev.c, dev_valid_name)."""
    make = """
import subprocess
NAMES = (b"\\xff\\xfe", b"\\x1b[31mred")
for name in NAMES:
    # One to one into the message: iproute2 passes its arguments on.
    peer = [b"type", b"veth", b"peer", b"name", b"p%d" % len(name)]
    subprocess.run([b"/usr/sbin/ip", b"link", b"add", name, *peer], check=True)
"""
    with Hostile(setup=make) as hostile:
        command = [sys.executable, "-c", ODD_NAMES, hostile.path]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(sorted([b"\xff\xfe", b"\x1b[31mred", b"lo", b"p2", b"p8"]))
