"""`ib-sriov config`: validate and explain network configurations of type ib-sriov, or print their JSON Schema."""

from __future__ import annotations

import json
import os
import sys

import click

from ib_sriov_cni.cli.documents import Configuration, read_configurations
from ib_sriov_cni.cli.keys import (
    BY_NAME,
    INNER_KEYS,
    KEYS,
    PROTOCOL_KEYS,
    RUNTIME_CONFIG_KEYS,
    find_nearest,
    make_schema,
)
from ib_sriov_cni.cli.operator_documents import POLICY_KIND
from ib_sriov_cni.cli.output import (
    EXIT_OK,
    EXIT_PROBLEM,
    EXIT_USAGE,
    Failure,
    Function,
    complete_from,
    describe_os_error,
    echo,
    exit_with,
    output_option,
    print_json,
    print_note,
    print_rich,
    print_table,
)
from ib_sriov_cni.cli.validation import compare_resources, list_effective, validate
from ib_sriov_cni.doctor.facts import PLUGIN
from ib_sriov_cni.state.node_defaults import DEFAULTS_FILE, read_node_defaults

EXAMPLES = """\
Examples:

\b
  ib-sriov config validate fabric.yaml
  ib-sriov config show fabric.yaml
  ib-sriov config explain link_state
  ib-sriov config schema > ib-sriov.schema.json
"""
FILE_TEXT = f"""\
FILE contains NetworkAttachmentDefinitions or CNI configurations (of one plugin or a list of plugins), as YAML or JSON,
in any number of documents; - reads standard input. Plugins of other types than {PLUGIN} are skipped. A SriovIBNetwork
is read as the definition that sriov-network-operator makes of it."""
VALIDATE_EXAMPLES = f"""\
{FILE_TEXT} Of a SriovNetworkNodePolicy for InfiniBand,
what matters to its pods is checked.

Examples:

\b
  ib-sriov config validate fabric.yaml
  ib-sriov config validate /etc/cni/net.d/*.conflist
  kubectl get net-attach-def -A -o yaml | ib-sriov config validate -
  kubectl get sriovibnetworks,sriovnetworknodepolicies -A -o yaml | ib-sriov config validate -

The exit status is 0 if an ADD would accept every configuration, 1 if one has an error or, with --strict, a warning.
"""


@click.group(epilog=EXAMPLES)
def command() -> None:
    """Validate, show and explain network configurations, or print their JSON Schema."""


def defaults_option(function: Function) -> Function:
    """Add the option --defaults to a command."""
    return click.option(
        "--defaults",
        "defaults_file",
        metavar="FILE",
        help=f"Node-wide defaults to apply.  [default: {DEFAULTS_FILE}, if it is there]",
    )(function)


def _read_defaults(path: str | None) -> dict[str, object]:
    if path is not None and not os.path.lexists(path):
        raise Failure(f"there is no file {path}", "pass a file with node-wide defaults, or leave --defaults out")
    return read_node_defaults(path or DEFAULTS_FILE)


def _read_and_validate(files: tuple[str, ...], defaults_file: str | None) -> list[Configuration]:
    defaults = _read_defaults(defaults_file)
    found: list[Configuration] = []
    for path in files:
        found += read_configurations(read_text(path), "standard input" if path == "-" else path)
    for each in found:
        if each.ours:
            validate(each, defaults)
    compare_resources(found)
    return found


@command.command("validate", short_help="Report what is wrong with a configuration.", epilog=VALIDATE_EXAMPLES)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--strict", is_flag=True, help="Treat warnings as errors.")
@click.option("-q", "--quiet", is_flag=True, help="Do not print the effective configuration.")
@defaults_option
@output_option
def validate_command(
    files: tuple[str, ...], *, strict: bool, quiet: bool, defaults_file: str | None, output: str
) -> None:
    """Report what is wrong with a configuration, and print it with all defaults.

    The parser is the one that every ADD uses. An unknown key gives a warning that names the most similar known key.
    """
    found = _read_and_validate(files, defaults_file)
    if output == "json":
        print_json({"configurations": [_make_document(each) for each in found]})
    else:
        for i, each in enumerate(found):
            if i:
                click.echo()
            _print_result(each, quiet=quiet)
    bad = any(each.faults or (strict and each.warnings) for each in found)
    if not bad and not any(each.ours or each.kind == POLICY_KIND for each in found):
        print_note(f"there is no configuration of type {PLUGIN}")
    exit_with(EXIT_PROBLEM if bad else EXIT_OK)


def read_text(path: str) -> str:
    """Return the text of a file, or of standard input for "-". Raises Failure."""
    try:
        if path == "-":
            return sys.stdin.read()
        with open(path, encoding="utf-8") as file:
            return file.read()
    except UnicodeDecodeError as fault:
        raise Failure(f"{path} is not UTF-8 text: {fault.reason}", "pass a file in JSON or YAML") from None
    except IsADirectoryError as fault:
        hint = f"pass the files in it: {path.rstrip('/')}/*"
        raise Failure(describe_os_error(fault), hint) from None
    except PermissionError as fault:
        raise Failure(describe_os_error(fault), "run as root, or change the file's mode") from None
    except OSError as fault:
        raise Failure(describe_os_error(fault), "pass a file that exists, or - for standard input") from None


