"""The emulated HCA of a machine, on the fabric that it shares with the others."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.cluster.machine import Machine
from tests.cluster.segment import address
from tests.lab.commands import received, wait
from tests.lab.emulated_hca import KNOBS

LOAD = """
import json
from tests.lab import emulated_hca
hca = emulated_hca.load(**{knobs!r})
print(json.dumps([[hca.rdma(vf), hca.netdev(vf), hca.pci(vf)] for vf in range(hca.numvfs)]))
"""


@dataclass(frozen=True, kw_only=True)
class Vf:
    rdma: str
    netdev: str
    pci: str


class Host:
    """A machine with its HCA; `load` loads it, again after the machine or the module was gone."""

    def __init__(self, machine: Machine, *, machines: int, **knobs: Any) -> None:
        peers = ",".join(address(number) for number in range(1, machines + 1))
        self.machine = machine
        self.knobs = {"preset": True, "node": machine.number - 1, "peers": peers, **knobs}
        self.vfs: list[Vf] = []
        self._knobs: dict[str, str] = {}

    def load(self, **knobs: Any) -> None:
        """Load the module with its four VFs; `knobs` are for this time."""
        said = self.machine.python(LOAD.format(knobs={**self.knobs, **knobs}))
        self.vfs = [Vf(rdma=rdma, netdev=netdev, pci=pci) for rdma, netdev, pci in json.loads(said)]

    def unload(self) -> None:
        self.machine.python("from tests.lab import emulated_hca\nemulated_hca.unload()")

    def device(self, vf: int) -> tuple[Machine, str]:
        """For an endpoint."""
        return self.machine, self.vfs[vf].rdma

    def knob(self, name: str, value: object) -> None:
        """Set a knob of the module, until `restore_knobs`."""
        path = f"{KNOBS}/{name}"
        self._knobs.setdefault(name, self.machine.output(f"cat {path}"))
        self.machine.run(f"echo {value} >{path}")

    def restore_knobs(self) -> None:
        for name, value in self._knobs.items():
            self.machine.run(f"echo {value} >{KNOBS}/{name}")
        self._knobs.clear()

    # ---- what the module has told the kernel's log

    def log(self) -> list[str]:
        """The lines about other kernels."""
        lines = self.machine.output("dmesg").splitlines()
        return [line.partition("ibemu: ")[2] for line in lines if "ibemu: node" in line or "ibemu: the subnet" in line]

    def wait_for(self, text: str, *, after: int = 0, timeout: float = 120) -> None:
        """Wait for a line in that log, not counting the first `after` lines."""
        assert wait(lambda: text in self.log()[after:], timeout, 0.5), f"{self.machine.name}: no {text!r}: {self.log()}"

    # ---- IPoIB

    def ip_of(self, number: int) -> str:
        return f"192.168.77.{number}"

    def address_up(self, vf: int) -> str:
        """Bring a VF's netdev up with an address of its own; the address."""
        own = self.ip_of(self.machine.number)
        netdev = self.vfs[vf].netdev
        self.machine.run(f"ip link set {netdev} up; ip addr replace {own}/24 dev {netdev}")
        return own

    def pings(self, to: str, *options: str) -> bool:
        """Whether one of the pings to an address is answered."""
        done = self.machine.run(f"ping -c 1 -W 5 {' '.join(options)} {to}", check=False)
        return received(done.stdout) > 0
