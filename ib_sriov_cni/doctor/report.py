"""Findings: what a check says, the order in which they are shown, and what they amount to. No I/O."""

from __future__ import annotations

from ipam.protocol.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FAIL, WARN, NOTE, SKIP, OK, NONE = "FAIL", "WARN", "NOTE", "SKIP", "OK", "NONE"
# Worst first; docs/doctor.md says what each means. NONE: there was nothing to check.
STATUSES = (FAIL, WARN, NOTE, SKIP, OK, NONE)


class Finding(Value):
    """One line of the report: what was found, and what to do about it."""

    check: str  # id of the check, which never changes
    status: str  # one of STATUSES
    text: str
    hint: str = ""


def sort_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Sort worst first; findings of the same status keep the order of the checks."""
    return sorted(findings, key=lambda finding: STATUSES.index(finding.status))


def summarize(findings: Sequence[Finding]) -> str:
    """Return "2 FAIL, 1 WARN, 23 OK, 2 not checked"; zero counts are left out, except for OK."""
    counts = {status: sum(finding.status == status for finding in findings) for status in STATUSES}
    words = [f"{counts[status]} {status}" for status in (FAIL, WARN, NOTE) if counts[status]]
    words.append(f"{counts[OK]} OK")
    if counts[SKIP]:
        words.append(f"{counts[SKIP]} not checked")
    return ", ".join(words)


def exit_status(findings: Sequence[Finding], *, strict: bool) -> int:
    """Return 1 if there is a FAIL (with `strict`, also for a WARN), else 0, even if something was not checked."""
    bad = {FAIL, WARN} if strict else {FAIL}
    return int(any(finding.status in bad for finding in findings))


def render_count(number: int, noun: str) -> str:
    """Return "1 record" or "2 records"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def render_names(names: Sequence[str], most: int = 3) -> str:
    """Return "a, b, c and 5 more"."""
    if len(names) <= most + 1:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"
