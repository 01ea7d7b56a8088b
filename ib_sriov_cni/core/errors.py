"""One exception class per error code: those of the CNI specification (ipam.protocol.errors) and our own (C5)."""

from __future__ import annotations

import os

from ipam.protocol.errors import (
    AddressManagement,
    CniError,
    DecodingFailure,
    IncompatibleVersion,
    InternalFault,
    InvalidConfiguration,
    InvalidEnvironment,
    IoFailure,
    LimitedConnectivity,
    NotAvailable,
    OwnNamespace,
    StateFailure,
    TryAgainLater,
    UnknownContainer,
    UnsupportedField,
)

__all__ = [
    "AddressManagement",
    "CheckDifference",
    "CniError",
    "DecodingFailure",
    "DeviceUnusable",
    "IncompatibleVersion",
    "InternalFault",
    "InvalidConfiguration",
    "InvalidEnvironment",
    "IoFailure",
    "KernelRefused",
    "LimitedConnectivity",
    "NotAvailable",
    "NotRestored",
    "OwnNamespace",
    "PortNotReady",
    "StateFailure",
    "TryAgainLater",
    "UnknownContainer",
    "UnsupportedField",
    "VerificationFailed",
]


class DeviceUnusable(CniError):
    """The device cannot be given to a pod: it is absent, is not a VF, has no driver, or is in use (says by whom)."""

    code = 101


class KernelRefused(CniError):
    """The kernel refused an operation on an object; `errno` says why."""

    code = 102

    def __init__(self, operation: str, target: str, errno: int, *, reason: str = "", details: str = "") -> None:
        """Name the operation and its object; `reason` is the text of netlink's extended acknowledgement, if any."""
        text = os.strerror(errno) + (f" ({reason})" if reason else "")
        super().__init__(f"{operation} {target}: {text}", details)
        self.operation = operation
        self.target = target
        self.errno = errno


class NotRestored(CniError):
    """A VF is out of its pod, but its PF still has the pod's GUID for it, or may have: nobody else may use it yet."""

    def __init__(self, msg: str, details: str = "", *, code: int) -> None:
        """`code`: of the reason."""
        super().__init__(msg, details)
        self.code = code


class VerificationFailed(CniError):
    """What was set is not what is there; the message has the wanted and the found value."""

    code = 103


class PortNotReady(VerificationFailed):
    """The subnet manager has not made the port ACTIVE in time, or has not given it the P_Key."""

    is_slow = True  # False: waiting longer would not help


class CheckDifference(CniError):
    """CHECK found the attachment changed; the message lists every difference."""

    code = 105
