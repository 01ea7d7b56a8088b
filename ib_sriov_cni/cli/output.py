"""What the commands share: where they look, how they print, and their exit statuses.

Exit statuses, the same for every command:

    0  EXIT_OK          done, and nothing is wrong
    1  EXIT_PROBLEM     something is wrong: a difference, an invalid configuration, a failed check
    2  EXIT_USAGE       wrong usage (click's own)
    3  EXIT_NOT_FOUND   no attachment matches, or more than one does
    4  EXIT_FAILED      the command failed; the message says what and why
    5  EXIT_INCOMPLETE  done, but some information could not be read

The requested output goes to standard output, as a table for people or as JSON for programs (`-o json`). Everything
else, such as hints and what could not be read, goes to standard error. Colour is used on terminals only; NO_COLOR turns
it off there too (no-color.org).
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from ib_sriov_cni.doctor.facts import LOCK_FOLDER
from ib_sriov_cni.state.directory import DEFAULT_STATE_DIR

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.telemetry.log import Log

Function = TypeVar("Function", bound=Callable[..., Any])  # of a command, for decorators
EXIT_OK, EXIT_PROBLEM, EXIT_USAGE, EXIT_NOT_FOUND, EXIT_FAILED, EXIT_INCOMPLETE = 0, 1, 2, 3, 4, 5
OUTCOME_FAILED = "failed"  # of a release or a repair
# Without a terminal there is no line width: a table is as wide as its content.
UNLIMITED = 10_000
STATE_STYLES = {
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


# The error of rdma_netlink.Rdma() with EPROTONOSUPPORT, and what it means.
NO_RDMA_NETLINK = f"open RDMA netlink: {os.strerror(errno.EPROTONOSUPPORT)}"
NO_IB_CORE = "ib_core is not loaded: modprobe ib_core"


class Site:
    """Where a command looks and acts: this host, unless a test passes another root.

    `root` is prepended to every path of the host: sysfs, proc, the state directory, /etc, /run. Only tests set it, with
    `main(…, obj=Site(root=…))`; there is no option for it.
    """

    def __init__(self, root: str = "", *, environ: dict[str, str] | None = None) -> None:
        """Open nothing yet."""
        self.root = root
        self.environ = dict(os.environ) if environ is None else environ

    def path(self, path: str) -> str:
        """Return where this process finds a path of the host."""
        return f"{self.root}{path}"

    def open_host(self, *, state_dir: str = "", verbose: bool = False, log_file: str = "") -> Host:
        """Return the host; `verbose` logs each step to standard error."""
        from ib_sriov_cni.telemetry.log import Log

        level = "info" if verbose or log_file else "warning"
        return self.open_host_with(Log(level=level, path=log_file, context={"cmd": "cli"}), state_dir=state_dir)

    def open_host_with(self, log: Log, *, state_dir: str = "") -> Host:
        """Return the host, with a log of the caller's."""
        from ib_sriov_cni.attach.host import Host

        return Host(
            log=log,
            state_dir=state_dir or self.path(DEFAULT_STATE_DIR),
            lock_dir=self.path(LOCK_FOLDER),
            sysfs_root=self.path("/sys"),
            proc_root=self.path("/proc"),
        )


pass_site = click.make_pass_decorator(Site, ensure=True)


class Failure(click.ClickException):
    """Ends the command with a message and a hint."""

    def __init__(self, message: str, hint: str = "", *, status: int = EXIT_FAILED, code: int = 0) -> None:
        """`code` is that of the CNI error, if there is one (docs/configuration.md, Error codes)."""
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


def describe_os_error(fault: OSError) -> str:
    """Return the reason of an OSError, with its file name if it has one."""
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
    help=f"The state directory, if the configuration sets stateDir.  [default: {DEFAULT_STATE_DIR}]",
)
verbose_option = click.option("-v", "--verbose", is_flag=True, help="Log each step to standard error.")


