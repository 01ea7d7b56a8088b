"""containerd's CRI with Multus as its network: pod sandboxes with an InfiniBand VF, containerd killed in between."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ib_sriov_cni.agent.cri import list_pods
from tests.lab.client_programs import image, multus, node
from tests.lab.client_programs.containerd import SOCKET, Containerd, tail
from tests.lab.client_programs.cri import READY, CriError, container_config, pod_config
from tests.lab.commands import names, wait
from tests.lab.emulated_hca import Hca
from tests.lab.modes import SHARED
from tests.lab.rig import TRACE, Rig, state_of

CONF_DIR = Path("/etc/cni/net.d")
BIN_DIR = Path("/opt/cni/bin")
CONF = "00-multus.conf"
ALONE = "00-alone.conflist"


@pytest.fixture(scope="module")
def running() -> Iterator[Containerd]:
    """A containerd for all tests of this file; its network is whatever lies in CONF_DIR."""
    for each in names(CONF_DIR):
        (CONF_DIR / each).unlink()
    node.bin_folder(BIN_DIR, ["multus", "bridge", "host-local", "loopback"])
    # a configuration it can start with; each test writes its own
    node.write_conf(CONF_DIR, multus.conf("1.0.0", multus.cluster_network("1.0.0")), CONF)
    made = Containerd(bin_dir=str(BIN_DIR), conf_dir=str(CONF_DIR))
    yield made
    made.end()
    for each in names(CONF_DIR):
        (CONF_DIR / each).unlink()


@pytest.fixture
def containerd(rig: Rig, running: Containerd) -> Iterator[Containerd]:
    """The containerd of this file; pods and bridge end with the test."""
    yield running
    running.remove_pods()
    multus.forget_bridge()


def use_network(containerd: Containerd, hca: Hca, **more: Any) -> None:
    """Have the next pods get VF 0; containerd watches the folder, a restart is surer."""
    delegate = {"cniVersion": "1.0.0", "name": "ibnet", **node.plugin(hca.pci(0), **more)}
    (CONF_DIR / ALONE).unlink(missing_ok=True)
    node.write_conf(CONF_DIR, multus.conf("1.0.0", delegate), CONF)
    containerd.kill()
    containerd.start()


def stopped_plugin() -> int:
    """The plugin's process that its trace point has stopped; 0 if there is none."""
    for pid in (name for name in names("/proc") if name.isdigit()):
        try:
            command = Path("/proc", pid, "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state_of(int(pid)) == "T" and node.plugin_command()[-1].encode() in command:
            return int(pid)
    return 0


def test_a_pod_sandbox_lives_through_a_restart(rig: Rig, containerd: Containerd) -> None:
    """C11, C13: RunPodSandbox, containerd killed and started, Stop and Remove, each twice; the host as before."""
    hca = rig.hca
    use_network(containerd, hca, rdmaIsolation=rig.exclusive)
    config = pod_config("worker-0")
    try:
        pod = containerd.cri.run_pod(config)
    except CriError as fault:
        raise AssertionError(f"{fault}\n{tail()}") from None
    container = containerd.cri.start_container(pod, container_config("c", image.NAME, image.PAUSE), config)
    shown = containerd.cri.execute(container, ["ip", "-o", "addr", "show"])
    assert shown.status == 0, shown.stderr
    assert f" {containerd.cri.address(pod)}/24 " in shown.stdout
    assert "net1    inet 10.56.0.2/24" in shown.stdout
    assert hca.netdevs(0) == []
    assert (hca.rdma(0) is None) is rig.exclusive
    containerd.kill()
    containerd.start()
    assert containerd.cri.pods() == {pod: READY}
    assert list_pods(SOCKET) == {pod}  # the node agent's own way of asking
    assert containerd.cri.execute(container, ["ping", "-c", "1", multus.GATEWAY]).status == 0
    for _ in range(2):
        containerd.cri.stop_pod(pod)
    containerd.kill()
    containerd.start()
    for _ in range(2):
        containerd.cri.remove_pod(pod)
    assert containerd.cri.pods() == {}
    assert list_pods(SOCKET) == frozenset()
    multus.forget_bridge()
    rig.assert_as_before()


@SHARED
@pytest.mark.parametrize("point", ["claim", "move_netdev", "configure.done"])
def test_containerd_and_plugin_die_in_an_add(rig: Rig, containerd: Containerd, point: str) -> None:
    """C11, C13, N2: what a killed RunPodSandbox left does not keep the pod's next attempt from its VF.

    We are the pod's only network here: what other plugins leave behind is not looked at.
    """
    hca = rig.hca
    (CONF_DIR / CONF).unlink(missing_ok=True)
    node.write_conf(CONF_DIR, node.conflist("1.0.0", [node.plugin(hca.pci(0))]), ALONE)
    containerd.kill()
    containerd.start(**{TRACE: f"{point}=stop"})
    with ThreadPoolExecutor(1) as pool:
        doomed = pool.submit(containerd.cri.run_pod, pod_config("worker-0"))
        plugin = wait(stopped_plugin, 60)
        assert plugin, f"no plugin stopped at {point}: {tail()}"
        containerd.kill()
        os.kill(plugin, signal.SIGKILL)
        assert isinstance(doomed.exception(60), CriError)
    containerd.start()
    # as kubelet does: what the runtime still knows of is stopped and removed, then comes the next attempt
    containerd.remove_pods()
    pod = containerd.cri.run_pod(pod_config("worker-0", attempt=1))
    assert containerd.cri.address(pod).startswith("10.56.0.")
    assert hca.netdevs(0) == []
    containerd.remove_pods()
    rig.assert_as_before()
