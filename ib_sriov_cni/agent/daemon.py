"""The agent as a process: a pass starts on a netdev event, when an action is due, or when the interval is over.

Files in the run directory: `agent.lock`, held while it runs, so that a node has only one agent; `agent.offset`, how
much of the plugin's log has been read (ib_sriov_cni.agent.call_log); `node-index`, this node's number in the cluster
(ib_sriov_cni.agent.node_index).
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from ib_sriov_cni.agent.api_server import ACCOUNT, ApiServer
from ib_sriov_cni.agent.call_log import CallLog
from ib_sriov_cni.agent.kube import Events
from ib_sriov_cni.agent.metrics import Metrics
from ib_sriov_cni.agent.node_index import NodeIndex
from ib_sriov_cni.agent.rare_warning import RareWarning
from ib_sriov_cni.agent.reconcile import Policy, Reconciler
from ib_sriov_cni.agent.systemd import Systemd
from ib_sriov_cni.agent.web import Web
from ib_sriov_cni.attach.host import Host
from ib_sriov_cni.core.errors import StateFailure
from ib_sriov_cni.kernel.netlink_socket import LinkEvents
from ib_sriov_cni.node.contain import describe_fault
from ipam.protocol.bounds import LOG_VALUE_BYTES, shorten

STUCK = 300.0  # seconds without a heartbeat; one action takes no longer than a DEL with its IPAM plugin
MIN_GAP = 2.0  # seconds between passes, however many events there are
GAP_FACTOR = 20  # the gap is at least this many times the duration of the last pass, to bound the load


@dataclass(frozen=True, kw_only=True)
class AgentSettings:
    """The options of the command line; times are in seconds."""

    listen: str = "127.0.0.1:9743"
    grace: float = 60.0
    interval: float = 15.0
    mend: bool = True
    events: bool = True
    log_file: str = ""
    cri_socket: str = ""
    cluster_cidr: str = ""
    run_dir: str = "/run/ib-sriov"
    account: str = ACCOUNT


class Daemon:
    """The agent of a node."""

    def __init__(self, host: Host, settings: AgentSettings, environ: Mapping[str, str]) -> None:
        """Take the node's agent lock and start to listen.

        Raises StateFailure (106) if another agent runs, ValueError for an invalid listen address, OSError if it is not
        available.
        """
        self._settings, self._host = settings, host
        self._lock = take_lock(settings.run_dir)
        self._systemd = Systemd(environ)
        self._metrics = Metrics(log=bool(settings.log_file))
        api = ApiServer(environ, root=settings.account)
        self._events = Events(
            api if settings.events else ApiServer({}),
            on_failure=lambda error: host.log.warning(
                "posting a Kubernetes event failed; not logged again until one succeeds", error=error
            ),
            on_result=lambda result: self._metrics.events.labels(result).inc(),
        )
        self._node_index = NodeIndex(api, settings.cluster_cidr, f"{settings.run_dir}/node-index", host.log)
        self._calls = CallLog(settings.log_file, f"{settings.run_dir}/agent.offset") if settings.log_file else None
        self._calls_lock = threading.Lock()
        self._calls_fault = ""
        self._stop = False
        self._last_heartbeat = time.monotonic()
        self._passes = 0
        policy = Policy(grace=settings.grace, repair=settings.mend, cri_socket=settings.cri_socket)
        self._reconciler = Reconciler(
            host, self._metrics, self._events, policy, stopping=lambda: self._stop, heartbeat=self._heartbeat
        )
        self._refused_request = RareWarning(host.log, "an HTTP request was refused")
        self._web = Web(
            settings.listen,
            self._metrics.registry,
            healthy=self._why_unhealthy,
            ready=lambda: "" if self._passes else "the first pass has not finished",
            before_scrape=self.read_calls,
            on_refusal=self._on_refused_request,
        )
        if settings.cluster_cidr:
            self._node_index.start()

    @property
    def port(self) -> int:
        """The TCP port on which it listens."""
        return self._web.port

    def run(self) -> None:
        """Run passes until SIGTERM or SIGINT. Call from the main thread: it sets signal handlers."""
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop_signal)
        links = LinkEvents()
        self._host.log.info("started", listen=f"port {self.port}", grace=self._settings.grace)
        try:
            while not self._stop:
                begun = time.monotonic()
                self._heartbeat()
                due = self._reconciler.run_pass()
                self.read_calls()
                self._passes += 1
                self._systemd.notify(READY=1, STATUS=self._reconciler.status)
                self._wait(reader, links, due, time.monotonic() - begun)
            self._systemd.notify(STOPPING=1)
            self._host.log.info("stopped")
        finally:
            links.close()
            self.close()

    def close(self) -> None:
        """Stop serving and release the agent lock."""
        self._web.close()
        self._node_index.close()
        self._events.close()
        if self._calls:
            self._calls.close()
        os.close(self._lock)

    def read_calls(self) -> None:
        """Count the CNI calls that ended since the last read. Called by each pass and each scrape."""
        if self._calls is None:
            return
        with self._calls_lock:
            try:
                for call in self._calls.read():
                    if call.seconds is not None:
                        self._metrics.call_seconds.labels(call.command).observe(call.seconds)
                    if call.code:
                        self._metrics.call_failures.labels(call.command, str(call.code)).inc()
            except Exception as fault:  # noqa: BLE001  # a log that cannot be read must not end the agent
                words = describe_fault(fault)
                if words != self._calls_fault:
                    self._calls_fault = words
                    self._host.log.warning("the plugin's log cannot be read", file=self._settings.log_file, error=words)
                self._metrics.log_readable.set(0)
            else:
                self._calls_fault = ""
                self._metrics.log_readable.set(os.access(self._settings.log_file, os.R_OK))

    def _on_refused_request(self, reason: str, client: str, words: str) -> None:
        self._metrics.http_refusals.labels(reason).inc()
        self._refused_request.log(reason=reason, client=client, error=shorten(words, LOG_VALUE_BYTES))

    def _on_stop_signal(self, _number: int, _frame: object) -> None:
        self._stop = True

    def _heartbeat(self) -> None:
        self._last_heartbeat = time.monotonic()
        if self._systemd.watchdog_seconds:
            self._systemd.notify(WATCHDOG=1)

    def _why_unhealthy(self) -> str:
        silent = time.monotonic() - self._last_heartbeat
        limit = max(STUCK, 2 * self._settings.interval)
        return f"no progress for {silent:.0f} s" if silent > limit else ""

    def _wait(self, reader: int, links: LinkEvents, due: float, took: float) -> None:
        """Sleep for the minimum gap, then until a netdev event, a due action or the end of the interval."""
        ended = time.monotonic()
        earliest = ended + max(MIN_GAP, took * GAP_FACTOR)
        latest = ended + min(self._settings.interval, max(due, 0.0))
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        while not self._stop:
            now = time.monotonic()
            until = min(earliest, latest) if now < earliest else latest
            if now >= latest:
                break
            if now >= earliest:
                poll.register(links.fileno(), select.POLLIN)
            pause = max(0.0, until - now)
            if self._systemd.watchdog_seconds:
                pause = min(pause, self._systemd.watchdog_seconds / 2)
            woken = [fd for fd, _ in poll.poll(int(pause * 1000) + 1)]
            self._heartbeat()
            if links.fileno() in woken:
                break
        links.wait(0)


def take_lock(run_dir: str) -> int:
    """Lock the node's agent lock and return its descriptor, which holds the lock while it is open.

    Raises StateFailure (106) if another agent holds it, or if the file cannot be opened.
    """
    path = f"{run_dir}/agent.lock"
    try:
        os.makedirs(run_dir, mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as fault:
        raise StateFailure(f"open lock {path}: {fault.strerror}", "is /run writable? run it as root") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise StateFailure(
            "another agent runs on this node", f"stop it first; fuser {path} shows its process"
        ) from None
    return fd
