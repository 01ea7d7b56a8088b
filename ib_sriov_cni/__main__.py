"""Entry point of all three: the CNI plugin, the IPAM plugin and the command line."""

from __future__ import annotations

import sys

IPAM_NAMES = ("ib-host-local", "host-local")


def main() -> int:
    """Run one of the three, chosen by the program's name and CNI_COMMAND (C2). Returns the exit status."""
    from posix import environ  # importing os would be most of what VERSION costs

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


def open_standard_streams() -> None:
    """Open /dev/null in place of closed standard streams, so that no other file gets their numbers and their output.

    Reading and writing still fail as with a closed stream (EBADF). The packed program has done this already.
    """
    from posix import O_RDONLY, O_WRONLY, fstat
    from posix import open as open_file

    for fd in range(3):
        try:
            fstat(fd)
        except OSError:
            open_file("/dev/null", O_RDONLY if fd else O_WRONLY)


def run() -> None:
    """Run the program and exit.

    A CNI call skips the interpreter's shutdown, which takes longer than some calls and has nothing to clean up. It
    also runs without the garbage collector: one call is too short to leave anything worth collecting.
    """
    from posix import _exit, environ

    open_standard_streams()
    if not environ.get(b"CNI_COMMAND"):
        sys.exit(main())
    import gc

    gc.disable()
    _exit(main())


if __name__ == "__main__":
    run()
