"""The CNI plugin: serves one invocation by a container runtime (C1-C21)."""

from __future__ import annotations

import os
import sys

from ib_sriov_cni.delegation import DELEGATED, NOT_AN_IPAM_PLUGIN
from ib_sriov_cni.telemetry import TIMELINE
from ipam.protocol.edge import serve
from ipam.protocol.errors import CniError, InternalFault, InvalidConfiguration

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

# Keys that CNI_ARGS may have without IgnoreUnknown: ours, Multus's (N1), and those of the bundled IPAM plugin.
KNOWN_ARGS = frozenset(
    ("guid", "IP", "K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_INFRA_CONTAINER_ID", "K8S_POD_UID", "GATEWAY")
)


class _Plugin:
    """The handlers of the commands. One of them is called, once; `log` is None until it has read its configuration."""

    def __init__(self) -> None:
        self.log: Log | None = None

    def add(self, request: Request) -> Result:
        from ib_sriov_cni.attach.add import add
        from ib_sriov_cni.kernel.syscalls import raise_on_sigterm

        request, conf, host = self._open(request)
        raise_on_sigterm()
        return self._run(request, lambda: add(host, request, conf))

    def delete(self, request: Request) -> None:
        from ib_sriov_cni.attach.delete import delete

        request, conf, host = self._open(request, lenient=True)
        self._run(request, lambda: delete(host, request, conf))

    def check(self, request: Request) -> None:
        from ib_sriov_cni.attach.check import check

        request, conf, host = self._open(request)
        self._run(request, lambda: check(host, request, conf))

    def collect(self, request: Request) -> None:
        from ib_sriov_cni.attach.gc import collect

        request, conf, host = self._open(request, lenient=True)
        self._run(request, lambda: collect(host, request, conf))

    def status(self, request: Request) -> None:
        from ib_sriov_cni.attach.status import status

        request, conf, host = self._open(request, needs_device=False)
        # Runtimes ask every few seconds: at level info these lines would bury the others.
        self._run(request, lambda: status(host, request, conf), level="debug")

    def _open(
        self, request: Request, *, lenient: bool = False, needs_device: bool = True
    ) -> tuple[Request, NetConf, Host]:
        """Return the request with the node-wide defaults and without what its pod must not choose, its configuration,
        and the host.
        """
        from ib_sriov_cni.attach.host import Host
        from ib_sriov_cni.core.configuration import parse_netconf, parse_pod
        from ib_sriov_cni.core.known_keys import COMFORT
        from ib_sriov_cni.core.pod_choices import restrict_choices
        from ib_sriov_cni.state.node_defaults import apply_defaults, describe_origin, find_missing, read_node_defaults
        from ib_sriov_cni.telemetry.log import Log

        if DELEGATED in request.environ:
            raise InvalidConfiguration(
                f"{NOT_AN_IPAM_PLUGIN}, but was called as one ({DELEGATED} is set)",
                "set ipam.type to host-local or another IPAM plugin",
            )
        context = {
            "cmd": request.command,
            "pod": parse_pod(request.args),
            "container": request.container_id[:12],
            "if": request.ifname,
        }
        warning = ""
        try:
            defaults: dict[str, object] = {}
            try:
                defaults = find_missing(request.conf, read_node_defaults())
                if request.command == "CHECK":  # follows the record: only what concerns its own log
                    defaults = {key: found for key, found in defaults.items() if key in COMFORT}
                request = apply_defaults(request, defaults)
            except CniError as fault:
                if request.command in ("ADD", "STATUS"):
                    raise
                # What is attached was attached with the defaults in its record.
                warning = fault.msg
            conf = parse_netconf(request, lenient=lenient, needs_device=needs_device)
        except CniError as fault:
            fault.details = "; ".join(
                [words for words in (fault.details, describe_origin(fault.msg, defaults)) if words]
            )
            path = request.conf.get("logFile")
            if isinstance(path, str) and path.startswith("/") and "\0" not in path:
                Log(path=path, context=context).refuse(code=fault.code, error=fault.msg, hint=fault.details)
            raise
        self.log = Log(level=conf.log_level, path=conf.log_file, context=context)
        if warning:
            self.log.warning(warning, hint="correct the file, or remove it: no ADD succeeds until then")
        if request.command == "ADD":
            for text in conf.warnings:
                self.log.warning(text)
        if TIMELINE in os.environ:
            _trace_start()
        return restrict_choices(request, []), conf, Host(log=self.log, state_dir=conf.state_dir)

    def _run(self, request: Request, act: Callable[[], T], level: str = "info") -> T:
        """Run the command and log its outcome once: done, or the error that the runtime gets."""
        try:
            result = act()
        except CniError as fault:
            if self.log:
                self.log.refuse(code=fault.code, error=fault.msg, hint=fault.details)
            raise
        finally:
            if TIMELINE in os.environ:
                _trace_process(request)
        if self.log:
            self.log.done(level)
        return result

    def on_fault(self, fault: BaseException) -> str:
        """Write a defect to the log in one line, or to standard error before there is a log. Returns what to do."""
        from ib_sriov_cni.telemetry.log import Log
        from ipam.protocol.bug_report import describe_defect

        log = self.log or Log()
        log.fail(code=InternalFault.code, defect=describe_defect(fault))
        return f"this is a bug of ib-sriov: please report the line in {log.where}"


def _trace_start() -> None:
    """Add to the timeline how long the start took: the interpreter, the imports, reading the request."""
    import time

    from ib_sriov_cni.telemetry.timeline import write_event

    now = time.monotonic_ns()
    write_event("start", now - _process_age(), now)


def _trace_process(request: Request) -> None:
    """Add the whole invocation to the timeline, from the start of the process."""
    import time

    from ib_sriov_cni.telemetry.timeline import write_process

    words = f"{request.command} {request.ifname} {request.container_id[:12]}"
    write_process(words, request.command, time.monotonic_ns() - _process_age())


def _process_age() -> int:
    """Return the age of this process in ns. /proc/self/stat has its start to a hundredth of a second (proc(5))."""
    import time

    try:
        with open("/proc/self/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return time.process_time_ns()
    age = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - ticks * 10**9 // os.sysconf("SC_CLK_TCK")
    return max(age, time.process_time_ns())


def run(environ: Mapping[str, str], stdin: Reader | None, stdout: Writer | None) -> int:
    """Serve the invocation that environment and standard input describe. Returns the exit status, 0 or 1."""
    from ib_sriov_cni.core.known_keys import KNOWN

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
        names=KNOWN,
    )


def main() -> int:
    """Serve the invocation of this process. A closed stream is passed as None: VERSION needs no input (C1)."""
    return run(os.environ, getattr(sys.stdin, "buffer", None), getattr(sys.stdout, "buffer", None))
