"""The command line, for people: what `ib-sriov` answers when no runtime has called it (C2).

May import everything. A command is a module of this package whose `command` is a click command. It is imported when
it is called, and what `ib-sriov --help` says of it stands in the table here, so that neither waits for the others.
"""

from __future__ import annotations

import importlib

import click

from ib_sriov_cni import __version__
from ib_sriov_cni.cli.output import Failure, Site, error_of
from ib_sriov_cni.core.errors import CniError

ABOUT = """\
Gives a Kubernetes pod an InfiniBand virtual function.

This program is a CNI plugin: a container runtime or Multus calls it with CNI_COMMAND in the
environment and a network configuration of type ib-sriov on standard input. Called by hand, it
offers the commands below.
"""
STATUSES = """\
\b
Exit statuses, for scripts:
  0  done, and nothing is wrong
  1  something is wrong: a difference, a fault of a configuration, a failed check
  2  wrong usage
  3  there is no such attachment, or more than one
  4  it could not be done: the message says what refused and why
  5  done, but not everything could be seen (usually: run it as root)

Examples:

\b
  ib-sriov list
  ib-sriov show worker-0
  ib-sriov repair --dry-run
"""

# The one list of commands: name, module of this package, what the overview says of it.
COMMANDS: dict[str, tuple[str, str]] = {
    "doctor": ("doctor", "Look at everything that must be right on a node, and say what to do."),
    "list": ("listing", "List PFs and VFs, and which pod holds which."),
    "show": ("show", "Show one attachment: its record, what the kernel has, and any difference."),
    "watch": ("watch", "Watch PFs, VFs and attachments as they change."),
    "check": ("check", "Check attachments: interface, addresses, routes, GUIDs, link state, RDMA device, reservation."),
    "gc": ("gc", "Release what dead attachments hold: VFs, addresses, records."),
    "repair": ("repair", "Put right what can be put right, and name what cannot."),
    "add": ("add", "Attach a VF to a network namespace or a running container."),
    "del": ("delete", "Detach what was attached by hand: the VF comes home as it was."),
    "config": ("config", "Validate, explain and describe network configurations."),
    "install": ("install", "Put this program into the folder of CNI plugins."),
    "agent": ("agent", "Heal what no container runtime asks for."),
    "completion": ("completion", "Print the completion script of a shell."),
    "version": ("version", "Print the versions of this program and of what it stands on."),
}


class Program(click.Group):
    """A group that imports a command when it is asked for, and tells refusals as the commands' own failures."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """Give the names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # as above
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"ib_sriov_cni.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # as above
        """Write the overview from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; what refused becomes a message and an exit status."""
        try:
            return super().invoke(ctx)
        except CniError as fault:
            raise Failure(fault.msg, fault.details, code=fault.code) from None
        except OSError as fault:
            # BrokenPipeError is click's: whoever reads has seen enough.
            if isinstance(fault, BrokenPipeError):
                raise
            raise Failure(error_of(fault), "") from None


@click.group(cls=Program, name="ib-sriov", help=ABOUT, epilog=STATUSES, invoke_without_command=True)
@click.version_option(__version__, prog_name="ib-sriov", message="%(prog)s %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    context.ensure_object(Site)
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
