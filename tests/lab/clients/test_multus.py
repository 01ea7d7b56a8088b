"""Multus, the real program: two pods with eth0 by bridge and host-local and net1 by us, both networks answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.client_programs import multus, node, thick
from tests.lab.client_programs.kube import Kube
from tests.lab.cni import Cni, CniRun
from tests.lab.command_line import cli
from tests.lab.modes import EXCLUSIVE, SHARED
from tests.lab.pass_through import passed_through
from tests.lab.pod import Pod
from tests.lab.rig import IPV4, Rig, answers, guid_of

LOG = Path("/run/ib-sriov.log")
GUID = guid_of(1)
RESOURCE = "example.com/ib"
WORKER = "worker-a"


class Multus:
    """Calls Multus as a runtime does for a pod's eth0."""

    def __init__(self, folder: Path, program: str = "multus") -> None:
        self.cni = Cni()
        self.cni.command = [node.program(program)]
        self.path = node.bin_folder(folder / "bin", ["bridge", "host-local", "static"])

    def __call__(self, command: str, pod: Pod, conf: dict[str, Any], *, worker: str = "") -> CniRun:
        """Call it for a pod of that name in the cluster; it has to succeed."""
        worker = worker or f"worker-{pod.name}"
        words = {
            "IgnoreUnknown": "1",
            "K8S_POD_NAMESPACE": "train",
            "K8S_POD_NAME": worker,
            "K8S_POD_INFRA_CONTAINER_ID": pod.container_id,
            "K8S_POD_UID": f"uid-{worker}",
        }
        args = ";".join(f"{key}={word}" for key, word in words.items())
        run = self.cni(command, pod, {**conf, "binDir": self.path}, "eth0", {"CNI_PATH": self.path, "CNI_ARGS": args})
        assert run.status == 0, run.stdout + run.stderr
        return run


@pytest.fixture(autouse=True)
def bridge(rig: Rig) -> Iterator[None]:
    """The bridge plugin's bridge ends with the test."""
    yield
    multus.forget_bridge()


@pytest.fixture
def call(rig: Rig, tmp_path: Path) -> Multus:
    return Multus(tmp_path)


@pytest.fixture
def kube(tmp_path: Path) -> Iterator[Kube]:
    made = Kube(tmp_path)
    yield made
    made.close()


@pytest.fixture
def cluster_of_thick(tmp_path: Path) -> Iterator[Kube]:
    """As the daemon sees a cluster: over TLS, with a service account."""
    made = Kube(tmp_path, account=thick.ACCOUNT)
    yield made
    made.close()


def delegates(kube: Kube) -> dict[str, Any]:
    """Multus for eth0, and for what the pod's annotation selects."""
    conf = multus.conf("1.0.0", {}, kubeconfig=str(kube.kubeconfig))
    conf["delegates"] = conf["delegates"][:1]
    return conf


@pytest.mark.parametrize(("version", "loaded"), [("0.3.1", "shared"), ("1.0.0", "exclusive")], indirect=["loaded"])
def test_two_pods_by_multus(rig: Rig, call: Multus, version: str) -> None:
    """N1, N2, N7, N8: both networks answer; our log names the pod; DEL twice; the host as before."""
    LOG.unlink(missing_ok=True)
    made = [rig.pod("a"), rig.pod("b")]
    confs = []
    for vf in range(len(made)):
        own = node.plugin(rig.hca.pci(vf), rdmaIsolation=rig.exclusive, logFile=str(LOG))
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
    rig.assert_as_before()


@SHARED
def test_a_pod_whose_net1_fails_has_nothing_left(rig: Rig, call: Multus) -> None:
    """C11: Multus sends DEL to every delegate after a failed ADD, the failed one included; the retry works."""
    hca, pod = rig.hca, rig.pod("a")
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
    rig.assert_as_before()