def _print_result(found: Configuration, *, quiet: bool) -> None:
    from rich.text import Text

    judged = found.ours or found.kind == POLICY_KIND
    verdict = ("invalid", "bold red") if found.faults else ("valid", "green") if judged else ("skipped", "dim")
    name = f"  network {found.name}" if found.name else ""
    plugin = f"  type {found.plugin}" if found.plugin and not found.ours else ""
    print_rich(Text.assemble((f"{found.place}: ", "bold"), verdict, name, plugin))
    for fault in found.faults:
        print_rich(Text.assemble(("  error    ", "bold red"), fault))
    for warning in found.warnings:
        print_rich(Text.assemble(("  warning  ", "yellow"), warning))
    if not quiet:
        _print_effective(found)


def _print_effective(found: Configuration) -> None:
    rows = [(f"  {key}", value, source) for key, value, source in list_effective(found)]
    if rows:
        click.echo()
        print_table(("  KEY", "VALUE", "FROM"), rows, fold=("VALUE",))


def _make_document(found: Configuration) -> dict[str, object]:
    rows = list_effective(found)
    return {
        "place": found.place,
        "network": found.name or None,
        "type": found.plugin or None,
        "ok": not found.faults,
        "faults": found.faults,
        "warnings": found.warnings,
        "effective": {key: {"value": value, "from": source} for key, value, source in rows} or None,
    }


SHOW_EXAMPLES = f"""\
{FILE_TEXT}

Examples:

\b
  ib-sriov config show fabric.yaml
  ib-sriov config show --defaults defaults.json fabric.yaml
  kubectl get sriovibnetworks -A -o yaml | ib-sriov config show -

The exit status is 1 if a configuration has an error.
"""


@command.command("show", short_help="Print a configuration as the plugin gets it.", epilog=SHOW_EXAMPLES)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@defaults_option
@output_option
def show_command(files: tuple[str, ...], *, defaults_file: str | None, output: str) -> None:
    """Print a configuration as the plugin gets it, with the node-wide defaults, and where each value is from."""
    found = [each for each in _read_and_validate(files, defaults_file) if each.ours or each.faults]
    if output == "json":
        print_json({"configurations": [{**_make_document(each), "conf": each.effective or None} for each in found]})
    else:
        for i, each in enumerate(found):
            if i:
                click.echo()
            _print_result(each, quiet=True)
            if each.effective:
                echo(json.dumps(each.effective, indent=2, ensure_ascii=False))
            _print_effective(each)
    if not found:
        print_note(f"there is no configuration of type {PLUGIN}")
    exit_with(EXIT_PROBLEM if any(each.faults for each in found) else EXIT_OK)


EXPLAIN_EXAMPLES = """\
Examples:

\b
  ib-sriov config explain
  ib-sriov config explain pkey
  ib-sriov config explain -o json
"""


@command.command("explain", short_help="Explain one key, or all of them.", epilog=EXPLAIN_EXAMPLES)
@click.argument("key", required=False, shell_complete=complete_from([*BY_NAME, *PROTOCOL_KEYS, *INNER_KEYS]))
@output_option
def explain_command(key: str | None, output: str) -> None:
    """Explain one key of a configuration, or all of them."""
    if key is not None and (
        key.startswith("args.cni") or key in [f"runtimeConfig.{name}" for name in RUNTIME_CONFIG_KEYS]
    ):
        key = key.partition(".")[0]
    known = [*BY_NAME, *PROTOCOL_KEYS, *INNER_KEYS]
    if key is not None and key not in known:
        near = find_nearest(key, known)
        hint = f"did you mean {near}?" if near else "`ib-sriov config explain` lists all keys"
        raise Failure(f"{key} is not a key of a configuration of type {PLUGIN}", hint, status=EXIT_USAGE)
    documents = {
        each.name: {
            "type": _strip_markup(each.type_text),
            "default": _strip_markup(each.default),
            "meaning": _strip_markup(each.meaning),
            "example": each.example,
        }
        for each in KEYS
    }
    documents |= {name: {"meaning": _strip_markup(text)} for name, text in PROTOCOL_KEYS.items()}
    if key in INNER_KEYS:
        documents[key] = {"meaning": _strip_markup(INNER_KEYS[key])}
    if output == "json":
        print_json(documents if key is None else documents[key])
        return
    if key is None:
        columns = ("type", "default", "meaning")
        rows = [(name, *[each.get(column, "") for column in columns]) for name, each in documents.items()]
        print_table(("KEY", "TYPE", "DEFAULT", "MEANING"), rows, fold=("TYPE", "DEFAULT", "MEANING"))
        return
    found = documents[key]
    echo(f"{key}: {found['meaning']}")
    for name in ("type", "default"):
        if name in found:
            echo(f"  {name:<8} {found[name]}")
    if "example" in found:
        echo(f'  example  "{key}": {found["example"]}')


def _strip_markup(text: str) -> str:
    """Return a text of the reference without its Markdown."""
    import re

    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text).replace("`", "")


SCHEMA_EXAMPLES = """\
Editors can use it: for the YAML language server, make this the first line of a file.

\b
  # yaml-language-server: $schema=ib-sriov.schema.json

Examples:

\b
  ib-sriov config schema > ib-sriov.schema.json
"""


@command.command("schema", short_help="Print the JSON Schema (2020-12).", epilog=SCHEMA_EXAMPLES)
def schema_command() -> None:
    """Print the JSON Schema (2020-12) of a configuration.

    It accepts what the parser accepts of keys in their usual case. It cannot express that 1.0 is not an integer, or
    what host-local computes from its ranges.
    """
    print_json(make_schema())
