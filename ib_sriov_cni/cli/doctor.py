"""`ib-sriov doctor`: check everything that must be right on a node, one line per finding, and what to do."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import click

from ib_sriov_cni.cli.output import (
    EXIT_INCOMPLETE,
    EXIT_OK,
    EXIT_PROBLEM,
    Site,
    complete_from,
    exit_with,
    open_console,
    output_option,
    pass_site,
    print_json,
    print_rich,
    print_table,
)
from ib_sriov_cni.doctor import report
from ib_sriov_cni.doctor.catalogue import CHECKS, run_checks, select_checks
from ib_sriov_cni.doctor.facts import DEFAULT_CNI_PATH, Options, Roots

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.text import Text

    from ib_sriov_cni.doctor.report import Finding

EXAMPLES = """\
\b
Exit statuses:
  0  nothing is wrong; there may be warnings
  1  there is a FAIL or, with --strict, a WARN
  5  nothing is wrong, but not everything could be checked (usually: run it as root)

Examples:

\b
  ib-sriov doctor
  ib-sriov doctor --only vfs,sm --only pf-port
  ib-sriov doctor --explain sm-virt
  kubectl get net-attach-def -A -o yaml > nad.yaml; ib-sriov doctor --config nad.yaml
  ib-sriov doctor -o json --strict
"""
STATUS_STYLES = {
    report.FAIL: "bold red",
    report.WARN: "yellow",
    report.NOTE: "cyan",
    report.SKIP: "magenta",
    report.OK: "green",
    report.NONE: "dim",
}
MAX_WIDTH = 110  # longer lines are harder to read
INDENT = 2 + 4 + 2 + max(len(check_id) for check_id in CHECKS)


def _parse_ids(_context: click.Context, _parameter: click.Parameter, found: tuple[str, ...]) -> tuple[str, ...]:
    """Return the ids in an option that may be repeated and contain commas."""
    names = [name.strip() for text in found for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        raise click.BadParameter(f"there is no check {', '.join(unknown)}; --list lists them")
    return tuple(names)


@click.command(epilog=EXAMPLES)
@output_option
@click.option(
    "--only",
    multiple=True,
    metavar="ID",
    callback=_parse_ids,
    shell_complete=complete_from(CHECKS),
    help="Only these checks.",
)
@click.option(
    "--skip",
    multiple=True,
    metavar="ID",
    callback=_parse_ids,
    shell_complete=complete_from(CHECKS),
    help="All checks except these.",
)
@click.option("--strict", is_flag=True, help="Exit with 1 also if there is a WARN.")
@click.option(
    "--config",
    "configs",
    multiple=True,
    metavar="PATH",
    type=click.Path(exists=True),
    help="NetworkAttachmentDefinitions or CNI configurations, YAML or JSON; a file or a folder.",
)
@click.option(
    "--cni-path",
    metavar="PATH",
    envvar="CNI_PATH",
    default=DEFAULT_CNI_PATH,
    show_default=True,
    help="Folders where the runtime looks for CNI plugins, separated by colons.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 600),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for driver and firmware, in each of two stages; longer on a machine that is slow.",
)
@click.option(
    "--explain",
    type=click.Choice(list(CHECKS)),
    metavar="ID",
    help="Explain a check: what it looks at, and what to do.",
)
@click.option("--list", "listing", is_flag=True, help="List the checks.")
@pass_site
def command(  # noqa: PLR0913  # one per option
    site: Site,
    *,
    output: str,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    strict: bool,
    configs: tuple[str, ...],
    cni_path: str,
    timeout: float,
    explain: str | None,
    listing: bool,
) -> None:
    """Check everything that must be right on a node, and say what to do.

    The worst findings come first, and the last line is a summary. Nothing is changed. A driver or firmware that hangs
    delays the result by a few seconds. docs/doctor.md describes every check.
    """
    if listing:
        print_table(("CHECK", "WHAT MUST BE RIGHT"), [(check.id, check.title) for check in CHECKS.values()])
        return
    if explain:
        _explain(explain)
        return
    from ib_sriov_cni.cli.keys import describe_unknown_keys
    from ib_sriov_cni.doctor.examine import read_all_facts

    options = Options(
        cni_path=tuple([folder for folder in cni_path.split(":") if folder]),
        config_files=configs,
        seconds=timeout,
        describe_unknown_keys=describe_unknown_keys,
    )
    roots = Roots(root=site.root, sysfs=site.path("/sys"), proc=site.path("/proc"))
    findings = report.sort_findings(run_checks(select_checks(only, skip), read_all_facts(roots, options)))
    status = report.exit_status(findings, strict=strict)
    if output == "json":
        print_json(_make_document(findings))
    else:
        console = open_console()
        print_rich(*render_findings(findings, min(console.width, MAX_WIDTH) if console.is_terminal else 0))
    incomplete = any(finding.status == report.SKIP for finding in findings)
    exit_with(EXIT_PROBLEM if status else EXIT_INCOMPLETE if incomplete else EXIT_OK)


def _explain(check_id: str) -> None:
    check = CHECKS[check_id]
    click.echo(f"{check.id}: {check.title}\n")
    click.echo("\n".join(textwrap.wrap(check.advice, 100, break_long_words=False, break_on_hyphens=False)))


def _make_document(findings: Sequence[Finding]) -> dict[str, object]:
    counts = {status: sum(finding.status == status for finding in findings) for status in report.STATUSES}
    return {
        "summary": report.summarize(findings),
        "counts": counts,
        "findings": [
            {"check": each.check, "status": each.status, "text": each.text, "hint": each.hint} for each in findings
        ],
    }


def render_findings(findings: Sequence[Finding], width: int) -> list[Text]:
    """Return the report as lines of at most `width` columns; 0 for no limit."""
    from rich.text import Text

    lines: list[Text] = []
    for finding in findings:
        if finding.status == report.NONE:
            continue
        head = f"{finding.status:<4}  {finding.check:<{INDENT - 8}}  "
        texts = _wrap(finding.text, width - INDENT)
        for number, text in enumerate(texts):
            line = Text(head if number == 0 else " " * INDENT, style=STATUS_STYLES[finding.status])
            lines.append(line.append(text, style="default"))
        for number, text in enumerate(_wrap(finding.hint, width - INDENT - 3) if finding.hint else []):
            lines.append(Text(f"{' ' * INDENT}{'-> ' if number == 0 else '   '}{text}", style="bold"))
    idle = [finding.check for finding in findings if finding.status == report.NONE]
    if idle:
        text = f"nothing to check ({len(idle)}): {', '.join(idle)}"
        for number, part in enumerate(_wrap(text, width - 6)):
            lines.append(Text(f"{'-' if number == 0 else '':<6}{part}", style="dim"))
    lines += [Text(""), Text(report.summarize(findings), style="bold")]
    for line in lines:
        line.no_wrap = True
    return lines


def _wrap(text: str, width: int) -> list[str]:
    clean = " ".join(text.split())  # one line, even if an exception's text has several
    if width <= 0:
        return [clean]
    return textwrap.wrap(clean, max(width, 20), break_on_hyphens=False) or [""]
