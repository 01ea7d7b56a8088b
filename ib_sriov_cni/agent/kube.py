"""Kubernetes events on pods, posted in the background. Nothing waits for them or fails because of them.

The service account's files are below `root`: token (rotated, so it is read for each event) and ca.crt. The API server
is at KUBERNETES_SERVICE_HOST:KUBERNETES_SERVICE_PORT. Source: Kubernetes API reference, Event v1 core.

What is between us and it (a load balancer, a proxy) may answer anything, at any length and slowness. So all of an
answer has a deadline and a bound, a redirection is not followed (the token would go with it), and whatever is not a
clear answer is tried again, with pauses.
"""

from __future__ import annotations

import http.client
import json
import os
import queue
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ipam.protocol.bounds import API_ANSWER_BYTES, EVENT_CHARACTERS, EVENTS, FILE_BYTES, LOG_VALUE_BYTES, shorten
from ipam.protocol.files import read_regular

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
COMPONENT = "ib-sriov-agent"
POST_SECONDS = 10.0  # to connect, and again for the answer as a whole
TRIES = 5  # for one event
FIRST_PAUSE, LAST_PAUSE = 1.0, 60.0  # seconds after a try that failed; doubled until one succeeds
CONFLICT = 409  # there is an event of that name
TRANSIENT = (408, 429)  # and all from 500 on: not an answer to this event


@dataclass(frozen=True, kw_only=True)
class PodRef:
    """The pod that an event is about."""

    namespace: str
    name: str
    uid: str = ""


class _Failure(Exception):
    """Why an event was not posted; `status` is that of the API server's refusal, 0 if it did not answer clearly."""

    def __init__(self, words: str, status: int = 0) -> None:
        super().__init__(words)
        self.status = status

    @property
    def is_transient(self) -> bool:
        """Whether another try may succeed."""
        return not self.status or self.status in TRANSIENT or self.status >= 500


class _DeadlineSocket(ssl.SSLSocket):
    """A TLS connection whose reads must all be over by a deadline: a timeout alone bounds each of them."""

    deadline = float("inf")  # monotonic, seconds

    def recv_into(self, *buffer: Any, **how: Any) -> int:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer was not complete in time")
        self.settimeout(left)
        return super().recv_into(*buffer, **how)


class Events:
    """Posts events from its own thread."""

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        on_failure: Callable[[str], None],
        on_result: Callable[[str], None],
        root: str = ACCOUNT,
        seconds: float = POST_SECONDS,
        first_pause: float = FIRST_PAUSE,
    ) -> None:
        """`on_failure` gets the first fault after a success.

        `on_result` gets what became of each event: posted, failed or dropped; and retried for each try that failed but
        is not the last. Both are called from the thread that posts.
        """
        self._host = environ.get("KUBERNETES_SERVICE_HOST", "")
        self._port = environ.get("KUBERNETES_SERVICE_PORT", "443")
        self._node = environ.get("NODE_NAME") or os.uname().nodename
        self._root = root
        self._on_failure, self._on_result = on_failure, on_result
        self._seconds, self._first_pause = seconds, first_pause
        self._pause = first_pause  # after the next try that fails
        self._is_failing = False
        self._closing = threading.Event()
        self._queue: queue.Queue[dict[str, object] | None] = queue.Queue(EVENTS)
        self._thread: threading.Thread | None = None

    @property
    def enabled(self) -> bool:
        """Whether the agent runs in a cluster and has a service account."""
        return bool(self._host) and os.path.exists(f"{self._root}/token")

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
            "source": {"component": COMPONENT, "host": self._node},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._node,
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }

    def _work(self) -> None:
        while (event := self._queue.get()) is not None:
            try:
                self._deliver(event)
            except Exception as fault:  # noqa: BLE001  # no event may end the thread that posts all others
                self._on_failure(_describe_defect(fault))
                self._on_result("failed")

    def _deliver(self, event: dict[str, object]) -> None:
        """Post an event, in several tries if need be."""
        for left in reversed(range(TRIES)):
            try:
                self._send(event, is_again=left < TRIES - 1)
            except _Failure as fault:
                failure = fault
            except (OSError, ValueError, http.client.HTTPException) as fault:  # SSLError is an OSError
                failure = _Failure(_describe_defect(fault))
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
        """Post an event once. Raises _Failure, OSError, ValueError or HTTPException."""
        token = read_regular(f"{self._root}/token", FILE_BYTES, follow=True).decode("ascii").strip()
        metadata = event["metadata"]
        namespace = str(metadata["namespace"]) if isinstance(metadata, dict) else ""
        path = f"/api/v1/namespaces/{quote(namespace, safe='', errors='replace')}/events"
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        context = ssl.create_default_context(cafile=f"{self._root}/ca.crt")
        context.sslsocket_class = _DeadlineSocket
        # No proxy: the API server is inside the cluster.
        connection = http.client.HTTPSConnection(self._host, int(self._port), timeout=self._seconds, context=context)
        try:
            connection.connect()
            link = connection.sock
            if isinstance(link, _DeadlineSocket):
                link.deadline = time.monotonic() + self._seconds
            connection.request("POST", path, body=json.dumps(event).encode(), headers=headers)
            with connection.getresponse() as answer:
                status, reason = answer.status, answer.reason
                body = answer.read(API_ANSWER_BYTES + 1)
        finally:
            connection.close()
        if status == CONFLICT and is_again:
            return  # the try before was not in vain
        if not 200 <= status < 300:
            raise _Failure(f"the API server answered {status}: {_read_message(body) or _shorten(reason)}", status)
        _read_object(body)


def _read_object(body: bytes) -> dict[str, object]:
    """Return the JSON object that an answer must be. Raises _Failure."""
    if len(body) > API_ANSWER_BYTES:
        raise _Failure(f"the API server's answer is longer than {API_ANSWER_BYTES} bytes")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as fault:
        raise _Failure(f"the API server's answer is not JSON: {_describe_defect(fault)}") from None
    if not isinstance(found, dict):
        raise _Failure("the API server's answer is not a JSON object")
    return found


def _read_message(body: bytes) -> str:
    """Return the message of a refusal, "" if it cannot be found."""
    try:
        message = _read_object(body).get("message")
    except _Failure:
        return ""
    return _shorten(message) if isinstance(message, str) else ""


def _describe_defect(fault: Exception) -> str:
    return _shorten(str(fault) or type(fault).__name__)


def _shorten(words: str) -> str:
    return shorten(words, LOG_VALUE_BYTES)
