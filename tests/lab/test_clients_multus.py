"""Multus, the real program: two pods with eth0 by bridge and host-local and net1 by us, both networks answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.lab.clients import multus, node
from tests.lab.cni import Cni, CniRun
from tests.lab.commands import received
from tests.lab.conftest import MakeHca, MakePod, TakeSnapshot
from tests.lab.pod import Pod

LOG = Path("/run/ib-sriov.log")


class Multus:
    """Calls Multus as a runtime does for a pod's eth0."""

    def __init__(self, folder: Path) -> None:
        self.cni = Cni()
        self.cni.command = [node.program("multus")]
        self.path = node.bin_folder(folder / "bin", ["bridge", "host-local", "static"])

    def __call__(self, command: str, pod: Pod, conf: dict[str, Any]) -> CniRun:
        words = {
            "IgnoreUnknown": "1",
            "K8S_POD_NAMESPACE": "train",
            "K8S_POD_NAME": f"worker-{pod.name}",
            "K8S_POD_INFRA_CONTAINER_ID": pod.container_id,
            "K8S_POD_UID": f"uid-{pod.name}",
        }
        args = ";".join(f"{key}={word}" for key, word in words.items())
        run = self.cni(command, pod, {**conf, "binDir": self.path}, "eth0", {"CNI_PATH": self.path, "CNI_ARGS": args})
        assert run.status == 0, run.stdout + run.stderr
        return run


def answers(pod: Pod, address: str) -> bool:
    return received(pod.run(["ping", "-c", "1", "-W", "15", address], check=False).stdout) == 1


@pytest.mark.parametrize(("version", "mode"), [("0.3.1", "shared"), ("1.0.0", "exclusive")])
def test_two_pods_by_multus(
    make_hca: MakeHca, pods: MakePod, host_snapshot: TakeSnapshot, tmp_path: Path, version: str, mode: str
) -> None:
    """N1, N2, N7, N8: both networks answer; our log names the pod; DEL twice; the host as before."""
    LOG.unlink(missing_ok=True)
    hca = make_hca(preset=True, mode=mode)
    before = host_snapshot(hca)
    call = Multus(tmp_path)
    made = [pods("a"), pods("b")]
    confs = []
    for vf in range(len(made)):
        own = node.plugin(hca.pci(vf), rdmaIsolation=mode == "exclusive", logFile=str(LOG))
        confs.append(multus.conf(version, {"cniVersion": version, "name": "ibnet", **own}))
    for pod, conf in zip(made, confs, strict=True):
        result = call("ADD", pod, conf).out
        # the first delegate's result is the one that Multus hands on
        assert result["cniVersion"] == version
        assert [each["address"] for each in result["ips"]] == pod.addresses("eth0")
        assert len(pod.addresses("net1")) == 1
    first, second = made
    for ifname in ("eth0", "net1"):
        assert answers(first, second.addresses(ifname)[0].partition("/")[0]), ifname
        assert answers(second, first.addresses(ifname)[0].partition("/")[0]), ifname
    assert all(f"pod=train/worker-{pod.name}" in LOG.read_text() for pod in made)
    for pod, conf in zip(made, confs, strict=True):
        assert call("DEL", pod, conf).stdout == ""
        assert {"eth0", "net1"}.isdisjoint(link["ifname"] for link in pod.links())
        assert call("DEL", pod, conf).stdout == ""
        pod.delete()
    multus.forget_bridge()
    before.assert_as_before()


def test_a_pod_whose_net1_fails_has_nothing_left(
    make_hca: MakeHca, pods: MakePod, host_snapshot: TakeSnapshot, tmp_path: Path
) -> None:
    """C11: Multus sends DEL to every delegate after a failed ADD, the failed one included; the retry works."""
    hca = make_hca(preset=True)
    before = host_snapshot(hca)
    call = Multus(tmp_path)
    pod = pods("a")
    delegate = {"cniVersion": "1.0.0", "name": "ibnet", **node.plugin(hca.pci(0))}
    hca.knob("fail_set_state", 1)
    refused = multus.conf("1.0.0", {**delegate, "link_state": "enable"})
    with pytest.raises(AssertionError, match="ibnet"):
        call("ADD", pod, refused)
    assert {"eth0", "net1"}.isdisjoint(link["ifname"] for link in pod.links())
    hca.restore_knobs()
    call("ADD", pod, refused)
    call("DEL", pod, refused)
    pod.delete()
    multus.forget_bridge()
    before.assert_as_before()
