"""Errors of the CNI protocol: one exception class for each code (specification 1.1.0, section 5, "Error"; C5).

Codes below 100 are the specification's, the others are ours.
"""

from __future__ import annotations

from ipam.protocol.bounds import MESSAGE_BYTES, shorten


class CniError(Exception):
    """An error for the runtime: `msg` says what failed, on what object and why; `details` says what to do."""

    code: int = 100

    def __init__(self, msg: str, details: str = "") -> None:
        """`msg` and `details` are separate members of the error document."""
        super().__init__(msg, details)
        self.msg = msg
        self.details = details

    def __str__(self) -> str:
        """Return message and details in one line."""
        return f"{self.msg}; {self.details}" if self.details else self.msg


class IncompatibleVersion(CniError):
    """cniVersion is not supported, or too old for this command."""

    code = 1


class UnsupportedField(CniError):
    """A field of the configuration has an unsupported value; the message has key and value."""

    code = 2


class UnknownContainer(CniError):
    """The container is unknown: nothing needs to be undone."""

    code = 3


class InvalidEnvironment(CniError):
    """A CNI_ variable is missing or invalid."""

    code = 4


class IoFailure(CniError):
    """Standard input or output failed."""

    code = 5


class DecodingFailure(CniError):
    """The input is not JSON, or not a JSON object."""

    code = 6


class InvalidConfiguration(CniError):
    """The network configuration is invalid; the message lists all faults."""

    code = 7


class OwnNamespace(CniError):
    """CNI_NETNS is the network namespace that the plugin runs in."""

    code = 8


class TryAgainLater(CniError):
    """A temporary condition, such as a lock that is held."""

    code = 11


class NotAvailable(CniError):
    """STATUS: an ADD could not be served."""

    code = 50


class LimitedConnectivity(CniError):
    """STATUS: an ADD could be served, but containers would have limited connectivity."""

    code = 51


class InternalFault(CniError):
    """A defect of this program."""

    code = 100


class AddressManagement(CniError):
    """No address could be reserved, checked or released."""

    code = 104


class StateFailure(CniError):
    """State cannot be read or written."""

    code = 106


def render_error(error: CniError, version: str) -> dict[str, object]:
    """Return the error document of the protocol (C5); message and details have at most MESSAGE_BYTES each."""
    return {
        "cniVersion": version,
        "code": error.code,
        "msg": _render_text(error.msg),
        "details": _render_text(error.details),
    }


def _render_text(text: str) -> str:
    """Return a text of bounded length, in which bytes that are not UTF-8 (from the environment) are escaped."""
    return shorten(text.encode(errors="backslashreplace").decode(), MESSAGE_BYTES)
