"""`ib-sriov config`: network configurations of type ib-sriov, validated, explained, and as a JSON Schema."""

from __future__ import annotations

import sys

import click

from ib_sriov_cni.cli.documents import OURS, Found, effective, read_configurations, validate
from ib_sriov_cni.cli.keys import BY_NAME, KEYS, PROTOCOL, make_schema, nearest
from ib_sriov_cni.cli.output import (
    FAILED,
    FOUND,
    NO_SUCH,
    OK,
    Failure,
    error_of,
    finish,
    note,
    output_option,
    print_json,
    print_table,
    show,
)

EXAMPLES = """\
Examples:

\b
  ib-sriov config validate fabric.yaml
  ib-sriov config explain link_state
  ib-sriov config schema > ib-sriov.schema.json
"""
VALIDATE_EXAMPLES = f"""\
FILE is a NetworkAttachmentDefinition or a CNI configuration (a plugin's or a list of plugins), as YAML or JSON, with
any number of documents; - reads standard input. Plugins of another type than {OURS} are passed over.

Examples:

\b
  ib-sriov config validate fabric.yaml
  ib-sriov config validate /etc/cni/net.d/*.conflist
  kubectl get net-attach-def -A -o yaml | ib-sriov config validate -

The exit status is 0 if an ADD would take every configuration, 1 if one has a fault or, with --strict, a warning.
"""


@click.group(epilog=EXAMPLES)
def command() -> None:
    """Validate, explain and describe network configurations."""


@command.command("validate", epilog=VALIDATE_EXAMPLES)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--strict", is_flag=True, help="Warnings count as faults.")
@click.option("-q", "--quiet", is_flag=True, help="Do not print the effective configuration.")
@output_option
def validate_command(files: tuple[str, ...], *, strict: bool, quiet: bool, output: str) -> None:
    """Say what is wrong with a configuration, and what it comes to with defaults.

    The parser is the one that every ADD uses. Keys that nobody reads are warned of, with the nearest known one.
    """
    found: list[Found] = []
    for path in files:
        found += read_configurations(read_text(path), "standard input" if path == "-" else path)
    for each in found:
        if each.ours:
            validate(each)
    if output == "json":
        print_json({"configurations": [_document(each) for each in found]})
    else:
        for i, each in enumerate(found):
            if i:
                click.echo()
            _print(each, quiet=quiet)
    bad = any(each.faults or (strict and each.warnings) for each in found)
    if not bad and not any(each.ours for each in found):
        note(f"there is no configuration of type {OURS} in it")
    finish(FOUND if bad else OK)


def read_text(path: str) -> str:
    """Read a file, or standard input for "-"."""
    try:
        if path == "-":
            return sys.stdin.read()
        with open(path, encoding="utf-8") as file:
            return file.read()
    except UnicodeDecodeError as fault:
        raise Failure(f"{path}: it is no text (UTF-8): {fault.reason}", status=FAILED) from None
    except OSError as fault:
        raise Failure(error_of(fault), status=FAILED) from None


def _print(found: Found, *, quiet: bool) -> None:
    from rich.text import Text

    verdict = ("fault", "bold red") if found.faults else ("fine", "green") if found.ours else ("passed over", "dim")
    name = f"  network {found.name}" if found.name else ""
    plugin = f"  type {found.plugin}" if found.plugin and not found.ours else ""
    show(Text.assemble((f"{found.place}: ", "bold"), verdict, name, plugin))
    for fault in found.faults:
        show(Text.assemble(("  fault    ", "bold red"), fault))
    for warning in found.warnings:
        show(Text.assemble(("  warning  ", "yellow"), warning))
    if found.parsed is not None and not found.faults and not quiet:
        click.echo()
        rows = effective(found.parsed, found.conf)
        table = [(f"  {key}", words, source) for key, words, source in rows]
        print_table(("  KEY", "VALUE", "FROM"), table, fold=("VALUE",))


def _document(found: Found) -> dict[str, object]:
    rows = effective(found.parsed, found.conf) if found.parsed is not None and not found.faults else []
    return {
        "place": found.place,
        "network": found.name or None,
        "type": found.plugin or None,
        "ok": not found.faults,
        "faults": found.faults,
        "warnings": found.warnings,
        "effective": {key: {"value": words, "from": source} for key, words, source in rows} or None,
    }


EXPLAIN_EXAMPLES = """\
Examples:

\b
  ib-sriov config explain
  ib-sriov config explain pkey
  ib-sriov config explain -o json
"""


def _complete(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in [*BY_NAME, *PROTOCOL] if name.startswith(incomplete)]


@command.command("explain", epilog=EXPLAIN_EXAMPLES)
@click.argument("key", required=False, shell_complete=_complete)
@output_option
def explain_command(key: str | None, output: str) -> None:
    """Explain every key of a configuration, or one."""
    if key is not None and key not in BY_NAME and key not in PROTOCOL:
        near = nearest(key, [*BY_NAME, *PROTOCOL])
        hint = f"is {near} meant?" if near else "`ib-sriov config explain` lists them all"
        raise Failure(f"{key} is no key of a configuration of type {OURS}", hint, status=NO_SUCH)
    documents = {
        each.name: {
            "type": _plain(each.words),
            "default": _plain(each.default),
            "meaning": _plain(each.meaning),
            "example": each.example,
        }
        for each in KEYS
    }
    documents |= {name: {"meaning": _plain(words)} for name, words in PROTOCOL.items()}
    if output == "json":
        print_json(documents if key is None else documents[key])
        return
    if key is None:
        columns = ("type", "default", "meaning")
        rows = [(name, *[each.get(column, "") for column in columns]) for name, each in documents.items()]
        print_table(("KEY", "TYPE", "DEFAULT", "MEANING"), rows, fold=("TYPE", "DEFAULT", "MEANING"))
        return
    found = documents[key]
    click.echo(f"{key}: {found['meaning']}")
    for name in ("type", "default"):
        if name in found:
            click.echo(f"  {name:<8} {found[name]}")
    if "example" in found:
        click.echo(f'  example  "{key}": {found["example"]}')


def _plain(words: str) -> str:
    """Say a text of the reference without its marks."""
    import re

    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", words).replace("`", "")


SCHEMA_EXAMPLES = """\
Editors take it: for the YAML language server, put this into the first line of a file.

\b
  # yaml-language-server: $schema=ib-sriov.schema.json

Examples:

\b
  ib-sriov config schema > ib-sriov.schema.json
"""


@command.command("schema", epilog=SCHEMA_EXAMPLES)
def schema_command() -> None:
    """Print the JSON Schema (2020-12) of a configuration.

    It takes what the parser takes. What it cannot say: that 1.0 is no whole number, and what host-local computes from
    its ranges.
    """
    print_json(make_schema())