@EXCLUSIVE
@pytest.mark.parametrize("form", ["plugin", "list"])
def test_what_multus_injects_reaches_us(rig: Rig, call: Multus, kube: Kube, form: str) -> None:
    """N1, N4, N5: device, cni-args and capabilities come from pod and definition; device-info is read again."""
    hca, pod = rig.hca, rig.pod("a")
    hca.knob("renumber", 1)
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
    kube.add_pod(WORKER, f"uid-{WORKER}", [selection])
    had, stale = hca.rdma(0), "mlx5_77"
    info = {"type": "pci", "version": "1.1.0", "pci": {"pci-address": hca.pci(0), "rdma-device": stale}}
    kube.allocate(f"uid-{WORKER}", RESOURCE, hca.pci(0), info)
    conf = delegates(kube)
    call("ADD", pod, conf, worker=WORKER)
    assert pod.addresses("net1") == ["10.56.0.77/24"]
    (interface,) = [link for link in pod.links() if link["ifname"] == "net1"]
    assert interface["address"].endswith(GUID)
    status = kube.statuses[WORKER]
    assert [each["interface"] for each in status] == ["eth0", "net1"]
    assert (status[1]["name"], status[1]["ips"]) == ("train/ibnet", ["10.56.0.77"])
    # another name than the device plugin saw; the rebind's own renaming was taken back
    shown = status[1]["device-info"]["pci"]
    assert shown["pci-address"] == hca.pci(0)
    assert shown["rdma-device"] == hca.rdma_anywhere(0) == had
    call("DEL", pod, conf, worker=WORKER)
    call("DEL", pod, conf, worker=WORKER)
    pod.delete()
    multus.forget_bridge()
    rig.assert_as_before()


@SHARED
def test_kubevirt_finds_the_pci_address_of_a_vf_that_is_passed_through(rig: Rig, call: Multus, kube: Kube) -> None:
    """N4: the network status has net1 with its address and the device information, which virt-launcher reads."""
    hca, pod = rig.hca, rig.pod("a")
    hca.sets_guid(0, hca.port_guid(0))  # the PF is asked for it while the VF has no RDMA device
    own = {**node.plugin(""), "capabilities": {"CNIDeviceInfoFile": True}}
    del own["deviceID"]
    kube.add_network("ibnet", {"cniVersion": "1.0.0", "name": "ibnet", **own}, RESOURCE)
    kube.add_pod(WORKER, f"uid-{WORKER}", [{"name": "ibnet"}])
    kube.allocate(f"uid-{WORKER}", RESOURCE, hca.pci(0), {"type": "pci", "version": "1.1.0", "pci": {}})
    conf = delegates(kube)
    with passed_through(hca.pci(0)):
        call("ADD", pod, conf, worker=WORKER)
        status = kube.statuses[WORKER]
        assert [each["interface"] for each in status] == ["eth0", "net1"]
        assert (status[1]["name"], status[1]["ips"]) == ("train/ibnet", ["10.56.0.2"])
        assert status[1]["device-info"]["pci"] == {"pci-address": hca.pci(0), "pf-pci-address": hca.pf}
        call("DEL", pod, conf, worker=WORKER)
    pod.delete()
    multus.forget_bridge()
    rig.assert_as_before()


@SHARED
def test_a_pod_waits_for_ib_kubernetes(rig: Rig, call: Multus, kube: Kube) -> None:
    """N5: without what ib-kubernetes writes, ADD fails, and says for whom it waits."""
    pod = rig.pod("a")
    own = {**node.plugin("", ibKubernetesEnabled=True), "capabilities": {"infinibandGUID": True}}
    del own["deviceID"]
    kube.add_network("ibnet", {"cniVersion": "1.0.0", "name": "ibnet", **own}, RESOURCE)
    kube.add_pod(WORKER, f"uid-{WORKER}", [{"name": "ibnet"}])
    kube.allocate(f"uid-{WORKER}", RESOURCE, rig.hca.pci(0), {"type": "pci", "version": "1.1.0", "pci": {}})
    with pytest.raises(AssertionError, match="ib-kubernetes"):
        call("ADD", pod, delegates(kube), worker=WORKER)
    assert pod.link("net1") is None


