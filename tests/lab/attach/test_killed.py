"""ADD killed at moments of the clock: inside of steps, not only between them as in tests/lab/matrix."""

from __future__ import annotations

import os
import random
import time
from functools import partial
from typing import Any

from tests.lab.rig import Rig, at_once, guid_of


def new_guid(vf: int) -> dict[str, Any]:
    """Settings that make an ADD rebind the VF and write a device information file."""
    info = {"CNIDeviceInfoFile": f"/var/run/k8s.cni.cncf.io/devinfo/cni/killed-{vf}.json"}
    return {"guid": guid_of(vf), "link_state": "enable", "mtu": 2000, "runtimeConfig": info}


def test_add_killed_at_moments_of_the_clock(rig: Rig) -> None:
    """Each VF's ADD at another moment; the seed repeats them."""
    seed = int(os.environ.get("LAB_SEED", random.randrange(10**6)))
    print(f"seed {seed} (LAB_SEED)")
    dice = random.Random(seed)

    def act(vf: int, moment: float) -> None:
        pod = rig.pod()
        process = rig.start("ADD", pod, vf, **new_guid(vf))
        time.sleep(moment)  # the moment is the case, not a condition that could be awaited
        process.kill()
        process.communicate()
        rig.delete(pod, vf, **new_guid(vf))

    at_once(partial(act, vf, dice.uniform(0.2, 6)) for vf in range(rig.vfs))
    rig.assert_as_before()
