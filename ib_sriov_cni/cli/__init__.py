"""The face for people: what `ib-sriov` answers when no runtime has called it (C2)."""

from __future__ import annotations

import click

from ib_sriov_cni import __version__

ABOUT = """\
Gives a Kubernetes pod an InfiniBand virtual function.

This program is a CNI plugin: a container runtime or Multus calls it with CNI_COMMAND in the
environment and a network configuration of type ib-sriov on standard input. Called by hand, it
offers the commands below.
"""


@click.group(name="ib-sriov", help=ABOUT, invoke_without_command=True)
@click.pass_context
def main(context: click.Context) -> None:
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@main.command()
def version() -> None:
    """Print the version of this program."""
    click.echo(f"ib-sriov {__version__}")
