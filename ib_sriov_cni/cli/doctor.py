"""`ib-sriov doctor`: everything that must be right on a node, line by line, and what to do."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import click

from ib_sriov_cni.cli.output import (
    FOUND,
    INCOMPLETE,
    OK,
    Site,
    finish,
    open_console,
    output_option,
    pass_site,
    print_json,
    print_table,
    show,
)
from ib_sriov_cni.doctor import report
from ib_sriov_cni.doctor.catalogue import CHECKS, choose, run_checks
from ib_sriov_cni.doctor.facts import Options, Roots

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.text import Text

    from ib_sriov_cni.doctor.report import Finding

EXAMPLES = """\
\b
Exit statuses:
  0  nothing is wrong; there may be warnings
  1  a FAIL, with --strict a WARN too
  5  nothing is wrong, but not everything could be seen (run it as root)

Examples:

\b
  ib-sriov doctor
  ib-sriov doctor --only vfs,sm --only pf-port
  ib-sriov doctor --explain sm-virt
  kubectl get net-attach-def -A -o yaml > nad.yaml; ib-sriov doctor --config nad.yaml
  ib-sriov doctor -o json --strict
"""
STYLES = {
    report.FAIL: "bold red",
    report.WARN: "yellow",
    report.NOTE: "cyan",
    report.SKIP: "magenta",
    report.OK: "green",
    report.NONE: "dim",
}
WIDEST = 110  # lines that are longer are harder to read
INDENT = 2 + 4 + 2 + max(len(identity) for identity in CHECKS)
DEFAULT_CNI_PATH = "/opt/cni/bin"


def _split(_context: click.Context, _parameter: click.Parameter, found: tuple[str, ...]) -> tuple[str, ...]:
    """Take ids given several times, with commas, or both."""
    names = [name.strip() for text in found for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        raise click.BadParameter(f"there is no check {', '.join(unknown)}; --list names them")
    return tuple(names)


def _complete(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in CHECKS if name.startswith(incomplete)]


@click.command(epilog=EXAMPLES)
@output_option
@click.option("--only", multiple=True, metavar="ID", callback=_split, shell_complete=_complete, help="These checks.")
@click.option("--skip", multiple=True, metavar="ID", callback=_split, shell_complete=_complete, help="Not these.")
@click.option("--strict", is_flag=True, help="A warning too ends with status 1.")
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
    help="Where the runtime looks for CNI plugins, folders with colons between.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 600),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long driver and firmware may take to answer, twice.",
)
@click.option("--explain", type=click.Choice(list(CHECKS)), metavar="ID", help="What a check looks at and what to do.")
@click.option("--list", "listing", is_flag=True, help="Name the checks.")
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
    """Look at everything that must be right on a node, and say what to do.

    The worst comes first, the last line counts. Nothing is changed, and a driver or firmware that hangs costs seconds.
    docs/doctor.md has every check.
    """
    if listing:
        print_table(("CHECK", "WHAT MUST BE RIGHT"), [(check.id, check.title) for check in CHECKS.values()])
        return
    if explain:
        _explain(explain)
        return
    from ib_sriov_cni.cli.keys import unknown_keys
    from ib_sriov_cni.doctor.examine import read_all_facts

    options = Options(
        cni_path=tuple([folder for folder in cni_path.split(":") if folder]),
        config_files=configs,
        seconds=timeout,
        unknown_keys=unknown_keys,
    )
    roots = Roots(root=site.root, sysfs=site.path("/sys"), proc=site.path("/proc"))
    findings = report.sort_findings(run_checks(choose(only, skip), read_all_facts(roots, options)))
    status = report.exit_status(findings, strict=strict)
    if output == "json":
        print_json(_document(findings))
    else:
        console = open_console()
        show(*render(findings, min(console.width, WIDEST) if console.is_terminal else 0))
    unseen = any(finding.status == report.SKIP for finding in findings)
    finish(FOUND if status else INCOMPLETE if unseen else OK)


def _explain(identity: str) -> None:
    check = CHECKS[identity]
    click.echo(f"{check.id}: {check.title}\n")
    click.echo("\n".join(textwrap.wrap(check.advice, 100, break_long_words=False, break_on_hyphens=False)))


def _document(findings: Sequence[Finding]) -> dict[str, object]:
    counts = {status: sum(finding.status == status for finding in findings) for status in report.STATUSES}
    return {
        "summary": report.summarize(findings),
        "counts": counts,
        "findings": [
            {"check": each.check, "status": each.status, "text": each.text, "hint": each.hint} for each in findings
        ],
    }


def render(findings: Sequence[Finding], width: int) -> list[Text]:
    """Give lines of at most `width` columns, 0 for as long as they are."""
    from rich.text import Text

    lines: list[Text] = []
    for finding in findings:
        if finding.status == report.NONE:
            continue
        head = f"{finding.status:<4}  {finding.check:<{INDENT - 8}}  "
        texts = _wrap(finding.text, width - INDENT)
        for number, text in enumerate(texts):
            line = Text(head if number == 0 else " " * INDENT, style=STYLES[finding.status])
            lines.append(line.append(text, style="default"))
        for number, text in enumerate(_wrap(finding.hint, width - INDENT - 3) if finding.hint else []):
            lines.append(Text(f"{' ' * INDENT}{'-> ' if number == 0 else '   '}{text}", style="bold"))
    idle = [finding.check for finding in findings if finding.status == report.NONE]
    if idle:
        said = f"nothing to look at ({len(idle)}): {', '.join(idle)}"
        for number, text in enumerate(_wrap(said, width - 6)):
            lines.append(Text(f"{'-' if number == 0 else '':<6}{text}", style="dim"))
    lines += [Text(""), Text(report.summarize(findings), style="bold")]
    for line in lines:
        line.no_wrap = True
    return lines


def _wrap(text: str, width: int) -> list[str]:
    clean = " ".join(text.split())  # a message is one line, whatever an exception had in it
    if width <= 0:
        return [clean]
    return textwrap.wrap(clean, max(width, 20), break_on_hyphens=False) or [""]
