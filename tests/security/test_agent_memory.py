"""A pod with CAP_NET_ADMIN fills its namespace: reading it takes little memory, and only that pod is reported.

The figures are peaks of a process that does nothing else (ru_maxrss).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipam.protocol.bounds import ADDRESSES, LINKS, ROUTES
from tests.security.hostile import Hostile, own_ip

ROOT = __file__.rpartition("/tests/")[0]
MANY_ROUTES = 100_000
MANY_ADDRESSES = 8_000  # more take long: the kernel walks its list for each one
MANY_LINKS = 5_400
READING_MIB = 80  # of a process that has read one namespace; about 30 of it are the interpreter and the modules
AGENT_MIB = 128  # of the agent's code; its limit is 256 (packaging/systemd, packaging/kubernetes)
SECONDS = 300.0
READ = """
import resource, sys, json
from ib_sriov_cni.core.errors import CniError
from ib_sriov_cni.kernel.netns import Inside, open_netns
from ib_sriov_cni.kernel.rtnetlink import Rtnl
with open_netns(sys.argv[1]) as netns, Inside(netns):
    pod = Rtnl()
found = {}
for name, read in {
    "routes": lambda link: pod.read_routes(link),
    "addresses": lambda link: pod.read_addresses(link),
    "links": lambda link: pod.read_links(),
    "children": lambda link: pod.read_children_of(link),  # asked in the host's namespace, which may be that full
}.items():
    try:
        found[name] = len(read(pod.read_link("net1")))
    except CniError as fault:
        found[name] = str(fault)
