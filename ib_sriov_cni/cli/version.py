"""`ib-sriov version`: the versions of this program and its dependencies."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata

import click

from ib_sriov_cni import __version__
from ib_sriov_cni.cli.output import output_option, print_json
from ipam.protocol.versions import VERSIONS

EXAMPLES = """\
Examples:

\b
  ib-sriov version
  ib-sriov version -o json
"""


@click.command(epilog=EXAMPLES)
@output_option
def command(output: str) -> None:
    """Print the versions of this program and its dependencies.

    For a bug report, use -o json, which prints them all.
    """
    if output == "table":
        click.echo(f"ib-sriov {__version__}")
        return
    print_json(
        {
            "ib-sriov": __version__,
            "cniVersions": list(VERSIONS),
            "python": platform.python_version(),
            "pyroute2": _version("pyroute2"),
            "pyverbs": _pyverbs(),
            "click": _version("click"),
            "rich": _version("rich"),
            "PyYAML": _version("PyYAML"),
            "kernel": os.uname().release,
            "machine": os.uname().machine,
            "packed": bool(getattr(sys, "frozen", False)),
        }
    )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None  # for example, packed into one file


def _pyverbs() -> str | None:
    """Return pyverbs' version, which in distributions is rdma-core's; pyverbs built by hand has none."""
    try:
        found = metadata.version("pyverbs")
    except metadata.PackageNotFoundError:
        import importlib.util

        return "unknown version" if importlib.util.find_spec("pyverbs") else None
    return found
