"""The command line as a person meets it (C2: without CNI_COMMAND help is shown, exit 0)."""

from __future__ import annotations

from click.testing import CliRunner

from ib_sriov_cni import __version__, cli


def test_without_arguments_it_says_what_it_is() -> None:
    result = CliRunner().invoke(cli.main, [], prog_name="ib-sriov")
    assert result.exit_code == 0
    assert "CNI plugin" in result.output
    assert "version" in result.output


def test_version() -> None:
    result = CliRunner().invoke(cli.main, ["version"])
    assert (result.exit_code, result.output) == (0, f"ib-sriov {__version__}\n")


def test_unknown_command_is_refused() -> None:
    result = CliRunner().invoke(cli.main, ["frobnicate"])
    assert result.exit_code == 2
    assert "frobnicate" in result.output
