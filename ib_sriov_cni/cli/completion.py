"""`ib-sriov completion`: the script that makes a shell complete commands, options and attachments."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from ib_sriov_cni.cli.output import Failure

EXAMPLES = """\
Examples:

\b
  bash:  ib-sriov completion bash > /etc/bash_completion.d/ib-sriov
  zsh:   ib-sriov completion zsh > "${fpath[1]}/_ib-sriov"
  fish:  ib-sriov completion fish > ~/.config/fish/completions/ib-sriov.fish

For the current shell only: eval "$(ib-sriov completion bash)"
"""


@click.command(epilog=EXAMPLES)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script for a shell."""
    kind = get_completion_class(shell)
    if kind is None:  # click has all three
        raise Failure(f"click has no completion for {shell}")
    # Not .source(), which would start a bash to ask for its version.
    completion = kind(context.find_root().command, {}, "ib-sriov", "_IB_SRIOV_COMPLETE")
    click.echo(completion.source_template % completion.source_vars())
