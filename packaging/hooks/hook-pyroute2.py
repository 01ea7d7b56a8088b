"""For PyInstaller: of pyroute2 the message classes alone are used, so what its __init__ imports stays out.

ib_sriov_cni/kernel/pyroute2_loader.py tells how. A module of ours that uses more of pyroute2 is an import that the
tests of the packed program find missing.
"""

from __future__ import annotations

import os

import pyroute2

USED = {"common", "netlink"}
excludedimports = [
    f"pyroute2.{name.removesuffix('.py')}"
    for name in sorted(os.listdir(os.path.dirname(pyroute2.__file__)))
    if name.removesuffix(".py") not in USED and not name.startswith("__")
]
