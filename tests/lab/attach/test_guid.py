"""A GUID names one port: what another VF of the node has is refused, and the message names the holder."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.lab.commands import wait
from tests.lab.emulated_hca import with_colons
from tests.lab.modes import EXCLUSIVE, SHARED
from tests.lab.rig import Rig, end, guid_of, state_of
from tests.lab.snapshot import assert_as_before, host_snapshot

GUID = guid_of(1)


@EXCLUSIVE
def test_a_guid_of_another_pod_is_refused_with_its_name(rig: Rig) -> None:
    first, second = rig.pod(), rig.pod()
    args = {"CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=train;K8S_POD_NAME=worker-0"}
    added = rig.cni("ADD", first, rig.conf(0, guid=GUID), env=args)
    assert added.status == 0, added
    attached = host_snapshot(rig.hca)
    refused = rig.call("ADD", second, 1, guid=GUID)
    assert refused.code == 101, refused
    assert f"guid {GUID} is held by pod train/worker-0 (network ibnet, net1)" in refused.out["msg"]
    assert_as_before(attached)
    rig.delete(first, guid=GUID)
    rig.assert_as_before()


@SHARED
def test_a_guid_of_the_pf_and_of_a_sibling_are_refused(rig: Rig) -> None:
    hca, pod = rig.hca, rig.pod()
    pf_gid = Path(f"/sys/class/infiniband/{hca.pf_rdma}/ports/1/gids/0").read_text().strip()
    for guid, holder in ((hca.port_guid(2), hca.rdma(2)), (with_colons(pf_gid[20:]), hca.pf_rdma)):
        refused = rig.call("ADD", pod, guid=guid)
        assert refused.code == 101, refused
        assert f"is held by RDMA device {holder}" in refused.out["msg"], refused.out
    assert pod.link() is None
    rig.assert_as_before()


@SHARED
def test_two_pods_at_once_never_get_one_guid(rig: Rig) -> None:
    """One of them gets it, or neither: each sees the other's plan."""
    pods = [rig.pod(), rig.pod()]
    runs = [end(process) for process in [rig.start("ADD", pod, vf, guid=GUID) for vf, pod in enumerate(pods)]]
    assert {run.code for run in runs} <= {None, 101}, runs
    assert [run.status for run in runs].count(0) <= 1, runs
    for vf, pod in enumerate(pods):
        rig.delete(pod, vf, guid=GUID)
    rig.assert_as_before()


def test_a_dead_pod_gives_its_guid_to_its_next_life_on_another_vf(rig: Rig) -> None:
    """Two of them at once, each on the other's VF: nobody who holds a lock waits for another."""
    old = [rig.pod(), rig.pod()]
    for vf, pod in enumerate(old):
        rig.add(pod, vf, guid=guid_of(vf))
    for pod in old:
        pod.delete()
    new = [rig.pod(), rig.pod()]
    runs = [end(process) for process in [rig.start("ADD", pod, 1 - vf, guid=guid_of(vf)) for vf, pod in enumerate(new)]]
    assert [run.status for run in runs] == [0, 0], runs
    for vf, pod in enumerate(new):
        assert rig.check(pod, runs[vf].out, 1 - vf, guid=guid_of(vf)).status == 0
        rig.delete(pod, 1 - vf, guid=guid_of(vf))
    rig.assert_as_before()


def open_files(pid: int) -> list[str]:
    return [os.path.realpath(path) for path in Path(f"/proc/{pid}/fd").iterdir()]


def test_a_guid_whose_holder_is_just_being_deleted_is_waited_for(rig: Rig) -> None:
    old, new = rig.pod(), rig.pod()
    rig.add(old, guid=GUID)
    stopped = rig.start("DEL", old, trace="return_devices=stop", guid=GUID)
    assert wait(lambda: state_of(stopped.pid) == "T", 90)
    added = rig.start("ADD", new, 1, guid=GUID)
    assert wait(lambda: f"/run/ib-sriov/{rig.hca.pci(0)}.lock" in open_files(added.pid), 90)
    os.kill(stopped.pid, signal.SIGCONT)
    assert end(stopped).status == 0
    done = end(added)
    assert done.status == 0, done
    rig.delete(new, 1, guid=GUID)
    rig.assert_as_before()
