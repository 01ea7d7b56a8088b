"""VFs that the kernel would not bind to their driver again: autoprobe is off, or a driver_override was left."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.lab.commands import read, write
from tests.lab.modes import SHARED
from tests.lab.rig import Rig, guid_of

NO_OVERRIDE, DRIVER = "(null)", "ib_qib"


@pytest.fixture(params=["autoprobe", "override", "both"])
def forbidding(rig: Rig, request: pytest.FixtureRequest) -> Iterator[str]:
    """A node that forbids binding VF 0; its driver_override."""
    override = NO_OVERRIDE if request.param == "autoprobe" else "vfio-pci"
    paths = (rig.hca.pf_path / "sriov_drivers_autoprobe", rig.hca.vf_path(0) / "driver_override")
    if request.param != "override":
        assert write(paths[0], 0) == "OK"
    if override != NO_OVERRIDE:
        assert write(paths[1], override) == "OK"
    yield override
    write(paths[0], 1)
    write(paths[1], "\n")


def test_the_kernel_forbids_it(rig: Rig, forbidding: str) -> None:
    """What this is all about: unbinding works, and nothing binds the VF again."""
    assert rig.hca.rebind(0) == ("OK", "ENODEV")
    write("/sys/bus/pci/drivers_probe", rig.hca.pci(0))
    assert rig.hca.driver(0) is None
    # The commands of our messages.
    assert write(rig.hca.vf_path(0) / "driver_override", DRIVER) == "OK"
    assert write("/sys/bus/pci/drivers_probe", rig.hca.pci(0)) == "OK"
    assert rig.hca.driver(0) == DRIVER
    assert rig.hca.settled()
    rig.load()


def test_a_vf_is_bound_where_that_is_forbidden(rig: Rig, forbidding: str) -> None:
    pod = rig.pod()
    rig.add(pod, guid=guid_of(1))
    assert read(rig.hca.vf_path(0) / "driver_override") == forbidding
    rig.delete(pod)
    assert read(rig.hca.vf_path(0) / "driver_override") == forbidding
    write(rig.hca.vf_path(0) / "driver_override", "\n")
    rig.assert_as_before()


@SHARED
@pytest.mark.parametrize("moment", ["set_override.done", "unbind", "bind", "bind.done"])
def test_a_kill_leaves_a_vf_that_can_be_bound(rig: Rig, forbidding: str, moment: str) -> None:
    pod, successor = rig.pod(), rig.pod()
    killed = rig.call("ADD", pod, trace=f"{moment}=kill", guid=guid_of(1))
    assert killed.status == -signal.SIGKILL, killed
    assert read(rig.hca.vf_path(0) / "driver_override") == DRIVER
    rig.add(successor, guid=guid_of(2))
    assert read(rig.hca.vf_path(0) / "driver_override") == forbidding
    rig.delete(successor)
    rig.delete(pod)
    assert read(rig.hca.vf_path(0) / "driver_override") == forbidding
    write(rig.hca.vf_path(0) / "driver_override", "\n")
    rig.assert_as_before()


@SHARED
def test_a_killed_del_too(rig: Rig, forbidding: str) -> None:
    """The VF is with its driver again, with the GUID it had: the next DEL rebinds nothing."""
    pod = rig.pod()
    rig.add(pod, guid=guid_of(1))
    killed = rig.call("DEL", pod, trace="bind.done=kill")
    assert killed.status == -signal.SIGKILL, killed
    assert read(rig.hca.vf_path(0) / "driver_override") == DRIVER
    assert rig.hca.settled()
    rig.delete(pod)
    assert read(rig.hca.vf_path(0) / "driver_override") == forbidding
    write(rig.hca.vf_path(0) / "driver_override", "\n")
    rig.assert_as_before()
