"""containerd's CRI with Multus as its network: pod sandboxes with an InfiniBand VF, containerd killed in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.clients import image, multus, node
from tests.lab.clients.containerd import Containerd, tail
from tests.lab.clients.cri import READY, CriError, container_config, pod_config
from tests.lab.commands import names
from tests.lab.conftest import MakeHca, TakeSnapshot
from tests.lab.hca import Hca

CONF_DIR = Path("/etc/cni/net.d")
BIN_DIR = Path("/opt/cni/bin")
CONF = "00-multus.conf"


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


@pytest.fixture
def containerd(make_hca: MakeHca, running: Containerd) -> Iterator[Containerd]:
    """The containerd of this file; no pod of a failed test stays in the way of the next."""
    yield running
    running.remove_pods()


def use_network(containerd: Containerd, hca: Hca, **more: Any) -> None:
    """Have the next pods get VF 0; containerd watches the folder, a restart is surer."""
    delegate = {"cniVersion": "1.0.0", "name": "ibnet", **node.plugin(hca.pci(0), **more)}
    node.write_conf(CONF_DIR, multus.conf("1.0.0", delegate), CONF)
    containerd.kill()
    containerd.start()


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_a_pod_sandbox_lives_through_a_restart(
    make_hca: MakeHca, containerd: Containerd, host_snapshot: TakeSnapshot, mode: str
) -> None:
    """C11, C13: RunPodSandbox, containerd killed and started, Stop and Remove, each twice; the host as before."""
    hca = make_hca(preset=True, mode=mode)
    before = host_snapshot(hca)
    use_network(containerd, hca, rdmaIsolation=mode == "exclusive")
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
    assert (hca.rdma(0) is None) is (mode == "exclusive")
    containerd.kill()
    containerd.start()
    assert containerd.cri.pods() == {pod: READY}
    assert containerd.cri.execute(container, ["ping", "-c", "1", multus.GATEWAY]).status == 0
    for _ in range(2):
        containerd.cri.stop_pod(pod)
    containerd.kill()
    containerd.start()
    for _ in range(2):
        containerd.cri.remove_pod(pod)
    assert containerd.cri.pods() == {}
    multus.forget_bridge()
    before.assert_as_before()
