"""The command line's reference, from its own help."""

from __future__ import annotations

import inspect
import re

import click

from ib_sriov_cni import cli
from ib_sriov_cni.cli.keys import render_reference

HEAD = """\
# The command line
`ib-sriov` called by hand, without CNI_COMMAND in the environment. This page is written by `make reference` from what
`--help` says.

Every command that reads or changes the node takes `-o json` for programs. The requested output goes to standard output,
everything else to standard error. A table that is piped is as wide as its content and has no colour; colour is used on
terminals only, and NO_COLOR turns it off there too. Most commands work without root as far as the kernel allows; they
name what could not be read, and then the exit status is 5.

| exit status | meaning |
|---|---|
| 0 | done, and nothing is wrong |
| 1 | something is wrong: a difference, an invalid configuration, a failed check |
| 2 | wrong usage |
| 3 | no attachment matches, or more than one does |
| 4 | the command failed; the message says what and why |
| 5 | done, but some information could not be read |
"""
TABLE = re.compile(r"\| key \| type; default \| meaning \|\n(?:\|.*\n)+")


def with_table(text: str) -> str:
    """Return docs/configuration.md with the table of keys in it."""
    return TABLE.sub(lambda _: render_reference(), text, count=1)


def render_cli() -> str:
    """Return the text of docs/cli.md."""
    parts = [HEAD]
    context = click.Context(cli.main, info_name="ib-sriov")
    for name in cli.main.list_commands(context):
        command = cli.main.get_command(context, name)
        assert command is not None
        parts += _command(command, context, name, "##")
    return "\n".join(parts)


def _command(command: click.Command, parent: click.Context, name: str, level: str) -> list[str]:
    context = click.Context(command, parent=parent, info_name=name)
    parts = [f"{level} {context.command_path}", _prose(command.help or "")]
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    parts.append(f"```\n{usage}\n```\n")
    options = [each for each in command.get_params(context) if isinstance(each, click.Option)]
    records = [record for each in options if (record := each.get_help_record(context)) is not None]
    rows = [f"| `{_cell(names)}` | {_cell(words)} |" for names, words in records if "--help" not in names]
    if rows:
        parts += ["\n".join(["| option | meaning |", "|---|---|", *rows]) + "\n"]
    parts.append(_prose(command.epilog or ""))
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            parts += _command(found, context, inner, level + "#")
    return [part for part in parts if part.strip()]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _prose(text: str) -> str:
    """Turn click's text into Markdown: a block marked with a backspace (no wrapping) stays as it is."""
    parts = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b"):
            parts.append("```\n" + inspect.cleandoc(paragraph[1:].strip("\n")) + "\n```")
        elif paragraph.strip():
            parts.append(paragraph.strip())
    return "\n\n".join(parts) + "\n"
