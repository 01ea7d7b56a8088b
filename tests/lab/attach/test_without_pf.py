"""Functions without a PF on this machine, as a virtual machine in a cloud has them: attached as they are.

A PF with total_vfs=0 has no SR-IOV capability in the kernel's eyes. In this virtual machine that makes it a whole HCA
that was passed through.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.rig import TRACE, Rig, answers, connected, guid_of, rigs


@pytest.fixture(scope="module", params=["shared", "exclusive"])
def loaded(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """Two such functions."""
    yield from rigs(request.param, vfs=0, total_vfs=0, pfs=2, preset=False)


def conf(rig: Rig, number: int, **more: Any) -> dict[str, Any]:
    return rig.conf(None, deviceID=rig.hca.pfs[number].pf, **more)


def test_two_pods_talk(rig: Rig) -> None:
    pods = [rig.pod("left"), rig.pod("right")]
    added = [rig.cni("ADD", pod, conf(rig, number)) for number, pod in enumerate(pods)]
    assert [run.status for run in added] == [0, 0], added
    assert all(connected(pod) for pod in pods)
    assert answers(pods[0], pods[1].addresses()[0].partition("/")[0])
    for number, (pod, run) in enumerate(zip(pods, added, strict=True)):
        checked = rig.cni("CHECK", pod, conf(rig, number, prevResult=run.out))
        assert checked.status == 0, checked.stdout
    for number, pod in enumerate(pods):
        assert rig.cni("DEL", pod, conf(rig, number)).status == 0
    rig.assert_as_before()


@pytest.mark.parametrize("key", ["guid", "link_state"])
def test_what_only_a_pf_could_set_is_refused_before_anything_is_touched(rig: Rig, key: str) -> None:
    pod = rig.pod()
    refused = rig.cni("ADD", pod, conf(rig, 0, **{key: {"guid": guid_of(1), "link_state": "auto"}[key]}))
    assert refused.code == 2, refused
    assert refused.out["msg"].startswith(f"{key}: VF {rig.hca.pf} has no PF on this machine")
    assert [link["ifname"] for link in pod.links()] == ["lo"]
    rig.assert_as_before()


@pytest.mark.parametrize("step", ["claim", "move_netdev", "add_addresses"])
def test_a_killed_add_is_undone_by_the_next_pods(rig: Rig, step: str) -> None:
    dead, living = rig.pod("dead"), rig.pod("living")
    killed = rig.cni("ADD", dead, conf(rig, 0), env={TRACE: f"{step}.done=kill"})
    assert killed.status != 0
    added = rig.cni("ADD", living, conf(rig, 0))
    assert added.status == 0, added.stdout
    assert rig.cni("DEL", living, conf(rig, 0)).status == 0
    assert rig.cni("DEL", dead, conf(rig, 0)).status == 0
    rig.assert_as_before()
