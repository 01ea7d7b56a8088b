"""What the commands share: where they look, how they print, and with which status they end.

Exit statuses, the same for every command:

    0  OK          done, and nothing is wrong
    1  FOUND       something is wrong: a difference, a fault of a configuration, a failed check
    2              wrong usage (click's own)
    3  NO_SUCH     there is no such attachment, or more than one
    4  FAILED      it could not be done: the message says what refused and why
    5  INCOMPLETE  done, but not everything could be seen

What was asked for goes to standard output, in a table for people or as JSON for programs (`-o json`); everything else,
hints and what could not be seen, goes to standard error. Colour is for terminals only; NO_COLOR turns it off there too
(no-color.org).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ib_sriov_cni.state.directory import DEFAULT_STATE_DIR

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from ib_sriov_cni.attach.host import Host

OK, FOUND, NO_SUCH, FAILED, INCOMPLETE = 0, 1, 3, 4, 5
# Without a terminal nobody knows how wide a line may be: a table is as wide as what is in it.
UNLIMITED = 10_000
STYLES = {
    "free": "green",
    "in use": "cyan",
    "alive": "green",
    "ok": "green",
    "warn": "yellow",
    "fail": "bold red",
    "dead": "bold red",
    "damaged": "bold red",
    "leftover": "bold red",
    "unbound": "yellow",
    "unmanaged": "yellow",
    "foreign": "yellow",
}


class Site:
    """Where a command looks and acts: the host, unless a test hands in another root.

    `root` stands before every path of the host: sysfs, proc, the state directory, /etc, /run. It is given by
    `main(…, obj=Site(root=…))` alone; there is no option for it.
    """

    def __init__(self, root: str = "", *, environ: dict[str, str] | None = None) -> None:
        """Nothing is opened."""
        self.root = root
        self.environ = dict(os.environ) if environ is None else environ

    def path(self, path: str) -> str:
        """Give a path of the host."""
        return f"{self.root}{path}"

    def open_host(self, *, state_dir: str = "", verbose: bool = False, log_file: str = "") -> Host:
        """Make the bundle of doors; `verbose` tells each step on standard error."""
        from ib_sriov_cni.attach.host import Host
        from ib_sriov_cni.telemetry.log import Log

        return Host(
            log=Log(level="info" if verbose or log_file else "warning", path=log_file, context={"cmd": "cli"}),
            state_dir=state_dir or self.path(DEFAULT_STATE_DIR),
            lock_dir=self.path("/run/ib-sriov"),
            sysfs_root=self.path("/sys"),
            proc_root=self.path("/proc"),
        )


pass_site = click.make_pass_decorator(Site, ensure=True)


class Failure(click.ClickException):
    """An end with a message and a hint, as a person wants to read them."""

    def __init__(self, message: str, hint: str = "", *, status: int = FAILED, code: int = 0) -> None:
        """`code` is that of the CNI error, where there is one (docs/configuration.md, Error codes)."""
        super().__init__(message)
        self.hint = hint
        self.exit_code = status  # type: ignore[misc]  # click declares it for the class, and reads it from here
        self.code = code

    def show(self, file: Any = None) -> None:
        """Write the message, then what to do."""
        console = open_console(file or sys.stderr)
        code = f" (code {self.code})" if self.code else ""
        console.print(f"[bold red]ib-sriov: [/]{_escaped(self.message)}[dim]{code}[/]", highlight=False, soft_wrap=True)
        if self.hint:
            console.print(f"  [bold]what to do:[/] {_escaped(self.hint)}", highlight=False, soft_wrap=True)


def error_of(fault: OSError) -> str:
    """Say an OSError as a sentence of its own."""
    reason = fault.strerror or str(fault)
    return f"{fault.filename}: {reason}" if fault.filename else reason


# ---- options that several commands have

output_option = click.option(
    "-o",
    "--output",
    "output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="A table for people, or JSON for programs.",
)
state_dir_option = click.option(
    "--state-dir",
    metavar="PATH",
    default="",
    help=f"Where the records are, if the configuration says stateDir.  [default: {DEFAULT_STATE_DIR}]",
)
verbose_option = click.option("-v", "--verbose", is_flag=True, help="Tell each step on standard error.")


# ---- printing


def open_console(file: Any = None) -> Console:
    """Give a rich console for a stream, standard output unless told."""
    from rich.console import Console

    stream = file or sys.stdout
    terminal = bool(getattr(stream, "isatty", lambda: False)())
    return Console(
        file=stream,
        force_terminal=terminal,
        no_color=True if not terminal or os.environ.get("NO_COLOR") else None,
        width=None if terminal else UNLIMITED,
        highlight=False,
        emoji=False,
        soft_wrap=not terminal,
    )


def print_json(document: object) -> None:
    """Print a document, indented."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False, default=str))


