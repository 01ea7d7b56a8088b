"""A cluster that stays, for whoever writes its tests: `python -m tests.cluster.full.stay`, as root.

It boots the cluster, then reads lines of pytest's arguments from stdin, and runs each against it with the tests and the
modules of tests/cluster as they are then. `!` and a line of Python is run with `cluster`; the end of stdin ends it.
"""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cluster.full.cluster import FullCluster

RUNNING: pytest.StashKey[FullCluster] = pytest.StashKey()
"""Where the tests find a cluster that runs already."""


class Running:
    """A plugin of pytest that knows the cluster."""

    def __init__(self, cluster: FullCluster) -> None:
        self.cluster = cluster

    def pytest_configure(self, config: pytest.Config) -> None:
        from tests.cluster.full.stay import RUNNING as KEY

        config.stash[KEY] = self.cluster


def forget_modules() -> None:
    for name in [name for name in sys.modules if name.startswith(("tests.cluster.", "tests.lab."))]:
        del sys.modules[name]


def renew(cluster: FullCluster) -> None:
    """Give the cluster and its parts their classes as they are now."""
    forget_modules()
    from tests.cluster.control import ControlPlane
    from tests.cluster.full.cluster import FullCluster
    from tests.cluster.hca import Host
    from tests.cluster.machine import Machine

    cluster.__class__ = FullCluster
    cluster.kubectl.__class__ = ControlPlane
    for each in cluster.nodes:
        each.__class__ = Host
        each.machine.__class__ = Machine


def main() -> None:
    from tests.cluster.full.cluster import FullCluster

    begin = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begin:4.0f} s] {text}", flush=True)

    with tempfile.TemporaryDirectory(prefix="ib-sriov-cluster.") as folder:
        cluster = FullCluster(Path(folder))
        try:
            cluster.start(say)
            say("ready")
            for line in sys.stdin:
                renew(cluster)
                if line.startswith("!"):
                    try:
                        exec(line[1:], {"cluster": cluster})  # noqa: S102  it is the developer's line
                    except Exception:  # noqa: BLE001
                        traceback.print_exc()
                else:
                    pytest.main(["-p", "no:cacheprovider", *line.split()], plugins=[Running(cluster)])
                print("== done", flush=True)
        finally:
            print(cluster.end())


if __name__ == "__main__":
    main()
