"""Door to the timeline: what an invocation did when, as Chrome trace events, which ui.perfetto.dev displays.

IB_SRIOV_TRACE names the file; without it, this module is not loaded. There is one event per line, appended, so that all
processes of a node can share a file:

    [
    {"name":"bind","ph":"X","ts":…,"dur":…,"pid":…,"tid":…,"args":{…}},

There is no closing bracket, as the format allows. Times are microseconds of CLOCK_MONOTONIC, which the plugin and its
child share. Source: "Trace Event Format", Google, JSON Array Format.
"""

from __future__ import annotations

import os
import sys
import time

from ib_sriov_cni.telemetry import TIMELINE
from ipam.protocol.fastjson import dumps
from ipam.protocol.files import open_regular


def write_event(name: str, start: int, end: int, args: dict[str, object] | None = None) -> None:
    """Append a span of this process; `start` and `end` are nanoseconds of time.monotonic_ns."""
    _append({"name": name, "ph": "X", "ts": start / 1000, "dur": (end - start) / 1000, "args": args or {}})


def write_process(name: str, what: str, start: int) -> None:
    """Append this process's name `name`, and a span `what` since `start` (ns) with CPU time and loaded modules."""
    end = time.monotonic_ns()
    _append({"name": "process_name", "ph": "M", "args": {"name": name}})
    write_event(what, start, end, {"cpu_ms": time.process_time_ns() / 1e6, "modules": sorted(sys.modules)})


def _append(event: dict[str, object]) -> None:
    path = os.environ.get(TIMELINE)
    if not path:
        return
    pid = os.getpid()
    line = dumps({**event, "pid": pid, "tid": pid}) + ",\n"
    try:
        fd = _open(path, pid)
    except OSError:
        return  # a timeline that cannot be written must not fail a pod
    try:
        os.write(fd, line.encode(errors="replace"))
    except OSError:
        pass
    finally:
        os.close(fd)


def _open(path: str, pid: int) -> int:
    flags = os.O_WRONLY | os.O_APPEND
    try:
        return open_regular(path, flags)
    except FileNotFoundError:
        # Linked into place with its bracket: another process may append an event at any time.
        new = f"{path}.{pid}.new"
        fd = open_regular(new, flags | os.O_CREAT | os.O_EXCL, 0o640)
        try:
            os.write(fd, b"[\n")
            os.link(new, path)
            return fd
        except FileExistsError:
            os.close(fd)
            return open_regular(path, flags)
        finally:
            os.unlink(new)
