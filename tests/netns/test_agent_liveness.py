"""ib_sriov_cni.agent.liveness on real namespaces and processes and a fake sysfs: live, dead and hidden attachments."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ib_sriov_cni.agent.liveness import ADDING, UNKNOWN_GRACE, Witness, judge
from ib_sriov_cni.attach.host import Host
from ib_sriov_cni.attach.liveness import DEAD, HIDDEN, LIVE
from ib_sriov_cni.core.record import Record
from ib_sriov_cni.kernel.processes import INIT_PIDS, Processes
from ib_sriov_cni.state.locks import Locks
from ib_sriov_cni.telemetry.log import Log
from ipam.protocol.value import replace
from tests.netns.conftest import Sandbox
from tests.unit.trees import PF, RECORD, VF, Tree


class Case:
    """A VF in a fake sysfs, and an attachment to a real namespace."""

    def __init__(self, root: Path, sandbox: Sandbox) -> None:
        self.root, self.sandbox = root, sandbox
        self.tree = Tree(root / "sys")
        self.tree.add_pf()
        self.tree.add_netdev(PF, "ib0", index=6)
        self.tree.add_vf(VF, 0)
        self.tree.add_rdma(VF, "mlx5_3")
        places = {"state_dir": root / "state", "lock_dir": root / "run", "sysfs_root": root / "sys"}
        self.host = Host(log=Log(level="error"), **{name: str(path) for name, path in places.items()})
        with sandbox.open() as netns:
            cookie = netns.cookie()
        self.record = replace(
            RECORD,
            committed=True,
            boot_id=self.host.read_boot_id(),
            netns_path=sandbox.path,
            netns_cookie=cookie,
        )

    def come_home(self) -> None:
        self.tree.add_netdev(VF, "ib1", index=7)

    def judge(self, *, pods: frozenset[str] | None = None, proc_root: str = "/proc", **changes: Any) -> Any:
        witness = Witness(processes=Processes(proc_root), pods=pods)
        verdict = judge(self.host, self.changed(**changes), witness)
        return (verdict.state, verdict.grace)

    def changed(self, **changes: Any) -> Record:
        return replace(self.record, **changes)


@pytest.fixture
def case(tmp_path: Path, new_sandbox: Callable[[], Sandbox]) -> Case:
    return Case(tmp_path, new_sandbox())


@pytest.fixture
def all_pids(tmp_path: Path) -> str:
    """A fake /proc that looks like the node's own, which shows every process, wherever the tests run."""
    root = tmp_path / "proc"
    (root / "self/ns").mkdir(parents=True)
    (root / "self/ns/pid").symlink_to(INIT_PIDS)
    return str(root)


