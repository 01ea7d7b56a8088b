"""A bad record affects only its own attachment: the others on the node are still listed, checked and repaired."""

from __future__ import annotations

import copy
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ib_sriov_cni.agent.api_server import ApiServer
from ib_sriov_cni.agent.kube import Events
from ib_sriov_cni.agent.metrics import Metrics
from ib_sriov_cni.agent.pass_memory import FIRST_PAUSE
from ib_sriov_cni.agent.reconcile import Policy, Reconciler
from ib_sriov_cni.core.errors import CniError, InternalFault, StateFailure
from ib_sriov_cni.core.record import Record, parse_record, render_record
from ib_sriov_cni.node import plan_repair as rep
from ib_sriov_cni.node.apply_repair import apply_repair
from ib_sriov_cni.node.contain import describe_fault, make_error
from ib_sriov_cni.node.inventory import IN_USE, Inventory
from ib_sriov_cni.node.live_state import differences, read_live
from ib_sriov_cni.node.plan_repair import RepairPlan, plan_repairs
from ib_sriov_cni.node.read_inventory import read_inventory
from ib_sriov_cni.telemetry.log import Log
from ipam.protocol.bounds import LOG_VALUE_BYTES
from tests.unit.node import HERE, VFS, Node

Change = tuple[tuple[str | int, ...], Any]
"""Where in a record's document, and what is put there; GONE: nothing."""

GONE = object()
DEEP: Any = []
for _ in range(300):
    DEEP = [DEEP]
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**70, 1e308, math.nan, math.inf, "", "\0", "a\0b", "\ud800", "\udcff\x1b[31m", "x" * 100_000),
    *(
        "..",
        "../..",
        "/",
        "/dev/full",
        "/proc/self/ns/mnt",
        "auto",
        "9.9.9",
        "1.1",
        "1..1",
        "one",
        "0x8001",
        "10.0.0.1",
    ),
    *([], [None], [{}], [[]], ["x"], {}, {"a": {"b": None}}, DEEP, "999.1.1.1/99", "fe80::/200", "10.1.2.3/24", GONE),
)
CONF = {
    "cniVersion": "1.0.0",
    "name": "ib",
    "type": "ib-sriov",
    "mtu": 2044,
    "pkey": "0x8001",
    "lockTimeout": 0.1,
    "ipam": {"type": "host-local", "subnet": "10.1.2.0/24", "routes": [{"dst": "10.9.0.0/16"}]},
}
RESULT = {
    "cniVersion": "1.1.0",
    "interfaces": [{"name": "net1", "mac": "x", "sandbox": HERE}],
    "ips": [{"interface": 0, "address": "10.1.2.3/24", "gateway": "10.1.2.1"}],
    "routes": [{"dst": "10.9.0.0/16", "gw": "10.1.2.1"}],
    "dns": {"nameservers": ["10.1.2.1"]},
}


def places(document: Any, *path: str | int) -> Iterator[tuple[str | int, ...]]:
    """Return the path of every value in a document, except the leases folder (dataDir)."""
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, item in items:
        if key != "dataDir":
            yield (*path, key)
            yield from places(item, *path, key)


class Pair:
    """A node with a good attachment and one whose record can be changed."""

    def __init__(self, root: Path) -> None:
        self.node = Node(root)
        self.host = self.node.host
        self.host.log = Log(path=str(root / "log"), level="info")
        self.log = root / "log"
        conf = copy.deepcopy(CONF)
        assert isinstance(conf["ipam"], dict)
        conf["ipam"]["dataDir"] = str(root / "leases")
        for pci in VFS[:2]:
            self.node.take_away(pci)
        self.good = self.node.record(VFS[0], "good", conf=conf, result=RESULT, rdma_isolation=False)
        self.bad = self.node.record(VFS[1], "bad", conf=conf, result=RESULT, rdma_isolation=False, since=99.0)
        self.document = render_record(self.bad)
        self.baseline = outcome(plan_repairs(self.host, read_inventory(self.host)), self.good)
        assert self.baseline

    def change(self, *changes: Change) -> None:
        """Write the bad record with `changes` applied."""
        document = copy.deepcopy(self.document)
        for path, value in changes:
            put(document, path, value)
        Path(self.host.records.file_of(self.bad.key)).write_text(json.dumps(document))

    def agent(self) -> tuple[Reconciler, Metrics, list[float]]:
        now = [1000.0]
        metrics = Metrics()
        events = Events(ApiServer({}), on_failure=print, on_result=print)
        policy = Policy(grace=60.0)
        return Reconciler(self.host, metrics, events, policy, clock=lambda: now[0]), metrics, now