@SHARED
@pytest.mark.parametrize("asked", [False, True], ids=["routes-of-the-network", "default-route"])
def test_who_has_the_default_route(rig: Rig, call: Multus, kube: Kube, asked: bool) -> None:
    """N1: a default route of the network, as in the usual samples, does not take the pod's traffic away from eth0.

    With `default-route` it is Multus that decides. Multus 4.3.0 removes no default route of any interface.
    """
    pod = rig.pod("a")
    own = node.plugin("", ipam={**IPV4, "routes": [{"dst": "0.0.0.0/0"}]})
    del own["deviceID"]
    kube.add_network("ibnet", {"cniVersion": "1.0.0", "name": "ibnet", **own}, RESOURCE)
    selection = {"name": "ibnet", "interface": "net1", **({"default-route": ["10.56.0.9"]} if asked else {})}
    kube.add_pod(WORKER, f"uid-{WORKER}", [selection])
    kube.allocate(f"uid-{WORKER}", RESOURCE, rig.hca.pci(0), {"type": "pci", "version": "1.1.0", "pci": {}})
    conf = delegates(kube)
    call("ADD", pod, conf, worker=WORKER)
    defaults = [(route["dev"], route["gateway"]) for route in pod.routes() if route["dst"] == "default"]
    if asked:
        assert "net1" in [dev for dev, _ in defaults], defaults
    else:
        assert defaults == [("eth0", multus.GATEWAY), ("net1", "10.56.0.1")]
        assert " dev eth0 " in pod.run(["ip", "route", "get", "192.0.2.1"]).stdout
    checked = cli("check")
    assert checked.status == 0, checked
    call("DEL", pod, conf, worker=WORKER)
    pod.delete()
    multus.forget_bridge()
    rig.assert_as_before()


@EXCLUSIVE
def test_thick_multus_runs_us_under_a_chroot(rig: Rig, cluster_of_thick: Kube, tmp_path: Path) -> None:
    """N3: the daemon sees another root file system than the plugin it runs; ADD, DEL twice, the host as before."""
    hca, kube = rig.hca, cluster_of_thick
    call = Multus(tmp_path, "multus-shim")
    own = {**node.plugin("", rdmaIsolation=True), "capabilities": {"CNIDeviceInfoFile": True}}
    del own["deviceID"]
    kube.add_network("ibnet", {"cniVersion": "1.0.0", "name": "ibnet", **own}, RESOURCE)
    kube.add_pod(WORKER, f"uid-{WORKER}", [{"name": "ibnet"}])
    info = {"type": "pci", "version": "1.1.0", "pci": {"pci-address": hca.pci(0)}}
    kube.allocate(f"uid-{WORKER}", RESOURCE, hca.pci(0), info)
    daemon = thick.Thick(kube)
    try:
        pod = rig.pod("a")
        conf = thick.conf("1.0.0", multus.cluster_network("1.0.0"))
        try:
            call("ADD", pod, conf, worker=WORKER)
        except AssertionError as fault:
            raise AssertionError(f"{fault}\n{thick.tail()}") from None
        assert pod.addresses("net1") == ["10.56.0.2/24"]
        assert hca.rdma(0, pod.name) is not None
        assert kube.statuses[WORKER][1]["device-info"]["pci"]["rdma-device"] == hca.rdma_anywhere(0)
        call("DEL", pod, conf, worker=WORKER)
        assert {"eth0", "net1"}.isdisjoint(link["ifname"] for link in pod.links()), thick.tail()
        call("DEL", pod, conf, worker=WORKER)
        pod.delete()
    finally:
        daemon.close()
    multus.forget_bridge()
    rig.assert_as_before()
