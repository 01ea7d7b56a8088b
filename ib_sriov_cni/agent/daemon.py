"""The agent as a process: it wakes by events of netdevs, by what is due and by the clock, and ends at SIGTERM.

Files of its own, below the run directory: `agent.lock`, held while it runs, so that there is one on a node;
`agent.offset`, how far the plugin's log has been read (ib_sriov_cni.agent.calls).
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

from ib_sriov_cni.agent.calls import CallLog
from ib_sriov_cni.agent.kube import ACCOUNT, Events
from ib_sriov_cni.agent.metrics import Metrics
from ib_sriov_cni.agent.reconcile import Care, Reconciler
from ib_sriov_cni.agent.systemd import Systemd
from ib_sriov_cni.agent.web import Web
from ib_sriov_cni.attach.host import Host
from ib_sriov_cni.core.errors import StateFailure
from ib_sriov_cni.kernel.netlink_socket import LinkEvents

STUCK = 300.0  # seconds without a sign of life; one act takes as long as a DEL with its IPAM plugin at most
LEAST_GAP = 2.0  # seconds between passes, however many events there are
SHARE = 20  # the passes take one part in so many of the time


@dataclass(frozen=True, kw_only=True)
class AgentSettings:
    """What the command line says."""

    listen: str = "127.0.0.1:9743"
    grace: float = 60.0
    interval: float = 15.0
    mend: bool = True
    events: bool = True
    log_file: str = ""
    cri_socket: str = ""
    run_dir: str = "/run/ib-sriov"
    account: str = ACCOUNT
    proc_root: str = "/proc"


class Daemon:
    """One agent."""

    def __init__(self, host: Host, settings: AgentSettings, environ: Mapping[str, str]) -> None:
        """Take the node's agent lock and listen. StateFailure (106), OSError, ValueError."""
        self._settings, self._host = settings, host
        self._lock = take_lock(settings.run_dir)
        self._systemd = Systemd(environ)
        self._metrics = Metrics(log=bool(settings.log_file))
        self._events = Events(
            environ if settings.events else {},
            tell=lambda words: host.log.warning("no event could be posted, trying on quietly", error=words),
            count=lambda result: self._metrics.events.labels(result).inc(),
            root=settings.account,
        )
        self._calls = CallLog(settings.log_file, f"{settings.run_dir}/agent.offset") if settings.log_file else None
        self._calls_lock = threading.Lock()
        self._calls_fault = ""
        self._stop = False
        self._sign = time.monotonic()
        self._turns = 0
        care = Care(
            grace=settings.grace, mend=settings.mend, cri_socket=settings.cri_socket, proc_root=settings.proc_root
        )
        self._rounds = Reconciler(
            host, self._metrics, self._events, care, stopping=lambda: self._stop, alive=self._give_sign
        )
        self._web = Web(
            settings.listen,
            self._metrics.registry,
            healthy=self._why_unhealthy,
            ready=lambda: "" if self._turns else "the first pass is not over",
            before_scrape=self.read_calls,
        )

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._web.port

    def run(self) -> None:
        """Work until SIGTERM or SIGINT."""
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        links = LinkEvents()
        self._host.log.info("started", listen=f"port {self.port}", grace=self._settings.grace)
        try:
            while not self._stop:
                begun = time.monotonic()
                self._give_sign()
                due = self._rounds.turn()
                self.read_calls()
                self._turns += 1
                self._systemd.tell(READY=1, STATUS=self._rounds.status)
                self._wait(reader, links, due, time.monotonic() - begun)
            self._systemd.tell(STOPPING=1)
            self._host.log.info("stopped")
        finally:
            links.close()
            self.close()

    def close(self) -> None:
        """Let go of everything."""
        self._web.close()
        self._events.close()
        if self._calls:
            self._calls.close()
        os.close(self._lock)

    def read_calls(self) -> None:
        """Count the calls that have ended since the last time; at each scrape and each pass."""
        if self._calls is None:
            return
        with self._calls_lock:
            try:
                for call in self._calls.read():
                    self._metrics.call_seconds.labels(call.command).observe(call.seconds)
                    if call.code:
                        self._metrics.call_failures.labels(call.command, str(call.code)).inc()
            except OSError as fault:
                if str(fault) != self._calls_fault:
                    self._calls_fault = str(fault)
                    self._host.log.warning("the plugin's log cannot be read", file=self._settings.log_file, error=fault)
                self._metrics.log_readable.set(0)
            else:
                self._calls_fault = ""
                self._metrics.log_readable.set(os.access(self._settings.log_file, os.R_OK))

    def _end(self, _number: int, _frame: object) -> None:
        self._stop = True

    def _give_sign(self) -> None:
        self._sign = time.monotonic()
        if self._systemd.watchdog_seconds:
            self._systemd.tell(WATCHDOG=1)

    def _why_unhealthy(self) -> str:
        silent = time.monotonic() - self._sign
        limit = max(STUCK, 2 * self._settings.interval)
        return f"no sign of life for {silent:.0f} s" if silent > limit else ""

    def _wait(self, reader: int, links: LinkEvents, due: float, took: float) -> None:
        """Sleep until the next pass: not at once, then at the first event, and when something is due at the latest."""
        ended = time.monotonic()
        earliest = ended + max(LEAST_GAP, took * SHARE)
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
            self._give_sign()
            if links.fileno() in woken:
                break
        links.wait(0)


def take_lock(run_dir: str) -> int:
    """Be the node's one agent, while the file stays open. StateFailure (106) if another one is."""
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
            "another agent runs on this node", f"one is enough: fuser {path} tells its process"
        ) from None
    return fd
