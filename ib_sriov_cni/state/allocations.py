"""Door to the kubelet's checkpoint of allocations: which device files it has given a pod's containers with a VF.

The kubelet asks the device plugin when it admits the pod, before ADD, and writes the answer (devices of
ContainerAllocateResponse) into <kubelet>/device-plugins/kubelet_internal_checkpoint::

    {"Data": {"PodDeviceEntries": [{"PodUID": …, "DeviceIDs": {"<NUMA node>": ["0000:3b:00.2"]}, "AllocResp": base64}]}}

Source: kubernetes, pkg/kubelet/cm/devicemanager/checkpoint/checkpoint.go (DeviceIDs was a list before 1.20) and
staging/src/k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1/api.proto. Multus reads the same file.
"""

from __future__ import annotations

from ipam.protocol.bounds import CHECKPOINT_BYTES
from ipam.protocol.fastjson import loads
from ipam.protocol.files import read_regular

FOLDER = b"/dev/infiniband/"
CDI = (4, 5)  # fields of ContainerAllocateResponse by which a device plugin names device files elsewhere
LETTERS = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_")


class Allocations:
    """The kubelet's allocations on this node."""

    def __init__(self, kubelet_dir: str = "/var/lib/kubelet") -> None:
        """Open nothing yet."""
        self._path = f"{kubelet_dir}/device-plugins/kubelet_internal_checkpoint"

    def read_devices(self, pod_uid: str, pci: str) -> tuple[tuple[str, ...] | None, bool]:
        """Return the names in /dev/infiniband of the files that the pod's containers were given with the VF.

        None if they are unknown: no kubelet, another format, or a device plugin that uses CDI. The second value says
        whether that allocation has other VFs too, whose files are among them.
        """
        try:
            content = read_regular(self._path, CHECKPOINT_BYTES)
            if pod_uid.encode() not in content:
                return None, False
            found = loads(content)
            entries = found["Data"]["PodDeviceEntries"] if isinstance(found, dict) else []
            names: list[str] | None = None
            shared = False
            for entry in entries:
                ids = _device_ids(entry["DeviceIDs"]) if entry["PodUID"] == pod_uid else []
                if pci in ids:
                    names = [*(names or ()), *_parse_files(entry["AllocResp"])]
                    shared = shared or len(ids) > 1
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
            return None, False
        return None if names is None else tuple(dict.fromkeys(names)), shared


def _device_ids(found: object) -> list[object]:
    if isinstance(found, dict):
        return [each for group in found.values() for each in group]
    return found if isinstance(found, list) else []


def _parse_files(answer: str) -> list[str]:
    """Return the files of FOLDER that a ContainerAllocateResponse names.

    Raises ValueError or IndexError if it is not one, or names files by CDI.
    """
    import binascii

    raw = binascii.a2b_base64(answer)
    found = []
    for number, content in _parse_fields(raw):
        if number in CDI:
            raise ValueError("the files are in a CDI specification")
        for part in content.split(FOLDER)[1:]:
            # A path ends where its field does, and no field begins with a letter.
            end = next((place for place, byte in enumerate(part) if byte not in LETTERS), len(part))
            found.append(part[:end].decode())
    return found


def _parse_fields(raw: bytes) -> list[tuple[int, bytes]]:
    """Return number and content of the fields of a protobuf message that has only length-delimited ones."""
    found = []
    place = 0
    while place < len(raw):
        tag = raw[place]
        if tag & 0x87 != 2:  # a number above 15, or another type
            raise ValueError("not a ContainerAllocateResponse")
        size = shift = 0
        while True:
            place += 1
            size |= (raw[place] & 0x7F) << shift
            shift += 7
            if raw[place] < 0x80:
                break
        place += 1
        found.append((tag >> 3, raw[place : place + size]))
        place += size
    return found
