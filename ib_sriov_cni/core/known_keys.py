"""The names of the keys that this plugin reads, and where the values are that a pod or a runtime may give. No I/O."""

from __future__ import annotations

from ipam.protocol.spelling import CNI_ARGS, CONFIGURATION, RUNTIME_CONFIG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ipam.protocol.request import Request
    from ipam.protocol.spelling import Names

    Source = tuple[str, ...]

# Where a value can be, in the order in which it is looked for (C19).
DEVICE_SOURCES: tuple[Source, ...] = (("runtimeConfig", "deviceID"), ("deviceID",), ("pciBusID",))
GUID_SOURCES: tuple[Source, ...] = (
    *(("runtimeConfig", "infinibandGUID"), ("args", "cni", "guid")),
    *(("CNI_ARGS", "guid"), ("guid",)),
)
PKEY_SOURCES: tuple[Source, ...] = (("args", "cni", "pkey"), ("pkey",))

# Keys that do not decide what the pod gets: a value that means nothing is a warning.
COMFORT = ("logLevel", "logFile")
# Keys that /etc/ib-sriov/defaults.json may have. The others belong to one network or one pod; stateDir must be the same
# from an attachment's ADD to its DEL.
NODE_WIDE = (
    *("link_state", "rdmaIsolation", "mtu", "acceptRA", "podMayChoose", "ibKubernetesEnabled"),
    *("portTimeout", "lockTimeout", "ipamTimeout", *COMFORT),
)
OWN = ("deviceID", "pciBusID", "guid", "pkey", "vfioPciMode", "stateDir", *NODE_WIDE)
KNOWN: Names = {
    **CONFIGURATION,
    **dict.fromkeys(OWN),
    "runtimeConfig": {**RUNTIME_CONFIG, **dict.fromkeys(("deviceID", "infinibandGUID", "CNIDeviceInfoFile"))},
    "args": {"cni": {**CNI_ARGS, **dict.fromkeys(("guid", "pkey"))}},
}


def find_first(request: Request, sources: tuple[Source, ...]) -> tuple[str, object]:
    """Return (place, value) of the first source that is neither absent nor empty; ("", None) if there is none."""
    for source in sources:
        if source[0] == "CNI_ARGS":
            found: object = request.args.get(source[1])
        else:
            found = look_up(request.conf, source)
        if found not in (None, ""):
            return (" " if source[0] == "CNI_ARGS" else ".").join(source), found
    return "", None


def look_up(conf: Mapping[str, object], path: Source) -> object:
    """Return what is at a path of keys; None if it is not there."""
    found: object = conf
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return found
