"""Multus, the real program: two pods with eth0 by bridge and host-local and net1 by us, both networks answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.client_programs import multus, node, thick
from tests.lab.client_programs.kube import Kube
from tests.lab.cni import Cni, CniRun
from tests.lab.commands import received
from tests.lab.conftest import MakeHca, MakePod, TakeSnapshot
from tests.lab.pod import Pod

LOG = Path("/run/ib-sriov.log")
GUID = "02:11:22:33:44:55:66:77"
RESOURCE = "example.com/ib"


class Multus:
    """Calls Multus as a runtime does for a pod's eth0."""

    def __init__(self, folder: Path, program: str = "multus") -> None:
        self.cni = Cni()
        self.cni.command = [node.program(program)]
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


@pytest.fixture
def kube(tmp_path: Path) -> Iterator[Kube]:
    made = Kube(tmp_path)
    yield made
    made.close()


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


@pytest.mark.parametrize("form", ["plugin", "list"])
def test_what_multus_injects_reaches_us(
    make_hca: MakeHca, pods: MakePod, host_snapshot: TakeSnapshot, kube: Kube, tmp_path: Path, form: str
) -> None:
    """N1, N4, N5: device, cni-args and capabilities come from pod and definition; device-info is read again."""
    hca = make_hca(preset=True, mode="exclusive", renumber=1)
    before = host_snapshot(hca)
    call = Multus(tmp_path)
    pod = pods("a")
    wanted = ("ips", "infinibandGUID", "deviceID", "CNIDeviceInfoFile")
    own = {**node.plugin("", rdmaIsolation=True, ibKubernetesEnabled=True), "capabilities": dict.fromkeys(wanted, True)}
    del own["deviceID"]
    if form == "plugin":
        kube.add_network("ibnet", {"cniVersion": "1.0.0", "name": "ibnet", **own}, RESOURCE)
    else:
        kube.add_network("ibnet", node.conflist("1.0.0", [own]), RESOURCE)
    selection = {
        "name": "ibnet",
        "interface": "net1",
        "ips": ["10.56.0.77/24"],
        "infiniband-guid": GUID,
        # other tools' arguments, of any JSON type
        "cni-args": {"mellanox.infiniband.app": "configured", "pkey": "0x7fff", "priority": 3, "tags": ["a"]},
    }
    kube.add_pod("worker-a", "uid-a", [selection])
    had, stale = hca.rdma(0), "mlx5_77"
    info = {"type": "pci", "version": "1.1.0", "pci": {"pci-address": hca.pci(0), "rdma-device": stale}}
    kube.allocate("uid-a", RESOURCE, hca.pci(0), info)
    conf = multus.conf("1.0.0", {}, kubeconfig=str(kube.kubeconfig))
    conf["delegates"] = conf["delegates"][:1]
    call("ADD", pod, conf)
    assert pod.addresses("net1") == ["10.56.0.77/24"]
    (interface,) = [link for link in pod.links() if link["ifname"] == "net1"]
    assert interface["address"].endswith(GUID)
    status = kube.statuses["worker-a"]
    assert [each["interface"] for each in status] == ["eth0", "net1"]
    assert (status[1]["name"], status[1]["ips"]) == ("train/ibnet", ["10.56.0.77"])
    # another name than the device plugin saw; the rebind's own renaming was taken back
    told = status[1]["device-info"]["pci"]
    assert told["pci-address"] == hca.pci(0)
    assert told["rdma-device"] == hca.rdma_anywhere(0) == had
    call("DEL", pod, conf)
    call("DEL", pod, conf)
    pod.delete()
    multus.forget_bridge()
    before.assert_as_before()


def test_a_pod_waits_for_ib_kubernetes(make_hca: MakeHca, pods: MakePod, kube: Kube, tmp_path: Path) -> None:
    """N5: without what ib-kubernetes writes, ADD fails, and says for whom it waits."""
    hca = make_hca(preset=True)
    call = Multus(tmp_path)
    pod = pods("a")
    own = {**node.plugin("", ibKubernetesEnabled=True), "capabilities": {"infinibandGUID": True}}
    del own["deviceID"]
    kube.add_network("ibnet", {"cniVersion": "1.0.0", "name": "ibnet", **own}, RESOURCE)
    kube.add_pod("worker-a", "uid-a", [{"name": "ibnet"}])
    kube.allocate("uid-a", RESOURCE, hca.pci(0), {"type": "pci", "version": "1.1.0", "pci": {}})
    conf = multus.conf("1.0.0", {}, kubeconfig=str(kube.kubeconfig))
    conf["delegates"] = conf["delegates"][:1]
    with pytest.raises(AssertionError, match="ib-kubernetes"):
        call("ADD", pod, conf)
    assert pod.link("net1") is None
    multus.forget_bridge()


def test_thick_multus_runs_us_under_a_chroot(
    make_hca: MakeHca, pods: MakePod, host_snapshot: TakeSnapshot, tmp_path: Path
) -> None:
    """N3: the daemon sees another root file system than the plugin it runs; ADD, DEL twice, the host as before."""
    hca = make_hca(preset=True, mode="exclusive")
    before = host_snapshot(hca)
    call = Multus(tmp_path, "multus-shim")
    kube = Kube(tmp_path, account=thick.ACCOUNT)
    own = {**node.plugin("", rdmaIsolation=True), "capabilities": {"CNIDeviceInfoFile": True}}
    del own["deviceID"]
    kube.add_network("ibnet", {"cniVersion": "1.0.0", "name": "ibnet", **own}, RESOURCE)
    kube.add_pod("worker-a", "uid-a", [{"name": "ibnet"}])
    info = {"type": "pci", "version": "1.1.0", "pci": {"pci-address": hca.pci(0)}}
    kube.allocate("uid-a", RESOURCE, hca.pci(0), info)
    daemon = thick.Thick(kube)
    try:
        pod = pods("a")
        conf = thick.conf("1.0.0", multus.cluster_network("1.0.0"))
        try:
            call("ADD", pod, conf)
        except AssertionError as fault:
            raise AssertionError(f"{fault}\n{thick.tail()}") from None
        assert pod.addresses("net1") == ["10.56.0.2/24"]
        assert hca.rdma(0, pod.name) is not None
        assert kube.statuses["worker-a"][1]["device-info"]["pci"]["rdma-device"] == hca.rdma_anywhere(0)
        call("DEL", pod, conf)
        assert {"eth0", "net1"}.isdisjoint(link["ifname"] for link in pod.links()), thick.tail()
        call("DEL", pod, conf)
        pod.delete()
    finally:
        daemon.close()
        kube.close()
    multus.forget_bridge()
    before.assert_as_before()
