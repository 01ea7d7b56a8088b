"""P_Key tables on the emulated fabric, and what the kernel does with IPoIB children (the lab's own checks)."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.lab import emulated_hca
from tests.lab.commands import has_carrier, link, links, names, read, run, wait
from tests.lab.emulated_hca import Hca
from tests.lab.pod import Pod
from tests.lab.rig import answers

TABLES = "0:ffff,8001;1:ffff,8001;2:ffff,0001;3:ffff,0001"
PKEYS = """
import sys
from pyverbs.device import Context
with Context(name=sys.argv[1]) as context:
    table = context.query_port(1).pkey_tbl_len
    print(*[f"{int(context.query_pkey(1, i)).to_bytes(2, sys.byteorder).hex()}" for i in range(table)])
"""


@pytest.fixture(scope="module")
def loaded_hca() -> Iterator[Hca]:
    yield emulated_hca.load(preset=True, pkeys=TABLES)
    emulated_hca.unload()


@pytest.fixture
def hca(loaded_hca: Hca) -> Iterator[Hca]:
    """The module's HCA; the VFs are bound anew after a test, which returns them to the host and ends their children."""
    yield loaded_hca
    loaded_hca.restore_knobs()
    for name in names("/run/netns"):
        run(["ip", "netns", "del", name])
    for vf in range(loaded_hca.numvfs):
        loaded_hca.rebind(vf)
    assert loaded_hca.settled()


def child_in_pod(hca: Hca, vf: int, pkey: int, pod: Pod) -> None:
    """The VF's netdev as `net1-ib`, and its child `net1` with address 10.2.0.<vf + 1>."""
    run(["ip", "link", "set", "dev", hca.netdev(vf), "netns", pod.name, "name", "net1-ib"])
    pod.run(f"ip link add link net1-ib name net1 type ipoib pkey {pkey:#06x}")
    pod.run(f"ip link set net1-ib up; ip link set net1 up; ip addr add 10.2.0.{vf + 1}/24 dev net1")


def infiniband(netns: str | None = None) -> list[str]:
    return sorted(each["ifname"] for each in links(netns) if each["link_type"] == "infiniband")


def table_of(hca: Hca, vf: int) -> list[str]:
    folder = f"/sys/class/infiniband/{hca.rdma(vf)}/ports/1/pkeys"
    return [read(f"{folder}/{index}") for index in range(len(names(folder)))]


def test_the_tables_are_the_knobs(hca: Hca) -> None:
    assert table_of(hca, 0) == ["0xffff", "0x8001", *["0x0000"] * 6]
    assert table_of(hca, 3) == ["0xffff", "0x0001", *["0x0000"] * 6]
    seen = run([sys.executable, "-c", PKEYS, str(hca.rdma(0))]).stdout.split()
    assert seen == ["ffff", "8001", *["0000"] * 6]


def test_a_table_changes_while_it_runs(hca: Hca) -> None:
    """The kernel's own copy of the table follows by the event; a VF that is not named has the default."""
    hca.knob("pkeys", "0:7fff,8002,8003")
    assert wait(lambda: table_of(hca, 0)[:3] == ["0x7fff", "0x8002", "0x8003"])
    assert wait(lambda: table_of(hca, 1)[:2] == ["0xffff", "0x0000"])
    hca.restore_knobs()
    assert wait(lambda: table_of(hca, 0)[:3] == ["0xffff", "0x8001", "0x0000"])


@pytest.mark.parametrize("junk", ["64:ffff", "0", "0:x", "0:1,2,3,4,5,6,7,8,9", "x:ffff"])
def test_junk_is_no_table(hca: Hca, junk: str) -> None:
    with pytest.raises(AssertionError, match="EINVAL"):
        hca.knob("pkeys", junk)
    assert table_of(hca, 0)[1] == "0x8001"


def test_a_child_gets_carrier_and_reaches_its_partition(hca: Hca) -> None:
    """Full members reach each other and the limited ones; two limited members do not."""
    pods = [Pod(f"k{vf}") for vf in range(4)]
    for vf, pod in enumerate(pods):
        child_in_pod(hca, vf, 0x8001, pod)
    assert wait(lambda: all(has_carrier("net1", pod.name) for pod in pods))
    assert answers(pods[0], "10.2.0.2")
    assert answers(pods[0], "10.2.0.3")
    assert answers(pods[3], "10.2.0.1")
    assert pods[2].run("ping -c 2 -i 0.2 -W 2 10.2.0.4", check=False).returncode


def test_no_carrier_without_the_p_key_in_the_table(hca: Hca) -> None:
    """The same child comes to life when the table gets its P_Key."""
    hca.knob("pkeys", "0:ffff")
    assert wait(lambda: table_of(hca, 0)[1] == "0x0000")
    pod = Pod("late")
    child_in_pod(hca, 0, 0x8001, pod)
    assert wait(lambda: has_carrier("net1-ib", pod.name))
    assert not has_carrier("net1", pod.name)
    hca.restore_knobs()
    assert wait(lambda: has_carrier("net1", pod.name))


def test_partitions_are_apart(hca: Hca) -> None:
    """The parent of the one and the child of the other are on the same wire, with addresses of the same network."""
    one, two = Pod("one"), Pod("two")
    child_in_pod(hca, 0, 0x8001, one)
    run(["ip", "link", "set", "dev", hca.netdev(1), "netns", two.name, "name", "net1"])
    two.run("ip link set net1 up; ip addr add 10.2.0.2/24 dev net1")
    assert wait(lambda: has_carrier("net1", one.name) and has_carrier("net1", two.name))
    assert one.run("ping -c 2 -i 0.2 -W 2 10.2.0.2", check=False).returncode


def test_a_child_stays_when_its_parent_moves(hca: Hca) -> None:
    pod = Pod("p")
    child_in_pod(hca, 0, 0x8001, pod)
    run("touch /run/netns/host; mount --bind /proc/1/ns/net /run/netns/host")
    pod.run("ip link set net1-ib netns host name back")
    assert infiniband(pod.name) == ["net1"]
    assert "back" in infiniband()
    run("umount /run/netns/host")


def test_a_child_returns_when_its_namespace_ends(hca: Hca) -> None:
    """Under its name, beside its parent: somebody has to delete it."""
    pod = Pod("p")
    child_in_pod(hca, 0, 0x8001, pod)
    pod.delete()
    assert wait(lambda: {"net1", "net1-ib"} <= set(infiniband()))
    assert link("net1")["link"] == "net1-ib"
    # sysfs does not list it below the PCI device
    assert wait(lambda: hca.netdevs(0) == ["net1-ib"])


def test_a_rebind_ends_a_child_wherever_it_is(hca: Hca) -> None:
    pod, nested = Pod("p"), Pod("nested")
    child_in_pod(hca, 0, 0x8001, pod)
    pod.run(f"ip link set net1 netns {nested.name}")
    assert infiniband(nested.name) == ["net1"]
    hca.rebind(0)
    assert hca.settled()
    assert infiniband(nested.name) == infiniband(pod.name) == []
