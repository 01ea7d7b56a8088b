"""All checks, in the order in which they depend on each other, and the selection from them. No I/O."""

from __future__ import annotations

from ib_sriov_cni.doctor import config, fabric, hca, node, state, vfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ib_sriov_cni.doctor.check import Check
    from ib_sriov_cni.doctor.facts import AllFacts
    from ib_sriov_cni.doctor.report import Finding

CHECKS: dict[str, Check] = {
    check.id: check for module in (hca, fabric, vfs, state, config, node) for check in module.checks.all
}


def select_checks(only: Iterable[str], without: Iterable[str]) -> list[Check]:
    """Return the checks with ids in `only` (all if it is empty) and not in `without`. KeyError for an unknown id."""
    wanted, unwanted = list(only), set(without)
    for check_id in (*wanted, *unwanted):
        _ = CHECKS[check_id]
    return [check for check in CHECKS.values() if (not wanted or check.id in wanted) and check.id not in unwanted]


def run_checks(checks: Iterable[Check], facts: AllFacts) -> list[Finding]:
    """Run the checks in this order and return all their findings."""
    return [finding for check in checks for finding in check.run(facts)]


def render_checks() -> str:
    """Return the part of docs/doctor.md that lists the checks."""
    from textwrap import wrap

    lines = []
    for check in CHECKS.values():
        lines += [f"### {check.id}", f"{check.title}.", ""]
        lines += [*wrap(check.advice, 119, break_long_words=False, break_on_hyphens=False), ""]
    return "\n".join(lines).rstrip() + "\n"
