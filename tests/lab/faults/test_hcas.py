"""Several HCAs: VFs of two PFs in one pod, and nothing assumed of names, domains or order."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.lab.commands import wait
from tests.lab.emulated_hca import NO_GUID
from tests.lab.rig import IPV4, Rig, at_once, guid_of, leases
from tests.lab.snapshot import host_snapshot


class Mixed(Rig):
    """Three PFs in domains of five digits, each netdev called as another PF's might be; VFs without GUIDs."""

    def load(self) -> None:
        super().load()
        for hca, name in zip(self.hca.pfs, ("ib99", "mlx5_0", "net1"), strict=True):
            hca.rename_pf(name)
        self.before = host_snapshot(self.hca)


@pytest.fixture(scope="module", params=["shared", "exclusive"])
def loaded(request: pytest.FixtureRequest) -> Iterator[Mixed]:
    made = Mixed(request.param, vfs=3, total_vfs=4, pfs=3, preset=False, pf_name=None, prefix="eth", domain=0x10000)
    yield made
    made.close()


def conf_of(rig: Rig, pf: int, vf: int, **more: Any) -> dict[str, Any]:
    return rig.conf(None, deviceID=rig.hca.pfs[pf].pci(vf), **more)


def test_two_vfs_of_two_pfs_in_one_pod(rig: Rig) -> None:
    """Attached one after the other, checked, and detached in the same order; each has its PF's derived GUID."""
    pod = rig.pod()
    ipam = {key: item for key, item in IPV4.items() if key != "routes"}  # the same one twice is refused
    confs = [conf_of(rig, 2, 1, link_state="enable", ipam=ipam), conf_of(rig, 0, 1, ipam=ipam)]
    assert confs[0]["deviceID"].startswith("10002:")
    results = []
    for number, conf in enumerate(confs, 1):
        done = rig.cni("ADD", pod, conf, f"net{number}")
        assert done.status == 0, done
        results.append(done.out)
    macs = [result["interfaces"][0]["mac"][-23:] for result in results]
    assert len({*macs, NO_GUID}) == 3
    assert [result["interfaces"][0]["pciID"] for result in results] == [conf["deviceID"] for conf in confs]
    assert len(leases()) == 2
    for number, (conf, result) in enumerate(zip(confs, results, strict=True), 1):
        check = rig.cni("CHECK", pod, {**conf, "prevResult": result}, f"net{number}")
        assert check.status == 0, check.stdout
        link = pod.link(f"net{number}")
        assert link is not None
        assert link["address"].endswith(macs[number - 1])
        assert pod.addresses(f"net{number}") == [result["ips"][0]["address"]]
    assert rig.hca.pfs[2].link_state(1) == "enable"
    assert rig.hca.pfs[0].link_state(1) == "auto"
    for number, conf in enumerate(confs, 1):
        assert rig.cni("DEL", pod, conf, f"net{number}").status == 0
        assert [link["ifname"] for link in pod.links()] == ["lo", *(["net2"] if number == 1 else [])]
    rig.assert_as_before()


def test_the_same_vf_number_of_each_pf_at_once(rig: Rig) -> None:
    """In pods that end without a word: DEL gives each VF its GUID of zeros back (it had none)."""
    pods = [rig.pod() for _ in rig.hca.pfs]
    confs = [conf_of(rig, pf, 2, guid=guid_of(pf), link_state="enable") for pf in range(3)]
    runs = at_once(partial(rig.cni, "ADD", pod, conf) for pod, conf in zip(pods, confs, strict=True))
    assert [done.status for done in runs] == [0] * 3, runs
    assert [hca.guids_at_pf(2)[1] for hca in rig.hca.pfs] == [guid_of(pf) for pf in range(3)]
    assert [hca.guids_at_pf(1)[1] for hca in rig.hca.pfs] == [
        rig.before.facts[f"VF 1 ({hca.pci(1)}) port GUID"] for hca in rig.hca.pfs
    ]
    for pod in pods:
        pod.delete()
    assert wait(lambda: all(hca.netdevs(2) for hca in rig.hca.pfs))
    gone = at_once(partial(rig.cni, "DEL", pod, conf) for pod, conf in zip(pods, confs, strict=True))
    assert [done.status for done in gone] == [0] * 3, gone
    assert [hca.port_guid(2) for hca in rig.hca.pfs] == [NO_GUID] * 3
    rig.assert_as_before()


def test_pfs_that_change_names_with_each_other_under_a_live_pod(rig: Rig) -> None:
    """DEL finds the PF by the VF, not by a name it wrote down."""
    pod, hcas = rig.pod(), rig.hca.pfs
    conf = conf_of(rig, 0, 0, guid=guid_of(1), link_state="enable")
    assert rig.cni("ADD", pod, conf).status == 0
    names = [hca.pf_netdev for hca in hcas]
    hcas[0].rename_pf("aside0")
    hcas[1].rename_pf(names[0])
    hcas[0].rename_pf(names[1])
    assert rig.cni("DEL", pod, conf).status == 0
    hcas[0].rename_pf("aside0")
    hcas[1].rename_pf(names[1])
    hcas[0].rename_pf(names[0])
    rig.assert_as_before()


def test_status_counts_the_vfs_of_all_pfs(rig: Rig) -> None:
    """All VFs of two PFs are without driver; the third one still has some to give."""
    pod = rig.pod()
    for hca in rig.hca.pfs[:2]:
        for vf in range(3):
            assert hca.unbind(vf) == "OK"
    assert rig.cni("STATUS", pod, rig.conf(None)).status == 0
    for vf in range(3):
        assert rig.hca.pfs[2].unbind(vf) == "OK"
    busy = rig.cni("STATUS", pod, rig.conf(None))
    assert busy.code == 50
    assert all(hca.pf in busy.out["msg"] for hca in rig.hca.pfs)
