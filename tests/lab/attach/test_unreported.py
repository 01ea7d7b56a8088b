"""A PF that does not report its VFs' GUIDs (Linux before 5.6), or leaves VFs out of its list (DPU hosts, mlx4)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.emulated_hca import NO_GUID
from tests.lab.modes import SHARED
from tests.lab.rig import Rig, guid_of

IDENTITY: dict[str, Any] = {"guid": guid_of(1)}


@SHARED
@pytest.mark.parametrize("knob", ["no_guid_readback", "unlisted_vfs"])
def test_what_is_not_reported_is_neither_compared_nor_taken_for_zero(rig: Rig, knob: str) -> None:
    """The VF has no GUID before the ADD. CHECK finds no difference, and DEL gives it none again."""
    own = rig.hca.port_guid(0)
    rig.hca.sets_guid(0, NO_GUID)
    rig.hca.rebind(0)
    assert rig.hca.settled()
    assert rig.hca.port_guid(0) == NO_GUID
    rig.hca.knob(knob, 1)
    pod = rig.pod()
    result = rig.add(pod, **IDENTITY)
    checked = rig.check(pod, result, **IDENTITY)
    assert checked.status == 0, checked
    rig.delete(pod, **IDENTITY)
    assert (rig.hca.node_guid(0), rig.hca.port_guid(0)) == (NO_GUID, NO_GUID)
    rig.hca.restore_knobs()
    rig.hca.sets_guid(0, own)
    rig.hca.rebind(0)
    assert rig.hca.settled()
