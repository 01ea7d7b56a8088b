"""The pod's port: it is up when ADD succeeds, or ADD says why not."""

from __future__ import annotations

from tests.lab.commands import run
from tests.lab.modes import SHARED
from tests.lab.rig import Rig, guid_of


@SHARED
def test_a_disabled_vf_is_enabled_for_the_attachment(rig: Rig) -> None:
    """Some HCAs start with all VFs disabled on the PF. Without link_state such a VF gets auto, and DEL restores it."""
    run(f"ip link set {rig.hca.pf_netdev} vf 0 state disable")
    pod = rig.pod()
    result = rig.add(pod, guid=guid_of(1))
    assert rig.hca.link_state(0) == "auto"
    assert rig.hca.port_state(0) == "ACTIVE"
    assert rig.check(pod, result, guid=guid_of(1)).status == 0
    rig.delete(pod)
    assert rig.hca.link_state(0) == "disable"
    run(f"ip link set {rig.hca.pf_netdev} vf 0 state auto")
    rig.assert_as_before()
