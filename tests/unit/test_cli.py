"""The command line as a user sees it (C2: without CNI_COMMAND help is shown, exit 0)."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from ib_sriov_cni import __version__, cli
from ib_sriov_cni.cli import output
from ib_sriov_cni.core.errors import CniError, KernelRefused
from ipam.protocol.request import parse_request
from tests.tools.helptext import render_cli

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))


def get_command(name: str) -> click.Command:
    command = cli.main.get_command(click.Context(cli.main), name)
    assert command is not None
    return command


def test_without_arguments_it_says_what_it_is() -> None:
    result = CliRunner().invoke(cli.main, [], prog_name="ib-sriov")
    assert result.exit_code == 0
    assert "CNI plugin" in result.output
    assert all(name in result.output for name in cli.COMMANDS)


def test_unknown_command_is_refused() -> None:
    result = CliRunner().invoke(cli.main, ["frobnicate"])
    assert result.exit_code == 2
    assert "there is no command 'frobnicate'\n" in result.output
    result = CliRunner().invoke(cli.main, ["lsit"])
    assert result.exit_code == 2
    assert "there is no command 'lsit'; did you mean list?" in result.output


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_has_help_that_the_overview_quotes_and_examples(name: str) -> None:
    result = CliRunner().invoke(cli.main, [name, "--help"], prog_name="ib-sriov")
    assert result.exit_code == 0
    assert cli.COMMANDS[name][1] in " ".join(result.output.split())
    assert f"ib-sriov {name}" in result.output.partition("Examples:")[2]


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_the_overview_and_the_command_say_the_same(name: str) -> None:
    summary = cli.COMMANDS[name][1]
    assert (get_command(name).help or "").startswith(summary)
    assert summary.endswith(".")


def test_the_overview_imports_no_command() -> None:
    code = (
        "import sys\nfrom ib_sriov_cni.cli import main\n"
        "try:\n    main(['--help'], prog_name='ib-sriov')\nexcept SystemExit:\n    pass\n"
        "sys.stderr.write(' '.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Commands:" in done.stdout
    modules = set(done.stderr.split())
    assert not modules & {"rich", "yaml", "pyroute2", "ib_sriov_cni.attach.host", "ib_sriov_cni.attach"}
    assert {name for name in modules if name.startswith("ib_sriov_cni.cli.")} == {"ib_sriov_cni.cli.output"}


def test_version() -> None:
    result = CliRunner().invoke(cli.main, ["version"])
    assert result.exit_code == 0
    rows = dict(line.split(maxsplit=1) for line in result.output.splitlines())
    assert rows["ib-sriov"] == __version__
    assert rows["cniVersions"].startswith("0.1.0 ")
    assert rows["kernel"] == os.uname().release
    result = CliRunner().invoke(cli.main, ["--version"], prog_name="ib-sriov")
    assert (result.exit_code, result.output) == (0, f"ib-sriov {__version__}\n")


def test_version_for_programs_names_what_it_stands_on() -> None:
    result = CliRunner().invoke(cli.main, ["version", "-o", "json"])
    assert result.exit_code == 0
    found = json.loads(result.output)
    assert found["ib-sriov"] == __version__
    assert found["kernel"] == os.uname().release
    assert found["python"] == ".".join(str(part) for part in sys.version_info[:3])
    assert found["pyroute2"].startswith("0.")
    assert found["pyverbs"]


@pytest.mark.parametrize(
    ("shell", "word"), [("bash", "complete -o nosort"), ("zsh", "#compdef ib-sriov"), ("fish", "complete --no-files")]
)
def test_completion_prints_a_script(shell: str, word: str) -> None:
    result = CliRunner().invoke(cli.main, ["completion", shell])
    assert result.exit_code == 0
    assert word in result.output
    assert "_IB_SRIOV_COMPLETE" in result.output


def test_completion_completes() -> None:
    """Completion answers the request that the bash script sends."""
    environ = {**os.environ, "_IB_SRIOV_COMPLETE": "bash_complete", "COMP_WORDS": "ib-sriov ver", "COMP_CWORD": "1"}
    command = [sys.executable, "-m", "ib_sriov_cni"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["plain,version"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((0, "0s"), (59.9, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h"), (3660, "1h1m"), (86400, "1d")),
        *((90000, "1d1h"), (-5, "0s")),
    ],
)
def test_how_long_ago(seconds: float, words: str) -> None:
    assert output.render_age(1000.0, 1000.0 + seconds) == words


def test_without_ib_core_it_says_so() -> None:
    refusal = KernelRefused("open", "RDMA netlink", errno.EPROTONOSUPPORT, details="x")
    assert output.explain_unseen([f"the RDMA namespace mode: {refusal.msg}", f"a: {refusal}", "b"]) == [
        "ib_core is not loaded: modprobe ib_core",
        "b",
    ]
    denied = KernelRefused("open", "RDMA netlink", errno.EPERM)
    assert output.explain_unseen([denied.msg]) == [denied.msg]


@pytest.mark.parametrize(("number", "said"), [(errno.EPROTONOSUPPORT, "modprobe ib_core"), (errno.EPERM, "advice")])
def test_an_error_for_want_of_ib_core(number: int, said: str) -> None:
    @click.command()
    def refused() -> None:
        raise KernelRefused("open", "RDMA netlink", number, details="advice")

    class Refusing(cli.Program):
        def get_command(self, *_: object) -> click.Command:
            return refused

    result = CliRunner().invoke(Refusing(), ["list"])
    assert result.exit_code == output.EXIT_FAILED
    assert f"what to do: {said}" in result.output
    assert ("ib_core is not loaded (code 102)" in result.output) == (number == errno.EPROTONOSUPPORT)


@pytest.mark.parametrize(
    ("environ", "stdin", "said"),
    [
        ({"CNI_COMMAND": ""}, b"{}", "required environment variables missing: CNI_COMMAND"),
        ({"CNI_IFNAME": ""}, b"{}", "required environment variables missing: CNI_IFNAME"),
        ({"CNI_IFNAME": "a/b"}, b"{}", "contains '/'"),
        ({"CNI_NETNS": "netns"}, b"{}", "CNI_NETNS 'netns' is not an absolute path"),
        ({"CNI_ARGS": "x"}, b'{"name": "n"}', "does not have the form K=V"),
        ({}, b" ", "standard input is not JSON: it is empty"),
    ],
)
def test_what_a_person_who_plays_the_runtime_is_told(environ: dict[str, str], stdin: bytes, said: str) -> None:
    whole = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_IFNAME": "net1", "CNI_PATH": "/x", "CNI_NETNS": "/n"}
    with pytest.raises(CniError) as caught:
        parse_request({**whole, **environ}, stdin, known_args=frozenset())
    assert said in caught.value.msg
    assert caught.value.details == "the runtime sets these; by hand, use `ib-sriov add`"


def test_a_relative_netns_does_not_stop_a_del() -> None:
    environ = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c", "CNI_IFNAME": "net1", "CNI_PATH": "/x", "CNI_NETNS": "n"}
    assert parse_request(environ, b'{"name": "n"}', known_args=frozenset()).netns == "n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_is_for_terminals_that_want_it() -> None:
    def painted(stream: io.StringIO, environ: dict[str, str]) -> bool:
        code = "[red]x[/]"
        saved = dict(os.environ)
        os.environ.update(environ)
        try:
            output.open_console(stream).print(code)
        finally:
            os.environ.clear()
            os.environ.update(saved)
        return "\x1b[31m" in stream.getvalue()

    terminal = {"TERM": "xterm-256color", "NO_COLOR": ""}
    assert painted(Terminal(), terminal)
    assert not painted(Terminal(), {**terminal, "NO_COLOR": "1"})
    assert not painted(io.StringIO(), {**terminal, "FORCE_COLOR": "1"})


def test_columns_are_left_out_until_the_rest_fits() -> None:
    columns, rows = ("A", "B", "C"), [["a" * 10, "b" * 10, "c" * 10], ["x", "", ""]]
    assert output.drop_columns(columns, rows, 36, ("B", "C")) == (["A", "B", "C"], rows)
    assert output.drop_columns(columns, rows, 35, ("B", "C"))[0] == ["A", "C"]
    assert output.drop_columns(columns, rows, 5, ("B", "C")) == (["A"], [["a" * 10], ["x"]])
    assert output.drop_columns(columns, [], 80, ("B",)) == (["A", "B", "C"], [])


def test_a_table_that_is_piped_is_as_wide_as_what_is_in_it() -> None:
    @click.command()
    def command() -> None:
        output.print_table(("NAME", "WORDS"), [("a" * 300, "long " * 40), ("b", "")])

    lines = CliRunner().invoke(command).output.splitlines()
    assert len(lines) == 3
    assert lines[0].split() == ["NAME", "WORDS"]
    assert lines[2].split() == ["b", "-"]
    assert not any(line.endswith(" ") for line in lines)


def test_the_reference_is_current() -> None:
    with open(os.path.join(ROOT, "docs/cli.md"), encoding="utf-8") as file:
        assert file.read() == render_cli(), "docs/cli.md is not what --help says: make reference"


def test_no_command_hides_a_builtin() -> None:
    """A submodule becomes a name in its package, so one called `list` would hide the builtin."""
    import builtins

    modules = {module for module, _ in cli.COMMANDS.values()}
    assert modules & set(dir(builtins)) == set()
