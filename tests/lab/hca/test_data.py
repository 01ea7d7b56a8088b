"""Verbs and traffic between two pods over the emulated fabric (the lab's own checks)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.lab.commands import has_carrier, link, listens, names, read_json, received, run, wait
from tests.lab.emulated_hca import Hca, load, unload
from tests.lab.pod import Pod

OPEN = """
import sys
from pyverbs.device import Context, get_device_list
names = [device.name.decode() for device in get_device_list()]
with Context(name=sys.argv[1]) as context:
    device, port, gid = context.query_device(), context.query_port(1), context.query_gid(1, 0)
    print(*names, hex(device.vendor_id), device.phys_port_cnt, port.state, port.link_layer, gid)
"""
OPEN_ALL = """
import os
for name in sorted(os.listdir("/dev/infiniband")):
    if name.startswith("uverbs"):
        try:
            os.close(os.open("/dev/infiniband/" + name, os.O_RDWR))
            print(name)
        except PermissionError:
            pass
"""
HOLD = """
import sys
from pyverbs.device import Context
context = Context(name=sys.argv[1])
print("open", flush=True)
sys.stdin.readline()
try:
    context.query_port(1)
except Exception as error:
    print("dead", error)
else:
    print("alive")
"""
PINGPONG_PORT = 18515


@dataclass(frozen=True, kw_only=True)
class Pair:
    hca: Hca
    one: Pod
    two: Pod


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """Two pods, each with a VF: RDMA device, net1 with 10.1.0.1 and 10.1.0.2, carrier."""
    hca = load(mode="exclusive", preset=True)
    pods = [Pod("one"), Pod("two")]
    for vf, pod in enumerate(pods):
        hca.to_pod(vf, pod.name)
        pod.run(f"ip link set net1 up; ip addr add 10.1.0.{vf + 1}/24 dev net1")
    assert wait(lambda: all(has_carrier("net1", pod.name) for pod in pods))
    yield Pair(hca=hca, one=pods[0], two=pods[1])
    unload()


def test_carrier_in_both_pods(pair: Pair) -> None:
    assert has_carrier("net1", "one")
    assert has_carrier("net1", "two")


def test_pyverbs_in_init(pair: Pair) -> None:
    device = pair.hca.pf_rdma
    seen = subprocess.run([sys.executable, "-c", OPEN, device], check=True, capture_output=True, text=True).stdout
    assert seen.strip().endswith("0xe1b0 1 4 1 fe80:0000:0000:0000:0002:c903:00e1:b001")


def test_init_does_not_see_the_pods_devices(pair: Pair) -> None:
    device = pair.hca.pf_rdma
    seen = subprocess.run([sys.executable, "-c", OPEN, device], check=True, capture_output=True, text=True).stdout
    assert not {*pair.one.rdma(), *pair.two.rdma()} & set(seen.split())


def test_pyverbs_in_the_pod(pair: Pair) -> None:
    (device,) = pair.one.rdma()
    seen = pair.one.run([sys.executable, "-c", OPEN, device]).stdout.split()
    assert seen == [device, "0xe1b0", "1", "4", "1", "fe80:0000:0000:0000:0011:2233:4456:0000"]


def test_pod_opens_only_its_own_uverbs(pair: Pair) -> None:
    own = names(pair.hca.vf_path(0) / "infiniband_verbs")
    assert pair.one.run([sys.executable, "-c", OPEN_ALL]).stdout.split() == own


def test_uverbs_and_umad_are_seen_from_everywhere(pair: Pair) -> None:
    assert len(names(pair.hca.vf_path(0) / "infiniband_verbs")) == 1
    assert any(name.startswith("umad") for name in names(pair.hca.vf_path(0) / "infiniband_mad"))


def test_ping(pair: Pair) -> None:
    done = pair.one.run("ping -c 3 -i 0.2 -W 5 10.1.0.2", check=False)
    assert received(done.stdout) == 3, done.stdout


def test_ping_in_fragments(pair: Pair) -> None:
    done = pair.one.run("ping -c 1 -W 5 -s 20000 10.1.0.2", check=False)
    assert received(done.stdout) == 1, done.stdout


def test_ipv6_multicast(pair: Pair) -> None:
    def settled() -> bool:
        found = [each for pod in (pair.one, pair.two) for each in link("net1", pod.name)["addr_info"]]
        return len([each for each in found if each["family"] == "inet6" and not each.get("tentative")]) == 2

    assert wait(settled), "net1 has no usable IPv6 address"
    peer = next(each["local"] for each in link("net1", "two")["addr_info"] if each["family"] == "inet6")
    done = pair.one.run("ping -6 -c 2 -W 5 -I net1 ff02::1", check=False)
    assert f"from {peer}" in done.stdout, done.stdout


def test_neighbour_has_the_peers_guid(pair: Pair) -> None:
    pair.one.run("ping -c 1 -W 5 10.1.0.2")
    neighbours = read_json(["ip", "-n", "one", "-j", "neigh", "show", "10.1.0.2"])
    assert neighbours[0]["lladdr"].endswith(pair.hca.port_guid(1))


def test_mtu_after_joining(pair: Pair) -> None:
    assert link("net1", "one")["mtu"] == 2044


@pytest.mark.parametrize("tool", ["ibv_ud_pingpong", "ibv_rc_pingpong", "ibv_rc_pingpong -e"])
def test_pingpong(pair: Pair, tool: str) -> None:
    (here,), (there,) = pair.one.rdma(), pair.two.rdma()
    server = subprocess.Popen(
        ["ip", "netns", "exec", "two", "timeout", "60", *tool.split(), "-n", "20", "-d", there],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert wait(lambda: listens(PINGPONG_PORT, "two")), "no server"
    done = pair.one.run(f"timeout 60 {tool} -n 20 -d {here} 10.1.0.2", check=False)
    said = server.communicate(timeout=60)[0]
    assert "20 iters" in done.stdout, done.stdout + done.stderr
    assert "20 iters" in said, said


def test_pf_counts_for_its_vfs(pair: Pair) -> None:
    before = pair.hca.packets_sent(0)
    pair.one.run("ping -c 1 -W 5 10.1.0.2")
    assert pair.hca.packets_sent(0) > before


def test_open_context_does_not_hold_a_device(pair: Pair) -> None:
    """The last test here: VF 0 leaves its pod."""
    (device,) = pair.one.rdma()
    holder = subprocess.Popen(
        ["ip", "netns", "exec", "one", sys.executable, "-c", HOLD, device],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    run("touch /run/netns/host; mount --bind /proc/1/ns/net /run/netns/host")
    pair.one.run(["rdma", "dev", "set", device, "netns", "host"])
    assert pair.hca.rdma(0) == device
    assert holder.communicate("\n", timeout=60)[0].startswith("dead")
