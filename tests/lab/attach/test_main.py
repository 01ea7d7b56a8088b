"""ADD and DEL on the emulated HCA: what the pod gets, and the host as before."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.cni import Cni
from tests.lab.conftest import MakeHca, MakePod, TakeSnapshot
from tests.lab.emulated_hca import Hca

GUID = "02:11:22:33:44:55:66:77"


def netconf(hca: Hca, vf: int = 0, **more: Any) -> dict[str, Any]:
    """A network configuration for one VF, with addresses of the bundled IPAM."""
    conf = {
        "cniVersion": "1.1.0",
        "name": "ibnet",
        "type": "ib-sriov",
        "deviceID": hca.pci(vf),
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.56.0.0/24"}]], "routes": [{"dst": "10.99.0.0/16"}]},
    }
    return {**conf, **more}


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
@pytest.mark.parametrize("origin", ["kept", "requested", "derived"])
def test_add_then_del_leaves_the_host_as_before(
    make_hca: MakeHca, pods: MakePod, cni: Cni, host_snapshot: TakeSnapshot, mode: str, origin: str
) -> None:
    hca = make_hca(mode=mode, preset=origin != "derived")
    before = host_snapshot(hca)
    conf = netconf(hca, rdmaIsolation=mode == "exclusive", guid=GUID if origin == "requested" else None)
    pod = pods("a")
    run = cni("ADD", pod, conf)
    assert run.status == 0, run.stdout + run.stderr
    guid = {"kept": hca_guid(before, hca), "requested": GUID}.get(origin) or run.out["interfaces"][0]["mac"][-23:]
    (interface,) = run.out["interfaces"]
    assert interface["name"] == "net1"
    assert interface["mac"].endswith(guid)
    assert interface["pciID"] == hca.pci(0)
    assert interface["sandbox"] == pod.netns
    assert pod.addresses() == ["10.56.0.2/24"]
    link = pod.link()
    assert link is not None
    assert "UP" in link["flags"]
    assert hca.netdevs(0) == []
    assert (hca.rdma(0) is None) is (mode == "exclusive")
    check = cni("CHECK", pod, {**conf, "prevResult": run.out})
    assert (check.status, check.stdout) == (0, ""), check.stdout
    gone = cni("DEL", pod, conf)
    assert (gone.status, gone.stdout) == (0, ""), gone.stdout + gone.stderr
    pod.delete()
    before.assert_as_before()


def hca_guid(before: Any, hca: Hca) -> str:
    return str(before.facts[f"VF 0 ({hca.pci(0)}) port GUID"])


def test_without_isolation_in_exclusive_mode(
    make_hca: MakeHca, pods: MakePod, cni: Cni, host_snapshot: TakeSnapshot
) -> None:
    """The pod gets its interface; the RDMA device stays with the host, which alone sees it."""
    hca = make_hca(mode="exclusive", preset=True)
    before = host_snapshot(hca)
    pod, conf = pods("a"), netconf(hca, guid=GUID)
    run = cni("ADD", pod, conf)
    assert run.status == 0, run.stdout + run.stderr
    link = pod.link()
    assert link is not None
    assert link["address"].endswith(GUID)
    assert pod.rdma() == []
    assert hca.port_guid(0) == GUID
    check = cni("CHECK", pod, {**conf, "prevResult": run.out})
    assert (check.status, check.stdout) == (0, "")
    assert cni("DEL", pod, conf).status == 0
    before.assert_as_before()
