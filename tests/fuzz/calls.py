"""One call of the plugin in this process, and what must hold of its answer whatever went in.

An audit hook sees every file that is opened for writing and every change of a folder, by whatever module.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ib_sriov_cni.cni import run

COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")
RESULT_KEYS = {"cniVersion", "interfaces", "ips", "routes", "dns", "ip4", "ip6", "supportedVersions"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Audit events of the os module that change something, and how many of their arguments are paths.
CHANGES = {
    "os.mkdir": 1,
    "os.remove": 1,
    "os.rmdir": 1,
    "os.rename": 2,
    "os.link": 2,
    "os.symlink": 2,
    "os.truncate": 1,
    "os.chmod": 1,
    "os.chown": 1,
    "os.utime": 1,
    "os.posix_spawn": 1,
    "os.exec": 1,
}
LOCKS = "/run/ib-sriov"


class Watch:
    """What was written where, while it is on. A hook cannot be taken away again."""

    def __init__(self) -> None:
        self.on = False
        self.touched: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, _mode, flags = arguments
            if isinstance(path, str) and flags & WRITING:
                self.touched.append(path)
        elif event in CHANGES:
            names = arguments[1:2] if event == "os.symlink" else arguments[: CHANGES[event]]
            self.touched += [os.fsdecode(name) for name in names if isinstance(name, (str, bytes))]

    @contextmanager
    def watching(self) -> Iterator[None]:
        self.touched.clear()
        self.on = True
        try:
            yield
        finally:
            self.on = False


WATCH = Watch()


def call(environ: Mapping[str, str], stdin: bytes, *, allowed: str) -> tuple[int, dict[str, Any] | None]:
    """Call the plugin; gives status and document. `allowed` is the folder it may write below."""
    out = io.BytesIO()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with WATCH.watching():
            status = run(environ, io.BytesIO(stdin), out)
    finally:
        signal.signal(signal.SIGTERM, handler)
    outside = [path for path in WATCH.touched if not is_below(path, (allowed, LOCKS))]
    assert outside == [], outside
    return status, judged(status, out.getvalue(), environ.get("CNI_COMMAND", ""))


def is_below(path: str, folders: tuple[str, ...]) -> bool:
    real = os.path.normpath(os.path.join("/", path))
    return any(real == folder or real.startswith(folder + "/") for folder in folders)


def judged(status: int, stdout: bytes, command: str) -> dict[str, Any] | None:
    """C5: exactly one JSON document or nothing, and a status that fits; never an internal fault."""
    if not stdout:
        assert status == 0
        assert command not in ("ADD", "VERSION")
        return None
    document = json.loads(stdout.decode("ascii"), parse_constant=refuse_constant)
    assert isinstance(document, dict)
    assert stdout.endswith(b"}\n")
    if status:
        assert set(document) == {"cniVersion", "code", "msg", "details"}, document
        assert isinstance(document["code"], int)
        assert document["code"] > 0
        assert document["code"] != 100, document
        assert isinstance(document["msg"], str)
        assert document["msg"]
        assert "Traceback" not in stdout.decode()
    else:
        assert set(document) <= RESULT_KEYS, document
        assert command in ("ADD", "VERSION")
    return document


def refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
