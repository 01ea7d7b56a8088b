"""Door to the device-info file that Multus names and reads again after ADD (N4).

Format: {"type": "pci", "version": "1.1.0", "pci": {"pci-address": …, "pf-pci-address": …, "rdma-device": …}}, by the
Network Plumbing Working Group's device information specification. The device plugin wrote it when it allocated the
VF; a rebind may have given the RDMA device another name since. What else is in it is kept.
"""

from __future__ import annotations

import os

from ib_sriov_cni.core.errors import StateFailure
from ipam.protocol.fastjson import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.core.values import PciAddress

VERSION = "1.1.0"
LIMIT = 1 << 20


def write_device_info(path: str, *, pci: PciAddress, pf: PciAddress, rdma: str) -> None:
    """Bring the file up to date, whole or not at all; made if it is not there. Raises StateFailure (106)."""
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
    temporary = f"{path}.{os.getpid()}.new"
    try:
        os.unlink(temporary)  # of a process that was killed and had our number
    except OSError:
        pass
    try:
        # Multus makes it only where the device plugin wrote a file to copy.
        os.makedirs(os.path.dirname(path), exist_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            os.write(fd, dumps(doc).encode())
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError as fault:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        hint = "runtimeConfig.CNIDeviceInfoFile names it; its folder must be writable"
        raise StateFailure(f"write device info {path}: {fault.strerror}", hint) from None


def _read(path: str) -> dict[str, object]:
    try:
        # A link would have what is at its end copied into a file that everybody reads; a pipe would be waited for.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return {}
    try:
        doc = loads(os.read(fd, LIMIT))
    except (OSError, ValueError):
        return {}
    finally:
        os.close(fd)
    return doc if isinstance(doc, dict) else {}
