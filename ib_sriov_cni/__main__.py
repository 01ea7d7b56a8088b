"""Which face the program shows: CNI plugin, IPAM plugin, or command line."""

from __future__ import annotations

import os
import sys

IPAM_NAMES = ("ib-host-local", "host-local")


def main() -> int:
    """Choose by CNI_COMMAND and the name the program was called by; gives the exit status (C2)."""
    if os.path.basename(sys.argv[0]) in IPAM_NAMES:
        from ipam.plugin import main as serve_ipam

        return serve_ipam()
    if os.environ.get("CNI_COMMAND"):
        from ib_sriov_cni.cni import main as serve

        return serve()
    from ib_sriov_cni.cli import main as run_cli

    run_cli(prog_name="ib-sriov")
    return 0


if __name__ == "__main__":
    sys.exit(main())