@pytest.fixture
def process(case: Case) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs in the namespace."""
    command = ["ip", "netns", "exec", case.sandbox.name, "sh", "-c", "echo in; exec sleep 600"]
    made = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert made.stdout is not None
    assert made.stdout.readline() == b"in\n"
    yield made
    made.kill()
    made.communicate()


def show(process: subprocess.Popen[bytes], proc_root: str) -> None:
    """Make that process appear in a fake /proc."""
    folder = Path(proc_root, str(process.pid), "ns")
    folder.mkdir(parents=True)
    (folder / "net").symlink_to(f"/proc/{process.pid}/ns/net")


def test_alive(case: Case) -> None:
    assert case.judge() == (LIVE, 0)


def test_alive_although_its_vf_is_at_home(case: Case) -> None:
    """Someone rebound the VF: the pod has lost it, but is alive."""
    case.come_home()
    assert case.judge() == (LIVE, 0)


def test_gone(case: Case) -> None:
    case.sandbox.remove()
    assert case.judge() == (HIDDEN, 0)  # the VF is still in some namespace
    case.come_home()
    assert case.judge() == (DEAD, 0)


def test_gone_with_its_device_or_its_driver(case: Case) -> None:
    case.sandbox.remove()
    (case.tree.device(VF) / "driver").unlink()
    assert case.judge() == (DEAD, 0)
    shutil.rmtree(case.tree.device(VF))
    assert case.judge() == (DEAD, 0)


def test_another_namespace_has_its_path(case: Case, new_sandbox: Callable[[], Sandbox]) -> None:
    case.come_home()
    assert case.judge(netns_path=new_sandbox().path) == (DEAD, 0)


def test_its_path_is_gone_and_a_process_lives_in_it(case: Case, process: subprocess.Popen[bytes]) -> None:
    case.sandbox.remove()
    case.come_home()
    assert case.judge() == (HIDDEN, 0)
    process.kill()
    process.wait()
    assert case.judge() == (DEAD, 0)


def test_passed_through(case: Case, all_pids: str, tmp_path: Path) -> None:
    """No device gives evidence; the processes do, if all of them can be seen."""
    assert case.judge(driver="vfio-pci") == (LIVE, 0)
    case.sandbox.remove()
    (tmp_path / "unreadable_records/self/ns").mkdir(parents=True)
    (tmp_path / "unreadable_records/self/ns/pid").symlink_to("pid:[4026532000]")
    assert case.judge(driver="vfio-pci", proc_root=str(tmp_path / "unreadable_records")) == (HIDDEN, 0)
    assert case.judge(driver="vfio-pci", proc_root=all_pids) == (DEAD, 0)


def test_of_an_earlier_boot(case: Case) -> None:
    assert case.judge(boot_id="before") == (DEAD, 0)


def test_an_add_on_its_way_and_a_dead_one(case: Case) -> None:
    with Locks(str(case.root / "run")).take(VF, "c1 net1", 0):
        assert case.judge(committed=False) == (ADDING, 0)
    assert case.judge(committed=False) == (DEAD, 0)


def test_the_runtime_knows_it(case: Case, all_pids: str) -> None:
    known = frozenset([case.record.key.container_id])
    assert case.judge(pods=known, proc_root=all_pids) == (LIVE, 0)


def test_the_runtime_does_not_know_it(case: Case, all_pids: str, process: subprocess.Popen[bytes]) -> None:
    """Dead only if no process is in it, after a long time, and if it belonged to a pod."""
    nobody: frozenset[str] = frozenset()
    assert case.judge(pods=nobody, proc_root=all_pids) == (DEAD, UNKNOWN_GRACE)
    assert case.judge(pods=nobody, proc_root=all_pids, pod="") == (LIVE, 0)
    assert case.judge(pods=None, proc_root=all_pids) == (LIVE, 0)
    show(process, all_pids)
    assert case.judge(pods=nobody, proc_root=all_pids) == (LIVE, 0)


def test_the_runtime_does_not_know_it_and_not_all_processes_can_be_seen(case: Case, tmp_path: Path) -> None:
    (tmp_path / "unreadable_records").mkdir()
    assert case.judge(pods=frozenset(), proc_root=str(tmp_path / "unreadable_records")) == (LIVE, 0)


def test_processes_by_cookie(case: Case, process: subprocess.Popen[bytes], all_pids: str) -> None:
    cookie = case.record.netns_cookie
    assert Processes().has(cookie) is True
    assert Processes(all_pids).has(cookie) is False
    show(process, all_pids)
    assert Processes(all_pids).has(cookie) is True
    assert Processes(all_pids).has(0) is None  # a kernel without cookies


def test_a_process_whose_namespace_cannot_be_opened_hides_no_other() -> None:
    """A process that is ending also gives EACCES (proc_ns_get_link in fs/proc/namespaces.c)."""
    with tempfile.TemporaryDirectory() as root:
        Path(root).chmod(0o711)
        proc = Path(root) / "proc"
        (Path(root) / "closed").mkdir(mode=0o700)
        for pid, target in (("7", f"{root}/closed/net"), ("8", "/proc/self/ns/net")):
            (proc / pid / "ns").mkdir(parents=True)
            (proc / pid / "ns/net").symlink_to(target)
        (proc / "self/ns").mkdir(parents=True)
        (proc / "self/ns/pid").symlink_to(INIT_PIDS)
        os.seteuid(65534)
        try:
            assert Processes(str(proc)).has(1) is None
        finally:
            os.seteuid(0)
