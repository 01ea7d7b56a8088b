"""One call of the plugin in this process, and what must hold for its answer whatever the input was.

An audit hook sees every file that is opened for writing and every change of a folder, in any module.
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
from tests.fuzz.budget import TALLY, descriptors

COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")
RESULT_KEYS = {"cniVersion", "interfaces", "ips", "routes", "dns", "ip4", "ip6", "supportedVersions"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Audit events of the os module that change something: the positions of the paths among their arguments, each with the
# position of the descriptor of the folder that it is relative to, -1 if there is none.
CHANGES = {
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((0, 2), (1, 3)),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, -1),),
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.utime": ((0, 3),),
    "os.posix_spawn": ((0, -1),),
    "os.exec": ((0, -1),),
}
LOCKS = "/run/ib-sriov"
# The machine's own CNI state, and the events that look into a folder.
MACHINE = ("/var/lib/cni", "/etc/cni")
LOOKS = ("os.listdir", "os.scandir")


class Watch:
    """Records, while on, what was written where and what was read of the machine's state. A hook cannot be removed."""

    def __init__(self) -> None:
        self.on = False
        self.touched: list[str] = []
        self.read: list[str] = []
        self._before: dict[str, str] = {}
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open" or event in LOOKS:
            path = arguments[0]
            if isinstance(path, (str, bytes)) and is_below(os.fsdecode(path), MACHINE):
                self.read.append(os.fsdecode(path))
        if event == "open":
            path, _mode, flags = arguments
            if isinstance(path, str) and flags & WRITING:
                self.touched += [path] if os.path.isabs(path) else [f"{folder}/{path}" for folder in self._folders()]
        elif event in CHANGES:
            for name, folder in CHANGES[event]:
                if isinstance(arguments[name], (str, bytes)):
                    fd = arguments[folder] if folder >= 0 else -1
                    where = os.getcwd() if fd < 0 else os.readlink(f"/proc/self/fd/{fd}")
                    self.touched.append(os.path.join(where, os.fsdecode(arguments[name])))

    def _folders(self) -> list[str]:
        """Return where a relative path may lead: the event does not say which folder it is relative to."""
        opened = [path for fd, path in descriptors().items() if self._before.get(fd) != path and os.path.isdir(path)]
        return opened or [os.getcwd()]

    @contextmanager
    def watching(self) -> Iterator[None]:
        self.touched.clear()
        self.read.clear()
        self._before = descriptors()
        self.on = True
        try:
            yield
        finally:
            self.on = False


WATCH = Watch()


def call(environ: Mapping[str, str], stdin: bytes, *, allowed: str) -> tuple[int, dict[str, Any] | None]:
    """Call the plugin and return status and document. `allowed` is the folder it may write below."""
    out = io.BytesIO()
    handler = signal.getsignal(signal.SIGTERM)
    TALLY.add()
    try:
        with WATCH.watching():
            status = run(environ, io.BytesIO(stdin), out)
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert_below(allowed)
    return status, judged(status, out.getvalue(), environ.get("CNI_COMMAND", ""))


def assert_below(*folders: str) -> None:
    """Assert that nothing was touched except below these folders, and the locks."""
    outside = [path for path in WATCH.touched if not is_below(path, (*folders, LOCKS))]
    assert outside == [], outside
    assert WATCH.read == [], WATCH.read


def is_below(path: str, folders: tuple[str, ...]) -> bool:
    """Whether a path is one of the folders, or below one."""
    real = os.path.normpath(os.path.join("/", path))
    return any(real == folder or real.startswith(folder + "/") for folder in folders)


def judged(status: int, stdout: bytes, command: str) -> dict[str, Any] | None:
    """C5: exactly one JSON document or nothing, and a status that fits; never an internal error."""
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
