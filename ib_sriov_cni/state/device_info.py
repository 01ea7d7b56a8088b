"""Door to the device-info file, whose path Multus passes, and which it reads after ADD (N4).

Format: {"type": "pci", "version": "1.1.0", "pci": {"pci-address": …, "pf-pci-address": …, "rdma-device": …}}, by the
Network Plumbing Working Group's device information specification. The device plugin writes it when it allocates the VF;
a rebind may change the RDMA device's name afterwards. Other members of the file are kept.
"""

from __future__ import annotations

import os

from ib_sriov_cni.core.errors import StateFailure
from ib_sriov_cni.state.directory import read_json, replace_file
from ipam.protocol.fastjson import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.core.values import PciAddress

VERSION = "1.1.0"
LIMIT = 1 << 20  # bytes


def write_device_info(path: str, *, pci: PciAddress, pf: PciAddress, rdma: str) -> None:
    """Update the file, or make it; it is never seen half written. Raises StateFailure (106)."""
    doc = _read(path)
    before = dumps(doc)
    doc.setdefault("type", "pci")
    doc.setdefault("version", VERSION)
    section = doc.get("pci")
    device = section if isinstance(section, dict) else {}
    device |= {"pci-address": str(pci), "pf-pci-address": str(pf)}
    if rdma:
        device["rdma-device"] = rdma
    doc["pci"] = device
    if dumps(doc) == before:
        return
    try:
        # Multus makes the folder only if the device plugin wrote a file to copy.
        os.makedirs(os.path.dirname(path), exist_ok=True)
        replace_file(path, f"{path}.{os.getpid()}.new", dumps(doc).encode(), private=False)
    except OSError as fault:
        hint = "the path is from runtimeConfig.CNIDeviceInfoFile; its folder must be writable"
        raise StateFailure(f"write device info {path}: {fault.strerror}", hint) from None


def _read(path: str) -> dict[str, object]:
    # Not through a link: the file at its end would be copied into one that everybody can read.
    found = read_json(path, LIMIT)
    doc = found[0] if found else None
    return doc if isinstance(doc, dict) else {}
