"""In the place of pyverbs' empty __init__: have libibverbs use the providers that came with this program.

libibverbs looks for a provider where it was built to look (/etc/libibverbs.d, VERBS_PROVIDER_DIR), but only for
devices that no provider claims which is loaded already. So those for this host's devices are loaded first, and
what rdma-core the host has, if any, stays out.
Sources: rdma-core libibverbs/{init,dynamic_driver}.c.
"""

from __future__ import annotations

import os

# Kernel driver of an RDMA device's PCI function, and the provider for it.
DRIVERS = {
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


def _wanted() -> set[str]:
    """Names of the providers for the devices here; none where a device does not say which is its driver."""
    try:
        devices = os.listdir(CLASS)
        return {DRIVERS[os.path.basename(os.readlink(f"{CLASS}/{name}/device/driver"))] for name in devices}
    except (OSError, KeyError):
        return set()


def _load() -> None:
    from _ib_sriov_start import link
    from _ib_sriov_tables import PROVIDERS

    for name in sorted(PROVIDERS.keys() & _wanted() or PROVIDERS.keys()):
        link(PROVIDERS[name])


# No part of pyverbs is in the archive at the program's end. Its enums look for "pyverbs.collections" and "pyverbs.enum"
# first, as Python 2 did: for that the whole list of the archive would be read.
__path__: list[str] = []
_load()