found["mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps(found))
"""
AGENT = """
import json, pathlib, resource, sys
from ib_sriov_cni.agent.api_server import ApiServer
from ib_sriov_cni.agent.kube import Events
from ib_sriov_cni.agent.metrics import Metrics
from ib_sriov_cni.agent.reconcile import Policy, Reconciler
from ib_sriov_cni.core.errors import CniError
from ib_sriov_cni.node import plan_repair as rep
from ib_sriov_cni.node.apply_repair import apply_repair
from ib_sriov_cni.node.live_state import differences, read_live
from ib_sriov_cni.node.read_inventory import read_inventory
from ib_sriov_cni.node.plan_repair import plan_repairs
from ib_sriov_cni.telemetry.log import Log
from tests.unit.node import VFS, Node

def outcome(read):
    try:
        return str(read())
    except CniError as fault:
        return str(fault)

root = pathlib.Path(sys.argv[2])
node = Node(root)
node.host.log = Log(path=str(root / "log"))
for pci in VFS[:2]:
    node.take_away(pci)
bad = node.record(VFS[0], "bad", netns_path=sys.argv[1], rdma_isolation=False)
good = node.record(VFS[1], "good", rdma_isolation=False)
inventory = read_inventory(node.host)
plan = plan_repairs(node.host, inventory)
held = {each.key: each for each in inventory.attachments}
repair = rep.Repair(
    kind=rep.ADDRESS, what="w", why="y", harmless=True, pci=bad.pci, key=bad.key, pod="p", about="10.1.2.3/24"
)
found = {
    "unseen": [words for words in plan.unseen if "train/bad" in words],
    "bad": [each.what for each in plan.findings if each.key == bad.key],
    "good": [each.what for each in plan.findings if each.key == good.key],
    "check": outcome(lambda: differences(node.host, held[bad.key])),
    "show": outcome(lambda: read_live(node.host, bad)),
    "repair": outcome(lambda: apply_repair(node.host, repair, lock_timeout=0)),
}
metrics = Metrics()
policy = Policy(grace=60)
events, now = Events(ApiServer({}), on_failure=print, on_result=print), [0.0]
agent = Reconciler(node.host, metrics, events, policy, clock=lambda: now[0])
agent.run_pass()
now[0] += 60  # what lasts is reported
agent.run_pass()
value = metrics.registry.get_sample_value
found["live"] = value("ib_sriov_attachments", {"network": "ib", "state": "live"})
found["errors"] = value("ib_sriov_agent_errors_total", {"part": "pass"})
found["log"] = (root / "log").read_text()
found["mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps(found))
"""
NET1 = """
import subprocess, sys
IP = sys.argv[1]
def batch(lines):
    subprocess.run([IP, "-batch", "-"], input="\\n".join(lines), text=True, check=True)
batch(["link set lo up", "link add net1 type veth peer name p1", "link set net1 up", "link set p1 up"])
"""
ROUTE_LINES = f"""
batch(f"route add 10.{{n >> 16}}.{{n >> 8 & 255}}.{{n & 255}}/32 dev net1" for n in range({MANY_ROUTES}))
"""
ADDRESS_LINES = f"""
batch(f"addr add 10.{{n >> 16}}.{{n >> 8 & 255}}.{{n & 255}}/32 dev net1" for n in range({MANY_ADDRESSES}))
"""
LINK_LINES = f"""
batch(f"link add v{{n}} type veth peer name w{{n}}" for n in range({MANY_LINKS // 2}))
"""


def run(code: str, *arguments: str) -> Any:
    """Run Python code, and return the JSON that it prints."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=["routes", "addresses", "links"])
def filled(request: pytest.FixtureRequest) -> Iterator[tuple[str, Hostile]]:
    lines = {"routes": ROUTE_LINES, "addresses": ADDRESS_LINES, "links": LINK_LINES}[request.param]
    with Hostile(setup=NET1 + lines, arguments=[own_ip()]) as hostile:
        yield request.param, hostile


def test_reading_takes_little_memory_and_refuses(filled: tuple[str, Hostile]) -> None:
    kind, hostile = filled
    most = {"routes": ROUTES, "addresses": ADDRESSES, "links": LINKS}[kind]
    found = run(READ, hostile.path)
    assert f"the limit is {most}" in found[kind]
    assert "Argument list too long" in found[kind]
    assert found["children"] == 0
    assert found["mib"] < READING_MIB


def test_it_is_that_attachments_fault_alone(filled: tuple[str, Hostile], tmp_path: Path) -> None:
    kind, hostile = filled
    found = run(AGENT, hostile.path, str(tmp_path))
    assert found["mib"] < AGENT_MIB
    assert found["live"] == 2
    assert found["errors"] is None
    assert found["good"]
    assert all(line.startswith("time=") for line in found["log"].splitlines())
    if kind == "links":
        return  # the interface is looked up by name, without listing all
    (words,) = found["unseen"]
    assert words.startswith("pod train/bad (network ib, net1): list ")
    for name in ("check", "show", "repair"):
        assert "the limit is" in found[name], name
    assert found["bad"] == []
    assert 'what="could not be read: pod train/bad' in found["log"]


ODD_NAMES = """
import subprocess, sys
IP = sys.argv[1].encode()
for name in (b"\\xff\\xfe\\x1b[31m", b"a\\x80"):
    subprocess.run([IP, b"link", b"add", name, b"type", b"veth", b"peer", b"name", b"p%d" % len(name)], check=True)
subprocess.run([IP, b"link", b"property", b"add", b"dev", b"a\\x80", b"altname", b"net1"], check=True)
"""


def test_odd_names_of_interfaces_are_only_words(tmp_path: Path) -> None:
    """The pod's interface has a name that is not valid UTF-8, and net1 as an alternative name."""
    with Hostile(setup=ODD_NAMES, arguments=[own_ip()]) as hostile:
        found = run(AGENT, hostile.path, str(tmp_path))
    assert found["unseen"] == []
    assert found["bad"]
    assert found["good"]
    assert found["live"] == 2
    assert found["errors"] is None
    lines = found["log"].splitlines()
    assert all(line.startswith("time=") and line.isprintable() for line in lines)
