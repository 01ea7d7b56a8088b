"""One attachment's trouble is its own: whatever is raised about it becomes words about it, and the others are served.

A pod, a record or a broken file can make code fail in unforeseen ways. So code that goes through the attachments of a
node catches every Exception of one of them, and describes it here.
"""

from __future__ import annotations

from ib_sriov_cni.core.errors import CniError, InternalFault
from ib_sriov_cni.core.record import describe_attachment
from ipam.protocol.bounds import LOG_VALUE_BYTES, shorten
from ipam.protocol.bug_report import describe_defect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.core.record import Record

NAME_BYTES = 400  # of an attachment's name in a message: a pod's name and namespace have at most 253 characters each


def describe_fault(fault: Exception) -> str:
    """Return words for any exception, in one line; those of a defect as bug_report.py makes them.

    A CniError and an OSError say themselves what failed.
    """
    if isinstance(fault, CniError | OSError):
        return shorten(str(fault), LOG_VALUE_BYTES)
    return f"internal fault: {shorten(describe_defect(fault), LOG_VALUE_BYTES)}"


def make_error(fault: Exception) -> CniError:
    """Return a CniError as it is, and any other exception as InternalFault (100) with `describe_fault`'s words."""
    return fault if isinstance(fault, CniError) else InternalFault(describe_fault(fault))


def name_attachment(record: Record) -> str:
    """Return words that name an attachment, whatever its record holds."""
    return shorten(describe_attachment(record), NAME_BYTES)
