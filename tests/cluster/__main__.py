"""`make cluster`: a cluster of two nodes from nothing, and the quick start's two pods on it.

Exit status 0 only if every step held, and the kernels of both machines had no fault.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.cluster import story
from tests.cluster.kubernetes_cluster import Cluster
from tests.demo.terminal import GREEN, RED, Progress, Story, wants_colour
from tests.tools.suites import as_root

TICK = 0.2


class Report:
    """A line for each step that is done, with the seconds since the start; on a terminal, one that runs meanwhile."""

    def __init__(self) -> None:
        self.terminal = Story(colour=wants_colour(sys.stdout))
        self.progress = Progress(self.terminal, "working")
        self.lock = threading.Lock()
        self.ended = threading.Event()
        threading.Thread(target=self.tick, daemon=True).start()

    def tick(self) -> None:
        while not self.ended.wait(TICK):
            with self.lock:
                self.progress.tick()

    def say(self, text: str, colour: str = "") -> None:
        with self.lock:
            self.progress.clear()
            line = f"[{self.progress.seconds():4.0f} s] {text}"
            self.terminal.line(self.terminal.paint(line, colour) if colour else line)

    def end(self, text: str, colour: str) -> None:
        self.ended.set()
        self.say(text, colour)


def main() -> int:
    report = Report()
    fault = ""
    with tempfile.TemporaryDirectory(prefix="ib-sriov-cluster.") as folder:
        cluster = Cluster(Path(folder))
        verdicts: list[int] = []
        begin = time.monotonic()
        try:
            cluster.start(report.say)
            story.tell(cluster, report.say)
        except (AssertionError, OSError) as failed:
            fault = f"{type(failed).__name__}: {failed}"
        finally:
            verdicts = cluster.end()
        if not fault and any(verdicts):
            fault = "\n".join(each.machine.said() for each in cluster.nodes)
    if fault:
        report.end(f"FAILED: {fault}", RED)
        return 1
    report.end(f"every step held; {time.monotonic() - begin:.0f} s", GREEN)
    return 0


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit(subprocess.run(as_root([sys.executable, "-m", "tests.cluster"]), check=False).returncode)
    sys.exit(main())
