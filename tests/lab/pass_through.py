"""Giving a function to a driver that passes it through; pci-stub takes the place of vfio-pci, which wants an IOMMU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.commands import run, wait, write
from tests.lab.emulated_hca import DEVICES, DRIVERS

STUB = "pci-stub"


def _driver(address: str) -> str:
    path = Path(DEVICES, address, "driver")
    return path.resolve().name if path.exists() else ""


@contextmanager
def passed_through(address: str) -> Iterator[None]:
    """A VF or a PF with pci-stub as its driver, until the end."""
    run(["modprobe", STUB])
    override = Path(DEVICES, address, "driver_override")
    had = _driver(address)
    try:
        assert write(f"{DRIVERS}/{had}/unbind", address) == "OK"
        assert write(override, STUB) == "OK"
        assert write("/sys/bus/pci/drivers_probe", address) == "OK"
        assert _driver(address) == STUB
        yield
    finally:
        write(f"{DRIVERS}/{STUB}/unbind", address)
        write(override, "\n")
        write("/sys/bus/pci/drivers_probe", address)
        assert wait(lambda: list(Path(DEVICES, address).glob("net/*")))
