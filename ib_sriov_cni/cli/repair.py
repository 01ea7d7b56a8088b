"""`ib-sriov repair`: put right what can be put right without touching a living pod's traffic."""

from __future__ import annotations

import click

from ib_sriov_cni.cli.find import WAYS, attachment_argument, find_attachment, read_attachments
from ib_sriov_cni.cli.output import (
    FAILED,
    FOUND,
    INCOMPLETE,
    OK,
    Site,
    finish,
    note,
    output_option,
    pass_site,
    print_json,
    print_table,
    state_dir_option,
    tell_unseen,
    verbose_option,
)
from ib_sriov_cni.core.errors import CniError
from ib_sriov_cni.node.apply_repair import apply_repair
from ib_sriov_cni.node.repair import ORDER, Problem, Repair, plan_repairs

EXAMPLES = f"""\
ATTACHMENT is {WAYS}; without one, the whole node is looked at.

\b
What it can do:
  owner       make a living attachment the owner of its VF again
  disown      remove the owner of a VF whose record is gone
  release     release a dead attachment, as gc does
  link-state  set a VF's link state on its PF back
  up          bring an interface in the pod up
  address     put an address back that is still reserved
  route       put a route back
  bind        give a VF without driver to its PF's
  leftover    remove damaged records and half-written files older than a week

What it cannot do without cutting a living pod off is named, with what you can do.

Examples:

\b
  ib-sriov repair --dry-run
  ib-sriov repair
  ib-sriov repair worker-0
  ib-sriov repair --kind release --kind bind

The exit status is 0 if nothing is wrong any more, 1 if something is left (with --dry-run: if there is something to do),
4 if a repair failed.
"""
WOULD, DONE, NOTHING, FAILURE = "would be done", "done", "nothing to do any more", "failed"
LEFT = "left: see --disruptive"


@click.command(epilog=EXAMPLES)
@attachment_argument(required=False, many=True)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="Only repairs of that kind; repeatable.")
@click.option("--disruptive", is_flag=True, help="Also what stops a living pod's traffic, such as link state disable.")
@output_option
@verbose_option
@state_dir_option
@pass_site
def command(
    site: Site,
    *,
    names: tuple[str, ...],
    dry_run: bool,
    kinds: tuple[str, ...],
    disruptive: bool,
    output: str,
    verbose: bool,
    state_dir: str,
) -> None:
    """Put right what can be put right, and name what cannot.

    Everything is looked at first. Then each repair takes its VF's lock, looks whether the reason is still there, and
    acts.
    """
    _check_kinds(kinds)
    outcomes: list[tuple[Repair, str, str]] = []
    with site.open_host(state_dir=state_dir, verbose=verbose) as host:
        inventory = read_attachments(host)
        keys = {find_attachment(name, inventory.attachments).key for name in names}
        plan = plan_repairs(host, inventory)
        repairs = [each for each in plan.repairs if not keys or each.key in keys]
        repairs = [each for each in repairs if not kinds or each.kind in kinds]
        findings = [each for each in plan.findings if not keys or each.key in keys]
        for repair in repairs:
            if not repair.harmless and not disruptive:
                outcomes.append((repair, LEFT, ""))
            elif dry_run:
                outcomes.append((repair, WOULD, ""))
            else:
                try:
                    outcomes.append((repair, DONE if apply_repair(host, repair) else NOTHING, ""))
                except CniError as fault:
                    outcomes.append((repair, FAILURE, str(fault)))
    if output == "json":
        _print_json(outcomes, findings, plan.unseen)
    else:
        _print(outcomes, findings)
        tell_unseen(plan.unseen)
    words = {outcome for _, outcome, _ in outcomes}
    if FAILURE in words:
        finish(FAILED)
    finish(FOUND if findings or words & {WOULD, LEFT} else INCOMPLETE if plan.unseen else OK)


def _check_kinds(kinds: tuple[str, ...]) -> None:
    for kind in kinds:
        if kind not in ORDER:
            raise click.BadParameter(f"{kind!r} is none of {', '.join(ORDER)}", param_hint="--kind")


def _print(outcomes: list[tuple[Repair, str, str]], findings: list[Problem]) -> None:
    if outcomes:
        rows = [[each.kind, each.pod, each.what, each.why, outcome] for each, outcome, _ in outcomes]
        print_table(("KIND", "POD", "WHAT", "WHY", "OUTCOME"), rows, fold=("WHAT", "WHY"))
    elif not findings:
        note("nothing to repair")
    for repair, _, fault in outcomes:
        if fault:
            note(f"failed: {repair.what}: {fault}")
    for finding in findings:
        who = f"{finding.pod}: " if finding.pod else ""
        note(f"left to you: {who}{finding.what}\n  what to do: {finding.hint}")


def _print_json(outcomes: list[tuple[Repair, str, str]], findings: list[Problem], unseen: tuple[str, ...]) -> None:
    print_json(
        {
            "repairs": [
                {
                    "kind": repair.kind,
                    "what": repair.what,
                    "why": repair.why,
                    "harmless": repair.harmless,
                    "pci": repair.pci,
                    "attachment": repair.key.path if repair.key else None,
                    "pod": repair.pod or None,
                    "outcome": outcome,
                    "fault": fault or None,
                }
                for repair, outcome, fault in outcomes
            ],
            "findings": [
                {
                    "kind": finding.kind,
                    "what": finding.what,
                    "hint": finding.hint,
                    "pci": finding.pci,
                    "attachment": finding.key.path if finding.key else None,
                    "pod": finding.pod or None,
                }
                for finding in findings
            ],
            "unseen": list(unseen),
        }
    )
