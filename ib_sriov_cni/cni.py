"""The edge towards a container runtime: one invocation of the CNI protocol (C1-C21)."""

from __future__ import annotations

import os
import sys

from ib_sriov_cni.telemetry import TIMELINE
from ipam.protocol.edge import serve
from ipam.protocol.errors import CniError, InternalFault, TryAgainLater

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.configuration import NetConf
    from ib_sriov_cni.telemetry.log import Log
    from ipam.protocol.edge import Reader, Writer
    from ipam.protocol.request import Request
    from ipam.protocol.result import Result

    T = TypeVar("T")

# What may stand in CNI_ARGS without IgnoreUnknown: ours, Multus's (N1), and the bundled IPAM's.
KNOWN_ARGS = frozenset(
    ("guid", "IP", "K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_INFRA_CONTAINER_ID", "K8S_POD_UID", "GATEWAY")
)


class _Plugin:
    """Handlers that share the log of their one invocation."""

    def __init__(self) -> None:
        self.log: Log | None = None

    def add(self, request: Request) -> Result:
        from ib_sriov_cni.attach.add import add

        conf, host = self._open(request)
        _end_by_exception()
        return self._told(request, lambda: add(host, request, conf))

    def delete(self, request: Request) -> None:
        from ib_sriov_cni.attach.delete import delete

        conf, host = self._open(request, lenient=True)
        self._told(request, lambda: delete(host, request, conf))

    def check(self, request: Request) -> None:
        from ib_sriov_cni.attach.check import check

        conf, host = self._open(request)
        self._told(request, lambda: check(host, request, conf))

    def collect(self, request: Request) -> None:
        from ib_sriov_cni.attach.gc import collect

        conf, host = self._open(request, lenient=True)
        self._told(request, lambda: collect(host, request, conf))

    def status(self, request: Request) -> None:
        from ib_sriov_cni.attach.status import status

        conf, host = self._open(request, needs_device=False)
        # Asked every few seconds: a line for each would bury the others.
        self._told(request, lambda: status(host, request, conf), level="debug")

    def _open(self, request: Request, *, lenient: bool = False, needs_device: bool = True) -> tuple[NetConf, Host]:
        from ib_sriov_cni.attach.host import Host
        from ib_sriov_cni.core.configuration import parse_netconf, parse_pod
        from ib_sriov_cni.telemetry.log import Log

        context = {
            "cmd": request.command,
            "pod": parse_pod(request.args),
            "container": request.container_id[:12],
            "if": request.ifname,
        }
        try:
            conf = parse_netconf(request, lenient=lenient, needs_device=needs_device)
        except CniError as fault:
            path = request.conf.get("logFile")
            if isinstance(path, str) and path.startswith("/") and "\0" not in path:
                Log(path=path, context=context).refuse(code=fault.code, error=fault.msg, hint=fault.details)
            raise
        self.log = Log(level=conf.log_level, path=conf.log_file, context=context)
        if TIMELINE in os.environ:
            _write_start()
        return conf, Host(log=self.log, state_dir=conf.state_dir)

    def _told(self, request: Request, act: Callable[[], T], level: str = "info") -> T:
        """Log the end once: that it went well, or a refusal with everything the runtime will be told."""
        try:
            result = act()
        except CniError as fault:
            if self.log:
                self.log.refuse(code=fault.code, error=fault.msg, hint=fault.details)
            raise
        finally:
            if TIMELINE in os.environ:
                _write_whole(request)
        if self.log:
            self.log.done(level)
        return result

    def on_fault(self, fault: BaseException) -> str:
        """Write the traceback to the log; tell where that is."""
        import traceback

        text = "".join(traceback.format_exception(fault))
        if self.log is None:
            sys.stderr.write(text)
            return "standard error has the traceback"
        self.log.fail(code=InternalFault.code, traceback=text)
        return f"the traceback is in {self.log.where}"


def _write_start() -> None:
    """Write what the start took: the interpreter's, the imports, reading what is asked."""
    import time

    from ib_sriov_cni.telemetry.timeline import write_event

    now = time.monotonic_ns()
    write_event("start", now - _age(), now)


def _write_whole(request: Request) -> None:
    """Write the whole of it, from the start of the process on."""
    import time

    from ib_sriov_cni.telemetry.timeline import write_process

    words = f"{request.command} {request.ifname} {request.container_id[:12]}"
    write_process(words, request.command, time.monotonic_ns() - _age())


def _age() -> int:
    """How long this process lives, ns: /proc/self/stat says when it began, to a hundredth of a second."""
    import time

    try:
        with open("/proc/self/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return time.process_time_ns()
    hundredths = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - ticks * 10**9 // os.sysconf("SC_CLK_TCK")
    return max(hundredths, time.process_time_ns())


def _end_by_exception() -> None:
    """Make an impatient runtime's SIGTERM undo the ADD; a second one while that runs changes nothing."""
    import _signal  # type: ignore[import-not-found]  # signal itself brings enum

    def interrupt(number: int, _frame: object) -> None:
        _signal.signal(number, _signal.SIG_IGN)
        raise TryAgainLater("ADD was interrupted by SIGTERM and undone", "the runtime ran out of patience")

    _signal.signal(_signal.SIGTERM, interrupt)


def run(environ: Mapping[str, str], stdin: Reader | None, stdout: Writer | None) -> int:
    """Serve the invocation that environment and standard input describe; gives the exit status."""
    plugin = _Plugin()
    return serve(
        {
            "ADD": plugin.add,
            "DEL": plugin.delete,
            "CHECK": plugin.check,
            "GC": plugin.collect,
            "STATUS": plugin.status,
        },
        known_args=KNOWN_ARGS,
        environ=environ,
        stdin=stdin,
        stdout=stdout,
        on_fault=plugin.on_fault,
    )


def main() -> int:
    """Serve the process's own invocation. A closed stream is None: VERSION needs no input (C1)."""
    return run(os.environ, getattr(sys.stdin, "buffer", None), getattr(sys.stdout, "buffer", None))
