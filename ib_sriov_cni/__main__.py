"""Which face the program shows: CNI plugin, IPAM plugin, or command line."""

from __future__ import annotations

import sys

IPAM_NAMES = ("ib-host-local", "host-local")


def main() -> int:
    """Choose by CNI_COMMAND and the name the program was called by; gives the exit status (C2)."""
    from posix import environ  # os would be most of what VERSION loads

    command = environ.get(b"CNI_COMMAND")
    if sys.argv[0].rpartition("/")[2] in IPAM_NAMES:
        from ipam.host_local.plugin import main as serve_ipam

        return serve_ipam()
    if command:
        from ib_sriov_cni.cni import main as serve

        return serve()
    from ib_sriov_cni.cli import main as run_cli

    run_cli(prog_name="ib-sriov")
    return 0


def run() -> None:
    """Be the process's program: serve it and end it.

    A CNI call ends at once: there is nothing that the end of an interpreter would have to tidy, and it takes longer
    than some calls. Nor is there enough made in one for a search for cycles to find anything.
    """
    from posix import _exit, environ

    if not environ.get(b"CNI_COMMAND"):
        sys.exit(main())
    import gc

    gc.disable()
    _exit(main())


if __name__ == "__main__":
    run()
