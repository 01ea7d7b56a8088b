"""ib_sriov_cni.agent.reconcile: what a pass does and when, on simulated trees; the lab tests it with real devices."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from ib_sriov_cni.agent.api_server import ApiServer
from ib_sriov_cni.agent.kube import Events
from ib_sriov_cni.agent.leases import Usage, read_unreserved, read_usage
from ib_sriov_cni.agent.liveness import Witness, judge
from ib_sriov_cni.agent.metrics import Metrics
from ib_sriov_cni.agent.pass_memory import FIRST_PAUSE
from ib_sriov_cni.agent.reconcile import REPORTS_MAX, RUNTIME_PAUSE, SETTLE, Policy, Reconciler, record_pod
from ib_sriov_cni.attach.host import Host
from ib_sriov_cni.attach.liveness import DEAD
from ib_sriov_cni.core.record import AttachmentKey, Record
from ib_sriov_cni.state.locks import Locks
from ib_sriov_cni.telemetry.log import Log
from ipam.protocol.value import replace
from tests.unit.trees import KEY, PF, RECORD, VF, Tree, write

GRACE = 60.0


class Node:
    """A simulated node in a folder: a PF with one free VF, a state directory and leases; and an agent for it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 1000.0
        self.acts = 0
        self.tree = tree = Tree(root / "sys")
        tree.add_pf()
        tree.add_rdma(PF, "mlx5_0", minor=0)
        tree.add_vf(VF, 0)
        tree.add_netdev(VF, "ib1", index=5)
        tree.add_rdma(VF, "mlx5_3", minor=3)
        write(root / "sys/class/infiniband/mlx5_0/ports/1/state", "4: ACTIVE\n")
        write(root / "proc/sys/kernel/random/boot_id", "now\n")
        self.leases = root / "networks"
        self.log = root / "log"
        self.host = Host(
            log=Log(path=str(self.log)),
            state_dir=str(root / "state"),
            lock_dir=str(root / "run"),
            sysfs_root=str(root / "sys"),
            proc_root=str(root / "proc"),
        )
        self.metrics = Metrics()
        self.stop = False
        self.reconciler = Reconciler(
            self.host,
            self.metrics,
            Events(ApiServer({}), on_failure=print, on_result=print),
            Policy(grace=GRACE),
            stopping=lambda: self.stop,
            heartbeat=self.count,
            clock=lambda: self.now,
        )

    def count(self) -> None:
        self.acts += 1

    def conf(self, **ipam: Any) -> dict[str, object]:
        section = {"type": "host-local", "subnet": "10.0.0.0/29", "dataDir": str(self.leases), **ipam}
        return {"cniVersion": "1.1.0", "name": KEY.network, "type": "ib-sriov", "ipam": section}

    def attach(self, container_id: str = "c1", *, boot_id: str = "before", **more: Any) -> Record:
        """Record a committed attachment with an address; by default it is from an earlier boot."""
        key = AttachmentKey(network=KEY.network, container_id=container_id, ifname="net1")
        record = replace(RECORD, key=key, committed=True, boot_id=boot_id, conf=self.conf(), **more)
        self.host.records.write(record)
        self.host.ownership.claim(record.pci, key)
        number = 2 + len(list(self.leases.glob("ib/10.*")))
        write(self.leases / f"ib/10.0.0.{number}", f"{container_id}\r\nnet1")
        return record

    def turn(self, after: float = 0.0) -> float:
        self.now += after
        return self.reconciler.run_pass()

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    def leased(self) -> list[str]:
        return sorted(path.name for path in self.leases.glob("ib/10.*"))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_a_dead_attachment_is_released_after_the_grace_period(node: Node) -> None:
    record = node.attach()
    node.turn()
    assert node.value("ib_sriov_attachments", network="ib", state="dead") == 1
    assert node.turn(SETTLE) == GRACE - SETTLE
    assert node.turn(GRACE - SETTLE - 1) == 1
    assert node.host.records.read(record.key) is not None
    assert node.leased() == ["10.0.0.2"]
    assert node.turn(1) == float("inf")
    assert node.host.records.read(record.key) is None
    assert node.host.ownership.read_owner(VF) is None
    assert node.leased() == []
    assert node.value("ib_sriov_agent_releases_total", network="ib") == 1
    assert node.value("ib_sriov_attachments", network="ib", state="dead") == 0
    assert "the node has been rebooted since" in node.log.read_text()


