"""The command line: what `ib-sriov` does when it is called by hand, not by a runtime (C2).

May import everything. Each command is a module of this package whose `command` is a click command. It is imported only
when it is called, and its summary for `ib-sriov --help` is in the table here, so that neither waits for other commands.
"""

from __future__ import annotations

import importlib

import click

from ib_sriov_cni import __version__
from ib_sriov_cni.cli.output import NO_RDMA_NETLINK, Failure, Site, describe_os_error
from ib_sriov_cni.core.errors import CniError
from ipam.protocol.bug_report import describe_defect

ABOUT = """\
Gives a Kubernetes pod an InfiniBand virtual function.

This program is a CNI plugin: a container runtime or Multus calls it with CNI_COMMAND in the
environment and a network configuration of type ib-sriov on standard input. By hand, call it
with one of the commands below.
"""
EPILOG = """\
\b
Exit statuses, for scripts:
  0  done, and nothing is wrong
  1  something is wrong: a difference, an invalid configuration, a failed check
  2  wrong usage
  3  no attachment matches, or more than one does
  4  the command failed; the message says what and why
  5  done, but some information could not be read (usually: run it as root)

Examples:

\b
  ib-sriov list
  ib-sriov show worker-0
  ib-sriov repair --dry-run
"""

# All commands: name, module of this package, summary in the overview.
COMMANDS: dict[str, tuple[str, str]] = {
    "doctor": ("doctor", "Check everything that must be right on a node, and say what to do."),
    "list": ("listing", "List PFs and VFs, and which pod holds which."),
    "show": ("show", "Show one attachment: its record, the state in the kernel, and any difference."),
    "watch": ("watch", "Watch PFs, VFs and attachments as they change."),
    "check": ("check", "Check attachments: interface, addresses, routes, GUIDs, link state, RDMA device, reservation."),
    "gc": ("gc", "Release what dead attachments still hold: VFs, addresses, records."),
    "repair": ("repair", "Repair what can be repaired, and list what cannot."),
    "add": ("add", "Attach a VF to a network namespace or a running container."),
    "del": ("delete", "Detach what was attached by hand, and restore the VF."),
    "config": ("config", "Validate, show and explain network configurations, or print their JSON Schema."),
    "install": ("install", "Install this program into the folder of CNI plugins."),
    "agent": ("agent", "Run the node agent, which releases dead attachments and repairs live ones."),
    "completion": ("completion", "Print the completion script for a shell."),
    "version": ("version", "Print the versions of this program and its dependencies."),
}


class Program(click.Group):
    """A group that imports a command when it is called, and reports CniError and OSError like a Failure."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """Return the names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # as above
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"ib_sriov_cni.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the most similar command if there is none of that name."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            import difflib

            near = difflib.get_close_matches(name.lower(), COMMANDS, n=1)
            ctx.fail(f"there is no command {name!r}" + (f"; did you mean {near[0]}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # as above
        """Write the overview from the table, without importing the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; turn an error into a message and an exit status."""
        try:
            return super().invoke(ctx)
        except CniError as fault:
            if NO_RDMA_NETLINK in fault.msg:
                raise Failure("ib_core is not loaded", "modprobe ib_core", code=fault.code) from None
            raise Failure(fault.msg, fault.details, code=fault.code) from None
        except OSError as fault:
            # click handles BrokenPipeError: the reader of the output has closed it.
            if isinstance(fault, BrokenPipeError):
                raise
            raise Failure(describe_os_error(fault), "") from None
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as fault:  # noqa: BLE001  # the one place that reports a defect
            words = f"internal fault: {describe_defect(fault)}"
            raise Failure(words, "this is a bug of ib-sriov: please report this line") from None


@click.group(cls=Program, name="ib-sriov", help=ABOUT, epilog=EPILOG, invoke_without_command=True)
@click.version_option(__version__, prog_name="ib-sriov", message="%(prog)s %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    context.ensure_object(Site)
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