def complete_from(words: Iterable[str]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Return a function for `shell_complete` that offers those of `words` that match."""
    offered = list(words)

    def complete(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        return [word for word in offered if word.startswith(incomplete)]

    return complete


# ---- printing


def printable(text: str) -> str:
    """Return the text with escapes for all that is not printable, except line ends and tabs.

    Names of interfaces are a pod's choice, and may hold sequences that a terminal obeys; so may damaged files.
    """
    if text.isprintable():
        return text
    return "".join([c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text])


def echo(text: str = "", *, err: bool = False) -> None:
    """Print a line of text, whatever is in it, to standard output or standard error."""
    click.echo(printable(text), err=err)


def open_console(file: Any = None) -> Console:
    """Return a rich console for a stream (default: standard output) that prints no control characters but its own."""
    from rich.console import Console
    from rich.segment import Segment

    class SafeConsole(Console):
        def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else segment._replace(text=printable(segment.text))

    stream = file or sys.stdout
    terminal = bool(getattr(stream, "isatty", lambda: False)())
    return SafeConsole(
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
    text = json.dumps(document, indent=2, ensure_ascii=False, default=str)
    # JSON leaves some control characters as they are, and unpaired surrogates cannot be written.
    click.echo("".join([c if c.isprintable() or c == "\n" else f"\\u{ord(c):04x}" for c in text]))


def make_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, fold: Sequence[str] | None = None) -> Table:
    """Return a plain table without lines, easy to read and to parse with awk. An empty cell shows as "-".

    `fold` names the columns that a narrow terminal may break into several lines; by default the last one.
    """
    from rich.table import Table
    from rich.text import Text

    prose = columns[-1:] if fold is None else fold
    listed = [list(row) for row in rows]
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column not in prose)
    for row in listed:
        table.add_row(*[Text(cell, style=state_style(cell)) if cell else Text("-", style="dim") for cell in row])
    return table


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, fold: Sequence[str] | None = None) -> None:
    """Print a plain table; with `fold=()` it runs over the edge of a narrow terminal and keeps its values whole."""
    print_rich(make_table(columns, rows, fold=fold), wide=fold is not None and not fold)


def drop_columns(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int, dispensable: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Drop columns, in the order of `dispensable`, until the rest is at most `width` wide."""
    kept = list(columns)
    for name in ("", *dispensable):
        kept = [column for column in kept if column != name]
        indices = [columns.index(column) for column in kept]
        widths = [max(len(columns[i]), *[len(row[i]) for row in rows], 1) for i in indices]
        if sum(widths) + 3 * (len(kept) - 1) <= width:
            break
    return kept, [[row[columns.index(column)] for column in kept] for row in rows]


def print_rich(*what: RenderableType, wide: bool = False) -> None:
    """Print to standard output, without rich's trailing blanks; with `wide`, wider than the terminal if need be."""
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


def state_style(word: str) -> str:
    """Return the style of a state's name, "" for any other word."""
    return STATE_STYLES.get(word.lower(), "")


def print_note(text: str) -> None:
    """Print to standard error."""
    echo(text, err=True)


def explain_unseen(unseen: Sequence[str]) -> list[str]:
    """Return what could not be read, with one line in place of all that are for want of ib_core."""
    lines = [NO_IB_CORE if NO_RDMA_NETLINK in what else what for what in unseen]
    return list(dict.fromkeys(lines))


def print_unseen(unseen: Sequence[str]) -> None:
    """Print what could not be read, to standard error."""
    for what in explain_unseen(unseen):
        print_note(what if what == NO_IB_CORE else f"could not read: {what}")


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def exit_with(status: int) -> NoReturn:
    """End the command with that status."""
    click.get_current_context().exit(status)


# ---- times


def render_age(since: float, now: float) -> str:
    """Return how long ago `since` was, in one unit or two: 45s, 12m, 3h12m, 5d4h."""
    seconds = max(0, int(now - since))
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days}d{hours}h" if hours else f"{days}d"
    if hours:
        return f"{hours}h{minutes}m" if minutes else f"{hours}h"
    return f"{minutes}m" if minutes else f"{seconds}s"


def render_time(since: float) -> str:
    """Return a Unix time as ISO 8601 in UTC, as in the log."""
    import time

    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(since))
