"""The network of the cluster's machines, without any: a process has one such network."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.cluster.machine import PROJECT
from tests.cluster.segment import NAMESPACES, Segment
from tests.lab.commands import wait

KILLED = """
import signal, subprocess
from tests.cluster.segment import Segment
segment = Segment(1)
process = subprocess.Popen(segment.command(["sleep", "600"]))
print(segment.name, process.pid, flush=True)
signal.pause()
"""


def test_what_a_killed_run_left_is_removed_by_the_next() -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED], cwd=PROJECT, stdout=subprocess.PIPE, text=True) as run:
        try:
            assert run.stdout is not None
            name, process = run.stdout.readline().split()
            living = Segment(1)
            try:
                assert (NAMESPACES / name).exists()
            finally:
                living.end()
        finally:
            run.kill()
    segment = Segment(1)
    try:
        assert not (NAMESPACES / name).exists()
        assert wait(lambda: not os.path.exists(f"/proc/{process}/exe"))
    finally:
        segment.end()
