"""podman's CNI backend: a container on our network, stopped and started, killed, removed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.client_programs import image, node
from tests.lab.client_programs.podman import Podman
from tests.lab.emulated_hca import Hca
from tests.lab.modes import SHARED
from tests.lab.rig import Rig

ADDRESS = "10.56.0.77"
NAME = "worker-0"


@pytest.fixture(scope="module")
def installed() -> Podman:
    return Podman()


@pytest.fixture
def podman(rig: Rig, installed: Podman) -> Iterator[Podman]:
    """podman; its containers end with the test."""
    yield installed
    installed("rm", "-f", "-t", "0", "-a")


def network(hca: Hca, version: str, **more: Any) -> dict[str, Any]:
    return node.conflist(version, [node.plugin(hca.pci(0), capabilities={"ips": True}, **more)], name="fabric")


def addresses(podman: Podman) -> list[str]:
    """The IPv4 addresses that the container sees on its interface."""
    shown = podman("exec", NAME, "ip", "-o", "-4", "addr", "show", "dev", "eth0").stdout.split()
    return [shown[place + 1] for place, word in enumerate(shown) if word == "inet"]


def inspected(podman: Podman) -> dict[str, Any]:
    (found,) = json.loads(podman("inspect", NAME).stdout)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(("version", "loaded"), [("0.4.0", "shared"), ("1.0.0", "exclusive")], indirect=["loaded"])
def test_a_container_on_our_network(rig: Rig, podman: Podman, version: str) -> None:
    """C11, C13, N1: ADD and DEL at run, stop, start, kill and rm; the capability ips; the host as before."""
    hca = rig.hca
    podman.use(network(hca, version, rdmaIsolation=rig.exclusive))
    podman("run", "-d", "--name", NAME, "--network", "fabric", "--ip", ADDRESS, image.NAME, *image.PAUSE)
    assert addresses(podman) == [f"{ADDRESS}/24"]
    assert hca.netdevs(0) == []
    assert (hca.rdma(0) is None) is rig.exclusive
    assert inspected(podman)["NetworkSettings"]["Networks"]["fabric"]["IPAddress"] == ADDRESS
    podman("stop", "-t", "0", NAME)
    rig.assert_as_before()
    podman("start", NAME)
    assert addresses(podman) == [f"{ADDRESS}/24"]
    # the container's process ends by itself: podman cleans up behind it
    os.kill(int(inspected(podman)["State"]["Pid"]), signal.SIGKILL)
    podman("wait", NAME)
    rig.assert_as_before()
    podman("rm", "-f", NAME)
    rig.assert_as_before()


@SHARED
def test_an_address_that_is_taken_is_refused_and_said(rig: Rig, podman: Podman) -> None:
    """H3, C5: podman shows our message."""
    hca = rig.hca
    podman.use(network(hca, "1.0.0"))
    gateway = "10.56.0.1"
    done = podman("run", "--rm", "--network", "fabric", "--ip", gateway, image.NAME, "true", check=False)
    assert done.returncode != 0
    assert gateway in done.stderr
    assert hca.netdevs(0) != []
