"""500 ADDs and DELs in random order on 32 VFs of four HCAs, eight at a time, each ADD with a GUID of its own.

Every ADD rebinds its VF, and so does its DEL. After each call the VF it was for is compared with what it must have: its
device numbers and GUIDs, the names of its devices, the pod's address and its lease; not only at the end.

The seed is printed; LAB_SEED repeats the choices, LAB_CALLS names another number of calls.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from tests.lab.commands import names, read
from tests.lab.emulated_hca import Hca
from tests.lab.pod import Pod
from tests.lab.rig import IPV4, LEASES, Rig, at_once, leases, rigs

VFS, PFS, AT_ONCE = 8, 4, 8
CALLS = int(os.environ.get("LAB_CALLS", "500"))
FOLDERS = ("infiniband_verbs", "infiniband_mad")  # of uverbsN; of umadN and issmN: visible in every namespace


@dataclass(eq=False)
class Vf:
    """A VF, and what it had when the HCA was loaded."""

    hca: Hca
    index: int
    numbers: list[str]
    netdev: str
    rdma: str
    guid: str
    pod: Pod | None = None
    conf: Any = None

    def has_numbers(self) -> list[str]:
        return numbers(self.hca, self.index)


def numbers(hca: Hca, index: int) -> list[str]:
    return [name for folder in FOLDERS for name in names(hca.vf_path(index) / folder) if name != "abi_version"]


@pytest.fixture(scope="module", params=["exclusive", "shared"])
def loaded(request: pytest.FixtureRequest) -> Iterator[Rig]:
    yield from rigs(request.param, vfs=VFS, total_vfs=VFS, pfs=PFS, preset=True)


class Turnover:
    """Eight threads take VFs that no other one is busy with."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self.rig, self.seed = rig, seed
        self.idle = [
            Vf(hca, vf, numbers(hca, vf), hca.netdev(vf), str(hca.rdma(vf)), hca.port_guid(vf))
            for hca in rig.hca.pfs
            for vf in range(VFS)
        ]
        self.calls = 0
        self.faults: list[str] = []
        self.lock = threading.Lock()

    def work(self, number: int) -> None:
        dice = random.Random(f"{self.seed} {number}")
        while not self.faults:
            with self.lock:
                if self.calls >= CALLS:
                    return
                self.calls += 1
                serial = self.calls
                vf = self.idle.pop(dice.randrange(len(self.idle)))
            try:
                self.delete(vf) if vf.pod else self.add(vf, serial)
            except Exception as fault:  # noqa: BLE001  the other threads have to hear of it
                words = str(fault).partition("\n  +")[0]
                with self.lock:
                    self.faults.append(f"call {serial}, VF {vf.index} of {vf.hca.pf}: {type(fault).__name__}: {words}")
            with self.lock:
                self.idle.append(vf)

    def add(self, vf: Vf, serial: int) -> None:
        guid = f"02:50:a4:00:00:01:{serial >> 8:02x}:{serial & 255:02x}"
        # Two interfaces cannot have one route; a machine that has other work too may keep processes waiting for long.
        ipam = {"type": "host-local", "ranges": IPV4["ranges"]}
        pci = vf.hca.pci(vf.index)
        vf.conf = self.rig.conf(None, deviceID=pci, guid=guid, ipam=ipam, portTimeout=90, lockTimeout=180)
        vf.pod = self.rig.pod("t")
        found = self.rig.cni("ADD", vf.pod, vf.conf, "net1", {})
        assert found.status == 0, f"ADD: {found}"
        assert vf.has_numbers() == vf.numbers, f"device numbers {vf.has_numbers()}, not {vf.numbers}"
        link = vf.pod.link("net1")
        assert link is not None, "the pod has no net1"
        assert link["address"][-23:] == guid, f"GUID {link['address'][-23:]}, not {guid}"
        assert vf.hca.port_guid(vf.index, vf.pod.name if self.rig.exclusive else None) == guid
        (address,) = [ip["address"] for ip in found.out["ips"]]
        assert vf.pod.addresses() == [address]
        lease = read(LEASES / address.partition("/")[0]).split()
        assert lease == [vf.pod.container_id, "net1"], f"lease of {address}: {lease}"
        assert vf.hca.rdma_anywhere(vf.index) == vf.rdma

    def delete(self, vf: Vf) -> None:
        assert vf.pod is not None
        (address,) = vf.pod.addresses()
        found = self.rig.cni("DEL", vf.pod, vf.conf, "net1", {})
        assert (found.status, found.stdout) == (0, ""), f"DEL: {found}"
        assert vf.has_numbers() == vf.numbers, f"device numbers {vf.has_numbers()}, not {vf.numbers}"
        has = (vf.hca.netdev(vf.index), vf.hca.rdma(vf.index), vf.hca.port_guid(vf.index))
        assert has == (vf.netdev, vf.rdma, vf.guid)
        lease = LEASES / address.partition("/")[0]
        assert not lease.exists() or read(lease).split()[0] != vf.pod.container_id
        vf.pod.delete()
        vf.pod = None


def test_turnover(rig: Rig) -> None:
    seed = int(os.environ.get("LAB_SEED", random.randrange(10**6)))
    print(f"seed {seed} (LAB_SEED)", flush=True)
    turnover = Turnover(rig, seed)
    begin = time.monotonic()
    at_once([partial(turnover.work, number) for number in range(AT_ONCE)])
    print(f"{rig.mode} mode: {turnover.calls} calls in {time.monotonic() - begin:.0f} s", flush=True)
    if turnover.faults:
        pytest.fail(f"seed {seed}: " + "\n".join(turnover.faults), pytrace=False)
    for vf in turnover.idle:
        if vf.pod:
            turnover.delete(vf)
    assert leases() == [], f"seed {seed}"
    rig.assert_as_before()
