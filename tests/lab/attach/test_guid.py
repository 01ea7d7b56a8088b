"""A GUID names one port: what another VF of the node has is refused, with its holder's name."""

from __future__ import annotations

from pathlib import Path

from tests.lab.attach.test_main import GUID, netconf
from tests.lab.cni import Cni
from tests.lab.conftest import MakeHca, MakePod, TakeSnapshot
from tests.lab.emulated_hca import with_colons


def test_a_guid_of_another_pod_is_refused_with_its_name(
    make_hca: MakeHca, pods: MakePod, cni: Cni, host_snapshot: TakeSnapshot
) -> None:
    hca = make_hca(mode="exclusive", preset=True)
    before = host_snapshot(hca)
    first, second = pods("a"), pods("b")
    conf = netconf(hca, 0, guid=GUID, rdmaIsolation=True)
    args = {"CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=train;K8S_POD_NAME=worker-0"}
    run = cni("ADD", first, conf, env=args)
    assert run.status == 0, run.stdout + run.stderr
    attached = host_snapshot(hca)
    refused = cni("ADD", second, netconf(hca, 1, guid=GUID, rdmaIsolation=True))
    assert refused.code == 101, refused.stdout + refused.stderr
    assert f"guid {GUID} is held by pod train/worker-0 (network ibnet, net1)" in refused.out["msg"]
    attached.assert_as_before()
    assert cni("DEL", first, conf).status == 0
    before.assert_as_before()


def test_a_guid_of_the_pf_and_of_a_sibling_are_refused(make_hca: MakeHca, pods: MakePod, cni: Cni) -> None:
    hca = make_hca(preset=True)
    pod = pods("a")
    pf_gid = Path(f"/sys/class/infiniband/{hca.pf_rdma}/ports/1/gids/0").read_text().strip()
    for guid, words in ((hca.port_guid(2), hca.rdma(2)), (with_colons(pf_gid[20:]), hca.pf_rdma)):
        refused = cni("ADD", pod, netconf(hca, 0, guid=guid))
        assert refused.code == 101, refused.stdout + refused.stderr
        assert f"is held by RDMA device {words}" in refused.out["msg"], refused.out
    assert pod.link() is None


def test_two_pods_at_once_never_get_one_guid(
    make_hca: MakeHca, pods: MakePod, cni: Cni, host_snapshot: TakeSnapshot
) -> None:
    hca = make_hca(preset=True)
    before = host_snapshot(hca)
    both = [(pods(name), netconf(hca, vf, guid=GUID)) for vf, name in enumerate("ab")]
    running = [cni.start("ADD", pod, conf) for pod, conf in both]
    statuses = []
    for process in running:
        stdout, stderr = process.communicate(timeout=120)
        statuses.append(process.returncode)
        assert process.returncode == 0 or '"code":101' in stdout, stdout + stderr
    assert statuses.count(0) <= 1
    for pod, conf in both:
        assert cni("DEL", pod, conf).status == 0
    before.assert_as_before()
