"""Findings: what a check says, in which order they are shown, and what they amount to. No I/O."""

from __future__ import annotations

from ipam.protocol.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FAIL, WARN, NOTE, SKIP, OK, NONE = "FAIL", "WARN", "NOTE", "SKIP", "OK", "NONE"
# The worst first.
STATUSES = (FAIL, WARN, NOTE, SKIP, OK, NONE)
MEANINGS = {
    FAIL: "pods will fail, or fail to talk; do what the arrow says",
    WARN: "something is left over, or will hurt some pods",
    NOTE: "right as it is, and worth knowing",
    SKIP: "could not be seen, and why; counted as not seen",
    OK: "right",
    NONE: "there was nothing to look at: no HCA, say, which another line tells",
}


class Finding(Value):
    """One line of the report: what is so, and what to do about it."""

    check: str  # id of the check, stable
    status: str  # one of STATUSES
    text: str
    hint: str = ""


def sort_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Put the worst first; within a status the order of the checks stays."""
    return sorted(findings, key=lambda finding: STATUSES.index(finding.status))


def summarize(findings: Sequence[Finding]) -> str:
    """Give "2 FAIL, 1 WARN, 23 OK, 2 not seen"; what there is none of is left out, OK is always there."""
    counts = {status: sum(finding.status == status for finding in findings) for status in STATUSES}
    words = [f"{counts[status]} {status}" for status in (FAIL, WARN, NOTE) if counts[status]]
    words.append(f"{counts[OK]} OK")
    if counts[SKIP]:
        words.append(f"{counts[SKIP]} not seen")
    return ", ".join(words)


def exit_status(findings: Sequence[Finding], *, strict: bool) -> int:
    """1 for a FAIL, with `strict` for a WARN too; else 0, whatever could not be seen."""
    bad = {FAIL, WARN} if strict else {FAIL}
    return int(any(finding.status in bad for finding in findings))


def count(number: int, word: str) -> str:
    """Give "1 record" or "2 records"."""
    return f"{number} {word}{'s' * (number != 1)}"


def shorten(names: Sequence[str], most: int = 3) -> str:
    """Give "a, b, c and 5 more"."""
    if len(names) <= most + 1:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"
