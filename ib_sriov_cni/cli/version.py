"""`ib-sriov version`: the versions of this program and its dependencies."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata

import click

from ib_sriov_cni import __version__
from ib_sriov_cni.cli.output import echo, output_option, print_json
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

    `ib-sriov --version` prints only the program's own. Please add this output to a bug report.
    """
    document = {
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
    if output == "json":
        print_json(document)
        return
    for name, found in {
        **document,
        "cniVersions": " ".join(VERSIONS),
        "packed": "yes" if document["packed"] else "no",
    }.items():
        echo(f"{name:<11} {found or 'unknown'}")


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