def put(document: Any, path: tuple[str | int, ...], value: Any) -> None:
    """Set the value at `path` in a document, unless an earlier change has removed that path."""
    *way, last = path
    for key in way:
        if not has(document, key):
            return
        document = document[key]
    if not has(document, last):
        return
    if value is GONE:
        del document[last]
    else:
        document[last] = value


def has(document: Any, key: str | int) -> bool:
    if isinstance(document, dict):
        return key in document
    return isinstance(document, list) and isinstance(key, int) and key < len(document)


def outcome(plan: RepairPlan, record: Record) -> list[str]:
    """Return the texts of a plan's repairs and findings for an attachment, sorted."""
    whats = [each.what for each in plan.repairs if each.key == record.key]
    return sorted(whats + [each.what for each in plan.findings if each.key == record.key])


def assert_good_is_seen(pair: Pair, inventory: Inventory) -> None:
    (good,) = [held for held in inventory.attachments if held.key == pair.good.key]
    assert good.alive is True
    assert inventory.vfs[0].state == IN_USE
    assert inventory.vfs[0].attachment == good
    assert [vf.pci for vf in inventory.vfs] == VFS


def assert_log_has_lines(pair: Pair) -> None:
    """Assert that each log line starts with its time."""
    for line in pair.log.read_text().splitlines() if pair.log.exists() else []:
        assert line.startswith("time=")
        assert "Traceback" not in line
    pair.log.unlink(missing_ok=True)


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    monkeypatch.setenv("CNI_PATH", str(tmp_path / "bin"))
    pair = Pair(tmp_path)
    yield pair
    pair.host.close()
    pair.host.log.close()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    before = os.environ.get("CNI_PATH")
    root = tmp_path_factory.mktemp("node")
    os.environ["CNI_PATH"] = str(root / "bin")
    pair = Pair(root)
    yield pair
    pair.host.close()
    pair.host.log.close()
    os.environ.pop("CNI_PATH")
    if before is not None:
        os.environ["CNI_PATH"] = before


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
DOCUMENT = {**dict.fromkeys(Record._fields), "schema": 1, "guid": 1, "set_guid": 1}
DOCUMENT |= {"conf": CONF, "result": RESULT, "key": {"network": "", "container_id": "", "ifname": ""}}
# `places` leaves out dataDir, so that no random path makes a test touch a folder of the host.
CHANGES = st.lists(st.tuples(st.sampled_from(list(places(DOCUMENT))), st.sampled_from(ODD) | JSON), max_size=3)


@given(changes=CHANGES)
@settings(max_examples=150)
@example(changes=[(("conf", "cniVersion"), "9.9.9")])
@example(changes=[(("conf", "cniVersion"), "one")])
@example(changes=[(("conf", "cniVersion"), "1..1")])
@example(changes=[(("conf", "name"), "a\0b")])
@example(changes=[(("conf", "ipam", "type"), "a\0b")])
@example(changes=[(("conf", "ipam", "type"), {"a": 1})])
@example(changes=[(("netns_path",), "a\0b")])
@example(changes=[(("netns_path",), "\ud800")])
@example(changes=[(("result", "ips", 0, "address"), 5)])
@example(changes=[(("result", "ips"), {"a": 1})])
@example(changes=[(("result", "routes", 0, "dst"), "x")])
@example(changes=[(("had_link_state",), "x" * 100_000)])
@example(changes=[(("pod",), "x/" * 100_000)])
@example(changes=[(("since",), 2**2000)])
@example(changes=[(("conf",), DEEP)])
def test_a_corrupt_record_beside_a_good_one(pair: Pair, changes: list[Change]) -> None:
    pair.change(*changes)
    inventory = read_inventory(pair.host)
    assert_good_is_seen(pair, inventory)
    assert outcome(plan_repairs(pair.host, inventory), pair.good) == pair.baseline
    for held in inventory.attachments:
        for read in (
            lambda held=held: read_live(pair.host, held.record),
            lambda held=held: differences(pair.host, held),
        ):
            try:
                read()
            except CniError as fault:
                assert len(str(fault)) < 10_000  # noqa: PT017
    agent, metrics, _ = pair.agent()
    agent.run_pass()
    value = metrics.registry.get_sample_value
    assert (value("ib_sriov_attachments", {"network": "ib", "state": "live"}) or 0) >= 1
    assert value("ib_sriov_agent_errors_total", {"part": "pass"}) is None
    assert value("ib_sriov_agent_errors_total", {"part": "plan"}) is None
    assert_log_has_lines(pair)


