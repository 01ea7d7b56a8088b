"""Kubernetes events on pods, posted in the background. Nothing waits for them or fails because of them.

What is not a clear answer of the API server is tried again, with pauses. Source: Kubernetes API reference, Event v1
core.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from ib_sriov_cni.agent.api_server import ApiFailure, ApiServer, describe_defect
from ipam.protocol.bounds import API_ANSWER_BYTES, EVENT_CHARACTERS, EVENTS

COMPONENT = "ib-sriov-agent"
TRIES = 5  # for one event
FIRST_PAUSE, LAST_PAUSE = 1.0, 60.0  # seconds after a try that failed; doubled until one succeeds
CONFLICT = 409  # there is an event of that name


@dataclass(frozen=True, kw_only=True)
class PodRef:
    """The pod that an event is about."""

    namespace: str
    name: str
    uid: str = ""


class Events:
    """Posts events from its own thread."""

    def __init__(
        self,
        api: ApiServer,
        *,
        on_failure: Callable[[str], None],
        on_result: Callable[[str], None],
        first_pause: float = FIRST_PAUSE,
    ) -> None:
        """`on_failure` gets the first fault after a success.

        `on_result` gets what became of each event: posted, failed or dropped; and retried for each try that failed but
        is not the last. Both are called from the thread that posts.
        """
        self._api = api
        self._on_failure, self._on_result = on_failure, on_result
        self._first_pause = first_pause
        self._pause = first_pause  # after the next try that fails
        self._is_failing = False
        self._closing = threading.Event()
        self._queue: queue.Queue[dict[str, object] | None] = queue.Queue(EVENTS)
        self._thread: threading.Thread | None = None

    @property
    def enabled(self) -> bool:
        """Whether there is an API server to post them to."""
        return self._api.is_known

    def post(self, pod: PodRef, *, reason: str, message: str, warning: bool = False) -> None:
        """Queue an event. Does not wait for it to be posted."""
        if not self.enabled:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="events", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(self._event(pod, reason, message, warning=warning))
        except queue.Full:
            self._on_result("dropped")

    def close(self, seconds: float = 2.0) -> None:
        """Wait up to `seconds` for the queued events to be posted, with one try each."""
        if self._thread is None:
            return
        self._closing.set()
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(seconds)

    def _event(self, pod: PodRef, reason: str, message: str, *, warning: bool) -> dict[str, object]:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        about = {"apiVersion": "v1", "kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid}
        return {
            "apiVersion": "v1",
            "kind": "Event",
            # Named as client-go does: by the object and the time.
            "metadata": {"namespace": pod.namespace, "name": f"{pod.name[:200]}.{int(now * 1e6):x}"},
            "involvedObject": {key: word for key, word in about.items() if word},
            "type": "Warning" if warning else "Normal",
            "reason": reason,
            "message": "".join([c if c.isprintable() else "\ufffd" for c in message[:EVENT_CHARACTERS]]),
            "source": {"component": COMPONENT, "host": self._api.node},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._api.node,
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }

    def _work(self) -> None:
        while (event := self._queue.get()) is not None:
            try:
                self._deliver(event)
            except Exception as fault:  # noqa: BLE001  # no event may end the thread that posts all others
                self._on_failure(describe_defect(fault))
                self._on_result("failed")

    def _deliver(self, event: dict[str, object]) -> None:
        """Post an event, in several tries if need be."""
        for left in reversed(range(TRIES)):
            try:
                self._send(event, is_again=left < TRIES - 1)
            except ApiFailure as fault:
                failure = fault
            else:
                self._on_result("posted")
                self._is_failing, self._pause = False, self._first_pause
                return
            if not self._is_failing:
                self._is_failing = True
                self._on_failure(str(failure))
            if not failure.is_transient:
                self._pause = self._first_pause  # the API server is there
            if not (left and failure.is_transient) or self._closing.is_set():
                break
            self._on_result("retried")
            self._closing.wait(self._pause)
            self._pause = min(self._pause * 2, LAST_PAUSE)
        self._on_result("failed")

    def _send(self, event: dict[str, object], *, is_again: bool) -> None:
        """Post an event once. Raises ApiFailure."""
        metadata = event["metadata"]
        namespace = str(metadata["namespace"]) if isinstance(metadata, dict) else ""
        path = f"/api/v1/namespaces/{quote(namespace, safe='', errors='replace')}/events"
        try:
            self._api.ask("POST", path, most=API_ANSWER_BYTES, body=event)
        except ApiFailure as failure:
            if failure.status != CONFLICT or not is_again:  # else the try before was not in vain
                raise
