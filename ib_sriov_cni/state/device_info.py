"""Door to the device-info file, whose path Multus passes, and which it reads after ADD (N4).

Format: {"type": "pci", "version": "1.1.0", "pci": {"pci-address": …, "pf-pci-address": …, "rdma-device": …}}. The
device plugin writes it when it allocates the VF, and Multus copies it; a rebind may change the RDMA device's name
afterwards. Other members of the file are kept.

The author of a network can put any path into its configuration. So a file is replaced only if it is a device-info file,
and a new one is made in FOLDER only, where the specification has them.

Source: Device Information Specification 1.1.0 of the Network Plumbing Working Group, sections 3.1, 4.2 and 5.1.2;
network-attachment-definition-client, pkg/utils (`GetCNIDeviceInfoPath`).
"""

from __future__ import annotations

import os

from ib_sriov_cni.core.errors import StateFailure
from ib_sriov_cni.state.directory import replace_file
from ipam.protocol.bounds import FILE_BYTES
from ipam.protocol.fastjson import dumps, loads
from ipam.protocol.files import read_regular

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.core.values import PciAddress

FOLDER = "/var/run/k8s.cni.cncf.io/devinfo/cni"
VERSION = "1.1.0"


def write_device_info(path: str, *, pci: PciAddress, pf: PciAddress | None, rdma: str, new_in: str = FOLDER) -> None:
    """Update the file, or make it; it is never seen half written, and no link is followed in its place.

    Raises StateFailure (106), and then nothing was changed: the file cannot be written, a file that exists is not a
    JSON object of type "pci", or one that does not exist would not be in `new_in`.
    """
    folder, name = os.path.split(path)
    try:
        fd = _open_folder(os.path.realpath(folder), new_in)
        try:
            # By its descriptor, the folder is the same one for each step, whatever happens to its path.
            _write(f"/proc/self/fd/{fd}/{name}", pci, pf, rdma, new_in if not _is_below(folder, new_in) else "")
        finally:
            os.close(fd)
    except (OSError, ValueError) as fault:
        reason = fault.strerror if isinstance(fault, OSError) else fault
        hint = f"runtimeConfig.CNIDeviceInfoFile names it; Multus sets it to a file in {FOLDER}, which must be writable"
        raise StateFailure(f"write device info {path}: {reason}", hint) from None


def _open_folder(folder: str, new_in: str) -> int:
    """Return a descriptor of a folder, which is made if it is below `new_in`. Raises OSError."""
    if _is_below(folder, new_in):
        # Multus makes it only if the device plugin wrote a file to copy.
        os.makedirs(folder, mode=0o755, exist_ok=True)
    return os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _is_below(folder: str, above: str) -> bool:
    return f"{os.path.realpath(folder)}/".startswith(f"{os.path.realpath(above)}/")


def _write(file: str, pci: PciAddress, pf: PciAddress | None, rdma: str, only_in: str) -> None:
    """Write the file; `only_in`: the folder in which it should be if it is new, "" if that is where it is."""
    doc = _read(file)
    if doc is None and only_in:
        raise ValueError(f"there is no such file, and a new one is made in {only_in} only")
    before = dumps(doc)
    doc = doc or {"type": "pci", "version": VERSION}
    section = doc.setdefault("pci", {})
    if isinstance(section, dict):  # else _read has refused it
        members = {"pci-address": str(pci), "pf-pci-address": str(pf or ""), "rdma-device": rdma}
        section |= {key: member for key, member in members.items() if member}
    if dumps(doc) != before:
        replace_file(file, f"{file}.{os.getpid()}.new", dumps(doc).encode(), private=False)


def _read(file: str) -> dict[str, object] | None:
    """Return the document, None if there is no file. Raises OSError, or ValueError for another document."""
    try:
        doc = loads(read_regular(file, FILE_BYTES))
    except FileNotFoundError:
        return None
    except ValueError:
        doc = None
    if not isinstance(doc, dict) or doc.get("type") != "pci" or not isinstance(doc.get("pci", {}), dict):
        raise ValueError('it is not a device-info file of type "pci"')
    return doc
