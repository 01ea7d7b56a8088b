"""VFs and PFs that are passed through to a virtual machine: what ADD answers; CHECK, DEL and the next ADD after it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.emulated_hca import NO_GUID
from tests.lab.modes import SHARED
from tests.lab.pass_through import passed_through
from tests.lab.rig import Rig, guid_of, leases, rigs

pytestmark = SHARED
EARLIER = {
    "cniVersion": "1.1.0",
    "interfaces": [{"name": "veth0"}, {"name": "eth0", "sandbox": "/run/netns/x"}],
    "ips": [{"address": "10.244.1.7/24", "interface": 1}],
}


@pytest.fixture(scope="module")
def loaded(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """Two PFs, one of which can be passed through without taking the VFs of a test along."""
    yield from rigs(request.param, vfs=2, pfs=2)


@pytest.fixture
def vf(rig: Rig) -> Iterator[int]:
    """A VF that a virtual machine is to get."""
    with passed_through(rig.hca.pci(0)):
        yield 0


def test_the_result_names_interface_namespace_and_pci_address(rig: Rig, vf: int) -> None:
    """Multus and KubeVirt find the VF by it; what a chain's earlier plugins made stays before it."""
    pod = rig.pod()
    result = rig.add(pod, vf, guid=guid_of(1), prevResult=EARLIER)
    ours = {"name": "net1", "sandbox": pod.netns, "pciID": rig.hca.pci(vf)}
    assert result["interfaces"] == [*EARLIER["interfaces"], ours]
    assert [(ip["address"], ip["interface"]) for ip in result["ips"]] == [("10.244.1.7/24", 1), ("10.56.0.2/24", 2)]
    assert [link["ifname"] for link in pod.links()] == ["lo"]
    assert rig.hca.guids_at_pf(vf) == (guid_of(1), guid_of(1))
    checked = rig.check(pod, result, vf, guid=guid_of(1))
    assert checked.status == 0, checked.stdout
    rig.delete(pod, vf)
    rig.delete(pod, vf)
    assert (rig.hca.driver(vf), leases()) == ("pci-stub", [])


def test_del_leaves_a_guid_which_is_not_the_pods(rig: Rig) -> None:
    """The firmware's, which the PF does not know, was written over; with zero it would have none when it is bound."""
    assert NO_GUID not in {rig.hca.node_guid(0), rig.hca.port_guid(0)}
    pod = rig.pod()
    with passed_through(rig.hca.pci(0)):
        assert rig.hca.guids_at_pf(0) == (NO_GUID, NO_GUID)
        rig.add(pod, guid=guid_of(1))
        rig.delete(pod)
        derived = rig.hca.guids_at_pf(0)
    assert (rig.hca.node_guid(0), rig.hca.port_guid(0)) == derived
    assert not {NO_GUID, guid_of(1)} & {*derived}
    # That is what an ADD would have given it, so the next one keeps it; and another VF may get what this one had.
    assert rig.add(pod)["interfaces"][0]["mac"].endswith(derived[1])
    rig.add(rig.pod(), 1, guid=guid_of(1))


def test_a_pod_that_never_got_its_del_is_healed(rig: Rig, vf: int) -> None:
    """Its record says that nothing of the device is to be moved or rebound."""
    dead, living = rig.pod("dead"), rig.pod("living")
    killed = rig.call("ADD", dead, vf, guid=guid_of(1), trace="set_port_guid.done=kill")
    assert killed.status != 0
    rig.add(living, vf, guid=guid_of(2), vfioPciMode=True)
    assert rig.hca.guids_at_pf(vf) == (guid_of(2), guid_of(2))
    rig.delete(living, vf)
    assert not {NO_GUID, guid_of(1), guid_of(2)} & {*rig.hca.guids_at_pf(vf)}
    assert rig.hca.driver(vf) == "pci-stub"


def test_vfio_pci_mode_refuses_what_no_virtual_machine_could_use(rig: Rig) -> None:
    pod = rig.pod()
    refused = rig.call("ADD", pod, guid=guid_of(1), link_state="enable", vfioPciMode=True)
    assert refused.code == 2
    assert "vfioPciMode needs a driver that passes" in refused.out["msg"]
    rig.assert_as_before()


def test_a_whole_pf(rig: Rig) -> None:
    """Only with vfioPciMode, and without what would have to be set on a PF."""
    pf, pod = rig.hca.pfs[1].pf, rig.pod()
    conf = rig.conf(None, deviceID=pf)
    vfs = rig.hca.pfs[1].numvfs
    assert rig.hca.pfs[1].set_numvfs(0) == "OK"
    with passed_through(pf):
        refused = rig.cni("ADD", pod, conf)
        assert (refused.code, "is a physical function, not a VF" in refused.out["msg"]) == (101, True), refused
        conf["vfioPciMode"] = True
        refused = rig.cni("ADD", pod, {**conf, "link_state": "auto"})
        assert (refused.code, f"link_state: PF {pf} has no PF" in refused.out["msg"]) == (2, True), refused
        added = rig.cni("ADD", pod, conf)
        assert added.status == 0, added.stdout
        assert added.out["interfaces"] == [{"name": "net1", "sandbox": pod.netns, "pciID": pf}]
        second = rig.cni("ADD", rig.pod(), conf)
        assert (second.code, "is in use by" in second.out["msg"]) == (101, True), second
        checked = rig.cni("CHECK", pod, {**conf, "prevResult": added.out})
        assert checked.status == 0, checked.stdout
        assert rig.cni("DEL", pod, conf).status == 0
    assert rig.hca.pfs[1].set_numvfs(vfs) == "OK"
