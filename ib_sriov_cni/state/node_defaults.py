"""Door to /etc/ib-sriov/defaults.json: what a node's administrator sets for all networks of the node.

The file is a JSON object with keys of a network configuration, those in NODE_WIDE. A network's own keys win.
"""

from __future__ import annotations

from ib_sriov_cni.core.errors import InvalidConfiguration
from ib_sriov_cni.core.known_keys import NODE_WIDE
from ipam.protocol.bounds import NODE_DEFAULTS_BYTES, join_faults
from ipam.protocol.fastjson import loads
from ipam.protocol.files import read_trusted
from ipam.protocol.spelling import name_all, respell
from ipam.protocol.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipam.protocol.request import Request

DEFAULTS_FILE = "/etc/ib-sriov/defaults.json"


def read_node_defaults(path: str = DEFAULTS_FILE) -> dict[str, object]:
    """Return the keys and values in the file; none if there is no file.

    Raises InvalidConfiguration (7) for a file that root does not own, that others may write to, that is not a regular
    file or too large, is not a JSON object, or has keys that cannot be node-wide.
    """
    try:
        content = read_trusted(path, NODE_DEFAULTS_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as fault:
        raise _refusal(path, fault.strerror or str(fault)) from None
    try:
        document = loads(content)
    except ValueError as fault:
        raise _refusal(path, f"it is not JSON: {fault}") from None
    if not isinstance(document, dict):
        raise _refusal(path, "it is not a JSON object")
    faults: list[str] = []
    defaults = respell(document, name_all(NODE_WIDE), faults)
    wrong = [key[:80] for key in defaults if key not in NODE_WIDE]
    if wrong:
        faults.append(f"{join_faults(wrong, ', ')} cannot be set for a whole node: only {', '.join(NODE_WIDE)} can")
    if faults:
        raise _refusal(path, join_faults(faults))
    return {key: found for key, found in defaults.items() if found is not None}


def _refusal(path: str, reason: str) -> InvalidConfiguration:
    return InvalidConfiguration(f"node-wide defaults {path}: {reason}", "correct the file, or remove it")


def find_missing(conf: dict[str, object], defaults: dict[str, object]) -> dict[str, object]:
    """Return the defaults that apply to a configuration: those of keys that it does not have, or has as null."""
    return {key: found for key, found in defaults.items() if conf.get(key) is None}


def describe_origin(msg: str, missing: dict[str, object]) -> str:
    """Return words for an error's details if a fault in its message is of a value from the file; "" if none is."""
    named = [key for key in missing if f"{key} must be" in msg]
    return f"{', '.join(named)}: from the node-wide defaults {DEFAULTS_FILE}" if named else ""


def apply_defaults(request: Request, defaults: dict[str, object]) -> Request:
    """Return the request with the defaults in its `conf`. Its `stdin` is unchanged: they do not concern delegates."""
    missing = find_missing(request.conf, defaults)
    return replace(request, conf={**request.conf, **missing}) if missing else request