BEFORE = (("boot_id",), "before")
UNRELEASABLE: dict[str, list[Change]] = {
    "a name with NUL": [BEFORE, (("conf", "name"), "a\0b")],
    "no name": [BEFORE, (("conf", "name"), {"a": 1})],
    "an unknown version": [BEFORE, (("conf", "cniVersion"), "one")],
    "a plugin that is no name": [BEFORE, (("conf", "ipam", "type"), "../x")],
    "surrogates": [BEFORE, (("conf", "mtu"), "\udcff"), (("args",), "\udcff")],
    "NUL for the plugin's environment": [BEFORE, (("conf", "ipam", "type"), "other"), (("args",), "a=b\0")],
    "ranges of odd types": [BEFORE, (("conf", "ipam", "ranges"), [5]), (("conf", "ipam", "subnet"), 7)],
}


@pytest.mark.parametrize("kind", list(UNRELEASABLE))
def test_a_dead_attachment_that_cannot_be_released_keeps_no_other_waiting(fresh: Pair, kind: str) -> None:
    """The bad attachment is either released anyway, or its failure is counted and it is tried again later."""
    plugin = fresh.node.root / "bin/other"
    plugin.parent.mkdir()
    plugin.write_text("#!/bin/sh\n")
    plugin.chmod(0o755)
    fresh.change(*UNRELEASABLE[kind])
    dead = [fresh.node.record(VFS[number], f"dead{number}", boot_id="before", owner=False) for number in (2, 3)]
    agent, metrics, now = fresh.agent()
    agent.run_pass()
    now[0] += 60
    agent.run_pass()
    due = agent.run_pass()
    assert [fresh.host.records.read(record.key) for record in dead] == [None, None]
    assert fresh.host.records.read(fresh.good.key) is not None
    value = metrics.registry.get_sample_value
    if any(held.key == fresh.bad.key for held in read_inventory(fresh.host).attachments):
        failures = [
            sample.value
            for family in metrics.registry.collect()
            for sample in family.samples
            if sample.name == "ib_sriov_agent_release_failures_total"
        ]
        assert failures == [1]
        assert 0 < due <= FIRST_PAUSE
    assert value("ib_sriov_agent_errors_total", {"part": "act"}) is None
    assert value("ib_sriov_agent_errors_total", {"part": "pass"}) is None
    assert_log_has_lines(fresh)


def test_a_defect_is_one_line_with_its_attachment(fresh: Pair) -> None:
    """The defect is logged once while it lasts, counted each time, and the log line names the place in the code."""
    fresh.change((("conf", "name"), "a\0b"))
    agent, metrics, _ = fresh.agent()
    for _ in range(3):
        agent.run_pass()
    lines = [line for line in fresh.log.read_text().splitlines() if "part=leases" in line]
    (line,) = lines
    assert "attachment=ib/c-bad:net1" in line
    assert 'error="internal fault: ValueError: ' in line
    assert re.search(r" \([a-z_]+/[a-z_]+\.py:[0-9]+ [a-z_]+ < .*\)\"", line)
    assert len(line) < LOG_VALUE_BYTES * 2
    assert metrics.registry.get_sample_value("ib_sriov_agent_errors_total", {"part": "leases"}) == 3


@pytest.mark.parametrize("kind", [rep.ADDRESS, rep.ROUTE, rep.LINK_STATE, rep.UP, rep.BIND, rep.DISOWN, rep.STRAY_FILE])
@pytest.mark.parametrize("about", [5, None, "a\0b", "\ud800", ["x"], {"a": 1}])
def test_a_repair_of_anything_raises_no_defect(fresh: Pair, kind: str, about: object) -> None:
    pci = None if kind == rep.STRAY_FILE else fresh.good.pci
    repair = rep.Repair(kind=kind, what="w", why="y", harmless=True, pci=pci, key=fresh.good.key, pod="p", about=about)
    before = fresh.host.records.read(fresh.good.key)
    try:
        apply_repair(fresh.host, repair, lock_timeout=0)
    except CniError:
        pass
    assert fresh.host.records.read(fresh.good.key) == before


def test_words_of_any_fault_are_short_and_name_the_place() -> None:
    assert describe_fault(StateFailure("m", "d")) == "m; d"
    assert describe_fault(OSError(2, "No such file", "/x")) == "[Errno 2] No such file: '/x'"
    assert describe_fault(TypeError("odd")) == "internal fault: TypeError: odd"
    assert len(describe_fault(ValueError("\ud800" * 1_000_000)).encode(errors="surrogatepass")) < 3000
    assert len(describe_fault(StateFailure("x" * 1_000_000))) < 3000
    with pytest.raises(TypeError) as caught:
        parse_record(5)
    words = describe_fault(caught.value)
    assert words.startswith("internal fault: TypeError: ")
    assert words.partition(" (")[2].startswith("core/record.py:")
    assert isinstance(make_error(caught.value), InternalFault)