def make_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, fold: Sequence[str] | None = None) -> Table:
    """Make a plain table, words in capitals above, no lines: good to read and good for awk. "" shows as "-".

    `fold` names the columns of prose, which a narrow terminal may break into lines; the last one unless told.
    """
    from rich.table import Table
    from rich.text import Text

    prose = columns[-1:] if fold is None else fold
    listed = [list(row) for row in rows]
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column not in prose)
    for row in listed:
        table.add_row(*[Text(cell, style=style_of(cell)) if cell else Text("-", style="dim") for cell in row])
    return table


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, fold: Sequence[str] | None = None) -> None:
    """Print a plain table; one without columns of prose runs over a narrow terminal's edge, whole values in it."""
    show(make_table(columns, rows, fold=fold), wide=fold is not None and not fold)


def drop_columns(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int, dispensable: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Leave columns out, the first of `dispensable` first, until the rest is not wider than `width`."""
    kept = list(columns)
    for name in ("", *dispensable):
        kept = [column for column in kept if column != name]
        indices = [columns.index(column) for column in kept]
        widths = [max(len(columns[i]), *[len(row[i]) for row in rows], 1) for i in indices]
        if sum(widths) + 3 * (len(kept) - 1) <= width:
            break
    return kept, [[row[columns.index(column)] for column in kept] for row in rows]


def show(*what: RenderableType, wide: bool = False) -> None:
    """Print on standard output, without the blanks that rich fills lines with; `wide`: as wide as it is."""
    console = open_console()
    if console.is_terminal and not wide:
        for each in what:
            console.print(each)
        return
    if wide:
        console.width = UNLIMITED
    with console.capture() as captured:
        for each in what:
            console.print(each)
    text = "\n".join([line.rstrip() for line in captured.get().rstrip("\n").split("\n")])
    click.echo(text, color=console.is_terminal)


def style_of(word: str) -> str:
    """Give the colour of a state's word, "" for any other."""
    return STYLES.get(word.lower(), "")


def note(text: str) -> None:
    """Say something beside the point, on standard error."""
    click.echo(text, err=True)


def tell_unseen(unseen: Sequence[str]) -> None:
    """Say what could not be seen."""
    for what in unseen:
        note(f"not seen: {what}")


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def finish(status: int) -> NoReturn:
    """End with that status."""
    click.get_current_context().exit(status)


# ---- words for numbers


def since_words(since: float, now: float) -> str:
    """Say how long ago something was, in one unit or two: 45s, 12m, 3h12m, 5d4h."""
    seconds = max(0, int(now - since))
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days}d{hours}h" if hours else f"{days}d"
    if hours:
        return f"{hours}h{minutes}m" if minutes else f"{hours}h"
    return f"{minutes}m" if minutes else f"{seconds}s"


def time_words(since: float) -> str:
    """Say a Unix time in UTC, as the log does."""
    import time

    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(since))


def counted(number: int, one: str, many: str = "") -> str:
    """Say a number of things."""
    return f"{number} {one if number == 1 else many or one + 's'}"
