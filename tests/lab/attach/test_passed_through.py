"""VFs that are passed through to a virtual machine: what ADD answers, and that CHECK, DEL and GC live with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.modes import SHARED
from tests.lab.pass_through import passed_through
from tests.lab.rig import Rig, guid_of, leases

pytestmark = SHARED
EARLIER = {
    "cniVersion": "1.1.0",
    "interfaces": [{"name": "veth0"}, {"name": "eth0", "sandbox": "/run/netns/x"}],
    "ips": [{"address": "10.244.1.7/24", "interface": 1}],
}


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
