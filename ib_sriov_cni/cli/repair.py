"""`ib-sriov repair`: repair what can be repaired without disturbing a live pod's traffic."""

from __future__ import annotations

import click

from ib_sriov_cni.cli.find import NAMES_OF_ATTACHMENT, attachment_argument, find_attachment, read_attachments
from ib_sriov_cni.cli.output import (
    EXIT_FAILED,
    EXIT_INCOMPLETE,
    EXIT_OK,
    EXIT_PROBLEM,
    OUTCOME_FAILED,
    Site,
    exit_with,
    explain_unseen,
    output_option,
    pass_site,
    print_json,
    print_note,
    print_table,
    print_unseen,
    state_dir_option,
    verbose_option,
)
from ib_sriov_cni.core.errors import CniError
from ib_sriov_cni.node.apply_repair import apply_repair
from ib_sriov_cni.node.plan_repair import ORDER, Problem, Repair, plan_repairs

EXAMPLES = f"""\
ATTACHMENT is {NAMES_OF_ATTACHMENT}; without one, the whole node is checked.

\b
Kinds of repair:
  owner       make a live attachment the owner of its VF again
  disown      remove the owner of a VF if that attachment has no record
  release     release a dead attachment, as gc does
  link-state  restore a VF's link state on its PF
  up          bring up an interface in the pod
  address     add a missing address that is still reserved
  route       add a missing route
  bind        bind a VF without a driver to its PF's driver
  stray-file  remove damaged records and half-written files older than a week

What cannot be repaired without cutting off a live pod is listed, with what you can do.

Examples:

\b
  ib-sriov repair --dry-run
  ib-sriov repair
  ib-sriov repair worker-0
  ib-sriov repair --kind release --kind bind

The exit status is 0 if nothing is wrong any more, 1 if something is left to repair (with --dry-run: if there is
something to repair), 4 if a repair failed.
"""
WOULD_REPAIR, REPAIRED, NOT_NEEDED = "would be done", "done", "nothing to do any more"
LEFT_OUT = "left: see --disruptive"


@click.command(epilog=EXAMPLES)
@attachment_argument(required=False, many=True)
@click.option("--dry-run", is_flag=True, help="Print what would be repaired, and change nothing.")
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="Only repairs of this kind; repeatable.")
@click.option(
    "--disruptive", is_flag=True, help="Also make repairs that stop a live pod's traffic, such as link state disable."
)
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
    """Repair what can be repaired, and list what cannot.

    First everything is read. Then each repair takes its VF's lock, checks that it is still needed, and acts.
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
                outcomes.append((repair, LEFT_OUT, ""))
            elif dry_run:
                outcomes.append((repair, WOULD_REPAIR, ""))
            else:
                try:
                    outcomes.append((repair, REPAIRED if apply_repair(host, repair) else NOT_NEEDED, ""))
                except CniError as fault:
                    outcomes.append((repair, OUTCOME_FAILED, str(fault)))
    if output == "json":
        _print_json(outcomes, findings, plan.unseen)
    else:
        _print_table(outcomes, findings)
        print_unseen(plan.unseen)
    reached = {outcome for _, outcome, _ in outcomes}
    if OUTCOME_FAILED in reached:
        exit_with(EXIT_FAILED)
    left = findings or reached & {WOULD_REPAIR, LEFT_OUT}
    exit_with(EXIT_PROBLEM if left else EXIT_INCOMPLETE if plan.unseen else EXIT_OK)


def _check_kinds(kinds: tuple[str, ...]) -> None:
    for kind in kinds:
        if kind not in ORDER:
            raise click.BadParameter(f"{kind!r} is not one of {', '.join(ORDER)}", param_hint="--kind")


def _print_table(outcomes: list[tuple[Repair, str, str]], findings: list[Problem]) -> None:
    if outcomes:
        rows = [[each.kind, each.pod, each.what, each.why, outcome] for each, outcome, _ in outcomes]
        print_table(("KIND", "POD", "WHAT", "WHY", "OUTCOME"), rows, fold=("WHAT", "WHY"))
    elif not findings:
        print_note("nothing to repair")
    for repair, _, fault in outcomes:
        if fault:
            print_note(f"failed: {repair.what}: {fault}")
    for finding in findings:
        who = f"{finding.pod}: " if finding.pod else ""
        print_note(f"not repaired: {who}{finding.what}\n  what to do: {finding.hint}")


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
            "unseen": explain_unseen(unseen),
        }
    )
