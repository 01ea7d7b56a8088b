"""In the place of pyverbs' empty __init__: have libibverbs use the providers that came with this program.

libibverbs looks for a provider where it was built to look (/etc/libibverbs.d, VERBS_PROVIDER_DIR), but only for
devices that no provider claims which is loaded already. So those for this host's devices are loaded first, and
what rdma-core the host has, if any, stays out.
Sources: rdma-core libibverbs/{init,dynamic_driver}.c.
"""

from __future__ import annotations

import os
import sys

# Kernel driver of an RDMA device's PCI function, and the provider for it.
PROVIDERS = {
    "mlx5_core": "mlx5",
    "mlx4_core": "mlx4",
    "bnxt_en": "bnxt_re",
    "hfi1": "hfi1verbs",
    "ib_qib": "ipathverbs",
    "irdma": "irdma",
    "ice": "irdma",
    "i40e": "irdma",
    "ib_mthca": "mthca",
}
CLASS = "/sys/class/infiniband"


def _available() -> dict[str, str]:
    """Give the providers of this program by name: each a shared object's name, or its path."""
    if "_ib_sriov" in sys.builtin_module_names:
        import _ib_sriov_tables

        found: dict[str, str] = _ib_sriov_tables.PROVIDERS
        return found
    folder = os.path.join(sys._MEIPASS, "providers")  # type: ignore[attr-defined]  # noqa: SLF001  # where PyInstaller's program lies
    return {name[3:].partition("-")[0]: os.path.join(folder, name) for name in sorted(os.listdir(folder))}


def _wanted() -> set[str]:
    """Names of the providers for the devices here; none where a device does not say which is its driver."""
    try:
        devices = os.listdir(CLASS)
        return {PROVIDERS[os.path.basename(os.readlink(f"{CLASS}/{name}/device/driver"))] for name in devices}
    except (OSError, KeyError):
        return set()


def _load() -> None:
    available = _available()
    names = available.keys() & _wanted() or available.keys()
    if "_ib_sriov" in sys.builtin_module_names:
        from _ib_sriov_start import link
    else:
        import _ctypes

        def link(path: str) -> object:
            return _ctypes.dlopen(path, 2)  # RTLD_NOW

    for name in sorted(names):
        link(available[name])


_load()
