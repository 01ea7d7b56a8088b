"""A SIGTERM or an interrupt at any moment leaves the process in its own network namespace."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.security.hostile import Hostile

ROOT = __file__.rpartition("/tests/")[0]
ENTER = """
import os, signal, sys, threading
from ib_sriov_cni.kernel.netns import Inside, open_netns

class Interrupted(Exception):
    pass

def interrupt(number, frame):  # as an ADD does
    signal.signal(number, signal.SIG_IGN)
    raise Interrupted

def where():
    return os.readlink("/proc/thread-self/ns/net")

own = where()
number = int(sys.argv[2])
signal.signal(number, signal.SIG_IGN)
sender = os.fork()
if sender == 0:
    import time
    parent = os.getppid()
    while os.getppid() == parent:
        os.kill(parent, number)
        time.sleep(0.00002)
    os._exit(0)
netns = open_netns(sys.argv[1])
interruptions = entered = 0
for turn in range(200000):
    try:
        signal.signal(number, interrupt)
        with Inside(netns):
            entered += 1
    except Interrupted:
        interruptions += 1
    try:
        signal.signal(number, signal.SIG_IGN)
    except Interrupted:  # its handler has done that
        interruptions += 1
    if where() != own:
        print(f"left in {where()} after {interruptions} interruptions")
        break
    if interruptions >= 100 and entered >= 100:
        break
else:
    print(f"{interruptions} interruptions, {entered} times inside: too few to show anything")
signal.signal(number, signal.SIG_IGN)
os.kill(sender, 9)
print("end")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_entering_or_leaving_a_namespace(number: signal.Signals) -> None:
    with Hostile() as pod:
        command = [sys.executable, "-c", ENTER, pod.path, str(int(number))]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr
