"""Binding anew and moving: only when needed, whatever the driver does and whoever has the names meanwhile."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.commands import complaint, run, wait
from tests.lab.modes import EXCLUSIVE
from tests.lab.rig import Rig, end, guid_of, state_of, steps_of

LOG = Path("/tmp/rebind.log")
IDENTITY: dict[str, Any] = {"guid": guid_of(1), "link_state": "enable"}


@pytest.fixture(autouse=True)
def log() -> Iterator[None]:
    LOG.unlink(missing_ok=True)
    yield
    LOG.unlink(missing_ok=True)


def test_only_when_needed(rig: Rig) -> None:
    """Not for a GUID that the VF has, asked for or kept; nor in DEL after that."""
    had = rig.hca.port_guid(0)
    plain: tuple[dict[str, Any], ...] = ({"guid": had}, {}, {"guid": had.upper().replace(":", "")})
    for more in plain:
        pod = rig.pod()
        rig.add(pod, portTimeout=0, logFile=str(LOG), **more)
        rig.delete(pod, logFile=str(LOG), **more)
    for command in ("ADD", "DEL"):
        assert {"unbind", "bind", "set_port_guid"}.isdisjoint(steps_of(LOG.read_text(), command))
    rig.assert_as_before()
    pod = rig.pod()
    rig.add(pod, logFile=str(LOG), **IDENTITY)
    assert {"unbind", "bind", "set_port_guid"} <= set(steps_of(LOG.read_text(), "ADD"))
    rig.delete(pod, **IDENTITY)
    rig.assert_as_before()


def test_bind_that_fails_is_tried_again(rig: Rig) -> None:
    rig.hca.knob("fail_probe", 1)
    rig.hca.knob("fail_probes", 2)
    pod = rig.pod()
    done = rig.call("ADD", pod, **IDENTITY)
    assert done.status == 0, done
    assert done.stderr.count("bind failed, trying again") == 2
    rig.delete(pod, **IDENTITY)
    rig.assert_as_before()


def test_del_whose_bind_fails(rig: Rig) -> None:
    """The error has the kernel's reason, the record stays, and the DEL after that leaves the VF with its driver."""
    pod, successor = rig.pod(), rig.pod("successor")
    rig.add(pod, **IDENTITY)
    rig.hca.knob("fail_probe", 1)
    failed = rig.call("DEL", pod, **IDENTITY)
    assert failed.code == 102, failed
    assert f"bind to ib_qib VF {rig.hca.pci(0)}: Input/output error" in failed.out["msg"]
    assert rig.hca.driver(0) is None
    refused = rig.call("ADD", successor, **IDENTITY)
    assert refused.code == 102, refused
    rig.hca.knob("fail_probe", 0)
    rig.delete(pod, **IDENTITY)
    rig.assert_as_before()
    # and without that DEL the next pod's ADD does it
    rig.add(pod, **IDENTITY)
    rig.hca.knob("fail_probe", 1)
    assert rig.call("DEL", pod, **IDENTITY).code == 102
    rig.hca.knob("fail_probe", 0)
    rig.add(successor, **{**IDENTITY, "guid": guid_of(2)})
    rig.delete(pod, **IDENTITY)
    rig.delete(successor, **IDENTITY)
    rig.assert_as_before()


def test_names_that_dead_calls_have_exchanged(rig: Rig) -> None:
    """Two VFs bound at once come up under each other's names, and only their DELs can put that right."""
    pods = [rig.pod(), rig.pod()]
    for vf in (1, 0):  # the other way round, the second ADD would bind the first one's VF, which had the lower number
        killed = rig.call("ADD", pods[vf], vf, trace="unbind.done=kill", **{**IDENTITY, "guid": guid_of(vf)})
        assert killed.status == -signal.SIGKILL
    for vf in (1, 0):
        assert rig.hca.bind(vf) == "OK"
    assert wait(lambda: rig.hca.netdevs(0) and rig.hca.netdevs(1))
    # the kernel gives out the lowest free name
    assert rig.before.facts[f"VF 0 ({rig.hca.pci(0)}) netdevs in init"] == rig.hca.netdev(1)
    for vf, pod in enumerate(pods):
        rig.delete(pod, vf, **{**IDENTITY, "guid": guid_of(vf)})
    rig.assert_as_before()


@EXCLUSIVE
def test_add_gives_the_rdma_device_its_name(rig: Rig) -> None:
    """In a pod a name is out of reach: a VF that had another's there would keep that one from its own."""
    first = rig.pod()
    had, other = str(rig.hca.rdma(0)), str(rig.hca.rdma(1))
    process = rig.start("ADD", first, 0, trace="bind=stop", logFile=str(LOG), **IDENTITY)
    assert wait(lambda: state_of(process.pid) == "T")
    run(["rdma", "dev", "set", other, "name", had])  # while it is free
    process.send_signal(signal.SIGCONT)
    # The kernel has given VF 0 the other name, which it leaves for a temporary one.
    assert wait(lambda: not complaint(["rdma", "dev", "set", had, "name", other]))
    done = end(process)
    assert done.status == 0, done
    assert first.rdma() == [had]
    rig.delete(first, **IDENTITY)
    rig.assert_as_before()


@EXCLUSIVE
def test_pod_renamed_its_rdma_device(rig: Rig) -> None:
    """Its name is restored; if another device has it by then, the VF gets another name on the host."""
    had, other = str(rig.hca.rdma(0)), str(rig.hca.rdma(1))
    pod = rig.pod()
    rig.add(pod, **IDENTITY)
    pod.run(["rdma", "dev", "set", had, "name", "mine"])
    rig.delete(pod, **IDENTITY)
    rig.assert_as_before()
    rig.add(pod, **IDENTITY)
    pod.run(["rdma", "dev", "set", had, "name", "mine"])
    run(["rdma", "dev", "set", other, "name", had])
    gone = rig.call("DEL", pod, **IDENTITY)
    assert gone.status == 0, gone
    assert "name not restored: another device has it" in gone.stderr
    assert rig.hca.rdma(0) not in (None, had)
    run(["rdma", "dev", "set", had, "name", other])
    run(["rdma", "dev", "set", str(rig.hca.rdma(0)), "name", had])
    rig.assert_as_before()


@EXCLUSIVE
def test_pod_has_an_rdma_device_of_that_name(rig: Rig) -> None:
    """Possible since names are each namespace's own (Linux 6.17); before, the kernel refuses the renaming."""
    had, other = str(rig.hca.rdma(0)), str(rig.hca.rdma(1))
    pod = rig.pod()
    rig.add(pod)
    refused = complaint(["rdma", "dev", "set", other, "name", had])
    print("the kernel refuses two devices of one name" if refused else "two namespaces, two devices of one name")
    result = rig.call("ADD", pod, 1, ifname="net2", ipam={"type": "host-local", "subnet": "10.57.0.0/24"})
    assert result.status == 0, result
    assert len(pod.rdma()) == 2
    rig.delete(pod, 1, ifname="net2")
    if not refused:
        assert rig.hca.rdma(1) == had
        run(["rdma", "dev", "set", had, "name", other])
    rig.delete(pod)
    rig.assert_as_before()