def test_a_new_agent_waits_anew(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.attach()
    node.turn()
    other = Node.__new__(Node)
    other.__dict__.update(node.__dict__)
    other.reconciler = Reconciler(
        node.host,
        Metrics(),
        Events(ApiServer({}), on_failure=print, on_result=print),
        Policy(grace=GRACE),
        clock=lambda: other.now,
    )
    other.turn(GRACE)
    assert other.turn(SETTLE) == GRACE - SETTLE
    assert node.leased() == ["10.0.0.2"]


def test_a_later_attachment_of_the_same_name_has_its_own_time(node: Node) -> None:
    node.attach()
    node.turn()
    node.attach(since=99.0)
    node.turn(GRACE)
    assert node.turn(SETTLE) == GRACE - SETTLE
    assert len(node.leased()) == 2


def test_who_is_at_work_on_the_vf_is_not_disturbed(node: Node) -> None:
    node.attach()
    node.turn()
    with Locks(str(node.root / "run")).take(VF, "c9 net1", 0):
        thread = threading.Thread(target=node.turn, args=(GRACE,))
        thread.start()
        thread.join()
        assert len(node.leased()) == 1
    node.turn(1)
    assert node.leased() == []


def test_an_add_on_its_way_is_not_dead(node: Node) -> None:
    record = replace(node.attach(boot_id="now"), committed=False)
    node.host.records.write(record)
    with Locks(str(node.root / "run")).take(VF, "c1 net1", 0):
        node.turn()
        assert node.value("ib_sriov_attachments", network="ib", state="adding") == 1
        node.turn(GRACE * 2)
    assert node.host.records.read(record.key) is not None
    witness = Witness(processes=node.host.processes)
    assert judge(node.host, record, witness).state == DEAD


def test_a_release_that_fails_is_tried_again_later(node: Node) -> None:
    record = node.attach()
    plugin = node.root / "bin" / "other-ipam"
    node.host.records.write(replace(record, conf=node.conf(type="other-ipam")))
    before = os.environ.get("CNI_PATH")
    os.environ["CNI_PATH"] = str(plugin.parent)
    try:
        node.turn()
        node.turn(GRACE)
        assert node.value("ib_sriov_agent_release_failures_total", code="104") == 1
        assert node.turn(1) == FIRST_PAUSE - 1
        write(plugin, "#!/bin/sh\nexit 0\n")
        plugin.chmod(0o755)
        node.turn(FIRST_PAUSE)
    finally:
        os.environ.pop("CNI_PATH")
        if before is not None:
            os.environ["CNI_PATH"] = before
    assert node.host.records.read(record.key) is None
    assert node.value("ib_sriov_agent_releases_total", network="ib") == 1


def test_leases_that_somebody_holds_are_not_waited_for_again_and_again(node: Node) -> None:
    record = node.attach()
    node.host.records.write(replace(record, conf={**node.conf(), "lockTimeout": 0.05}))
    node.turn()
    holder = os.open(node.leases / "ib/lock", os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(holder, fcntl.LOCK_EX)
    node.turn(GRACE)
    assert node.value("ib_sriov_agent_release_failures_total", code="11") == 1
    assert node.turn(1) == FIRST_PAUSE - 1
    os.close(holder)
    node.turn(FIRST_PAUSE)
    assert node.host.records.read(record.key) is None


def test_sigterm_is_obeyed_between_two_acts(node: Node) -> None:
    for name in ("c1", "c2", "c3"):
        node.attach(name)
    node.turn()
    count = node.count

    def stop_after_one() -> None:
        count()
        node.stop = len(node.leased()) < 3

    node.reconciler._heartbeat = stop_after_one  # noqa: SLF001  # as the process's signal handler would
    node.turn(GRACE)
    assert len(node.leased()) == 2


def test_a_defect_in_one_part_stops_no_other(node: Node) -> None:
    """ADD would refuse this configuration: its ranges cannot be counted, but it is released anyway."""
    record = node.attach()
    ipam = {"type": "host-local", "ranges": 5, "dataDir": str(node.root / "networks")}
    node.host.records.write(replace(record, conf={"name": "ib", "ipam": ipam}))
    node.turn()
    node.turn(GRACE)
    assert node.host.records.read(record.key) is None


def test_a_fault_that_lasts_is_told_once_and_counted_each_time(node: Node) -> None:
    socket = str(node.root / "none.sock")
    policy = Policy(grace=GRACE, cri_socket=socket)
    node.reconciler = Reconciler(
        node.host,
        node.metrics,
        Events(ApiServer({}), on_failure=print, on_result=print),
        policy,
        clock=lambda: node.now,
    )
    # After a failure the runtime is not asked for a while, which doubles each time.
    for pause in (0, RUNTIME_PAUSE - 1, 1, 2 * RUNTIME_PAUSE - 1, 1):
        node.turn(pause)
    told = [line for line in node.log.read_text().splitlines() if "part=cri" in line]
    assert len(told) == 1
    assert f"No such file or directory: '{socket}'" in told[0]
    assert node.value("ib_sriov_agent_errors_total", part="cri") == 3


def test_findings_that_change_all_the_time_are_not_all_reported(node: Node) -> None:
    """A pod with CAP_NET_ADMIN can cause a new one in each pass, so the log lines and events need a limit."""
    for number in range(REPORTS_MAX * 2):
        node.reconciler._report({("differs", KEY, number): (KEY, f"renamed to x{number}")})  # noqa: SLF001
    lines = [line for line in node.log.read_text().splitlines() if "renamed to" in line]
    assert len(lines) == REPORTS_MAX
    assert "further findings about it are not reported" in lines[-1]
    node.now += 3600
    node.reconciler._report({("differs", KEY, "later"): (KEY, "renamed to y")})  # noqa: SLF001
    assert "renamed to y" in node.log.read_text()


def reported(node: Node, words: str) -> bool:
    lines = node.log.read_text().splitlines() if node.log.exists() else []
    return any(words in line for line in lines if "msg=finding" in line)


def test_what_a_del_leaves_for_a_moment_is_not_reported(node: Node) -> None:
    """The address is released, the record not yet: only what lasts is told."""
    facts: dict[str, Any] = {"netns_path": "/proc/self/ns/net", "netns_cookie": 0}
    facts["result"] = {"ips": [{"address": "10.0.0.9/29"}]}
    record = node.attach(boot_id="now", **facts)
    (node.tree.device(VF) / "net").rename(node.root / "net")
    node.turn()
    assert not reported(node, "10.0.0.9")
    with Locks(str(node.root / "run")).take(VF, "c1 net1", 0):
        node.turn(SETTLE)
    assert not reported(node, "10.0.0.9")
    node.host.ownership.disclaim(VF, record.key)
    node.host.records.forget(record.key)
    node.turn(SETTLE)
    assert not reported(node, "10.0.0.9")
    node.attach(boot_id="now", **facts)
    node.turn()
    node.turn(SETTLE)
    assert reported(node, "address 10.0.0.9 is not reserved")
    node.host.close()


def test_an_owner_without_record_is_disowned_after_the_grace_period(node: Node) -> None:
    node.host.ownership.claim(VF, KEY)
    node.turn()
    node.turn(GRACE - 1)
    assert node.host.ownership.read_owner(VF) == KEY
    node.turn(1)
    assert node.host.ownership.read_owner(VF) is None
    assert node.value("ib_sriov_agent_repairs_total", kind="disown") == 1


def test_figures(node: Node) -> None:
    node.attach()
    node.turn()
    assert node.value("ib_sriov_vfs", pf=PF, state="leftover") == 1
    assert node.value("ib_sriov_vfs", pf=PF, state="free") == 0
    assert node.value("ib_sriov_port_state", pf=PF, device=PF, kind="pf", rdma="mlx5_0") == 4
    # 10.0.0.0/29: .1 to .6, of which .1 is the gateway
    labels = {"network": "ib", "range": "10.0.0.1-10.0.0.6"}
    assert node.value("ib_sriov_leases", state="used", **labels) == 1
    assert node.value("ib_sriov_leases", state="free", **labels) == 4
    node.turn(GRACE)
    assert node.value("ib_sriov_vfs", pf=PF, state="free") == 1
    # the network is remembered, so that a range does not disappear with its last pod
    assert node.value("ib_sriov_leases", state="free", **labels) == 5


def test_the_vf_of_a_hidden_attachment_is_in_use(node: Node) -> None:
    node.attach(boot_id="now", netns_path="/nowhere")
    (node.tree.device(VF) / "net").rename(node.root / "net")
    node.turn()
    node.host.close()
    assert node.value("ib_sriov_attachments", network="ib", state="hidden") == 1
    assert node.value("ib_sriov_vfs", pf=PF, state="in_use") == 1


def test_a_network_that_is_released_at_first_sight_has_figures(node: Node) -> None:
    node.attach()
    node.reconciler = Reconciler(
        node.host, node.metrics, Events(ApiServer({}), on_failure=print, on_result=print), Policy(grace=0)
    )
    node.turn()
    assert node.leased() == []
    assert node.value("ib_sriov_attachments", network="ib", state="dead") == 0
    assert node.value("ib_sriov_leases", network="ib", range="10.0.0.1-10.0.0.6", state="used") == 0


def test_a_damaged_record_is_counted_and_left(node: Node) -> None:
    path = Path(node.host.records.file_of(KEY))
    path.parent.mkdir(parents=True)
    path.write_text("{")
    node.turn()
    node.turn(GRACE * 10)
    assert node.value("ib_sriov_damaged_records") == 1
    assert path.read_text() == "{"


def test_leases_of_ranges_and_slices(node: Node) -> None:
    record = node.attach()
    four = {"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.10", "rangeEnd": "10.0.0.19"}
    conf = node.conf(subnet=None, ranges=[[four], [{"subnet": "fd00::/64"}]])
    for name in ("10.0.0.10", "10.0.0.11", "10.0.0.99", "fd00::5", "last_reserved_ip.0", "lock"):
        write(node.leases / "ib" / name, "c\r\nnet1")
    found = read_usage(replace(record, conf=conf))
    assert found[0] == Usage(network="ib", range_set="10.0.0.10-10.0.0.19", used=2, free=8)
    assert (found[1].used, found[1].free) == (1, 2**64 - 3)
    sliced = node.conf(subnet="10.0.0.0/24", slices={"index": 1, "count": 16})
    (part,) = read_usage(replace(record, conf=sliced))
    assert part == Usage(network="ib", range_set="10.0.0.16-10.0.0.31", used=0, free=16)
    assert read_usage(replace(record, conf=node.conf(type="whereabouts"))) == []
    assert read_usage(replace(record, conf={"name": "ib"})) == []


def test_addresses_that_are_not_reserved(node: Node) -> None:
    result = {"ips": [{"address": "10.0.0.2/29"}, {"address": "10.0.0.3/29"}, {"address": "10.0.0.4/29"}]}
    record = replace(node.attach(), result=result)
    write(node.leases / "ib/10.0.0.3", "somebody else\r\nnet1")
    assert read_unreserved(record) == ["10.0.0.3", "10.0.0.4"]
    write(node.leases / "ib/10.0.0.3", "c1")  # as old versions wrote it
    write(node.leases / "ib/10.0.0.4", "")  # what a crash leaves
    assert read_unreserved(record) == ["10.0.0.4"]
    assert read_unreserved(replace(record, conf=node.conf(type="whereabouts"))) == []
    assert read_unreserved(replace(record, result={})) == []


def test_a_lease_that_is_no_file_keeps_nobody_waiting(node: Node) -> None:
    record = replace(node.attach(), result={"ips": [{"address": "10.0.0.2/29"}, {"address": "../x"}]})
    (node.leases / "ib/10.0.0.2").unlink()
    os.mkfifo(node.leases / "ib/10.0.0.2")
    with pytest.raises(OSError, match="not a regular file"):
        read_unreserved(record)


def test_pods_of_records() -> None:
    args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=train;K8S_POD_NAME=worker-0;K8S_POD_UID=u-1"
    pod = record_pod(replace(RECORD, args=args))
    assert pod is not None
    assert (pod.namespace, pod.name, pod.uid) == ("train", "worker-0", "u-1")
    assert record_pod(replace(RECORD, pod="")) is None
    assert record_pod(replace(RECORD, pod="/x")) is None
    assert json.dumps(pod.uid)
