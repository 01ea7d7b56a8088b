"""Kubernetes events on pods, posted in the background. Nothing waits for them or fails because of them.

The service account's files are below `root`: token (rotated, so it is read for each event) and ca.crt. The API server
is at KUBERNETES_SERVICE_HOST:KUBERNETES_SERVICE_PORT. Source: Kubernetes API reference, Event v1 core.
"""

from __future__ import annotations

import json
import os
import queue
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Thread

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
COMPONENT = "ib-sriov-agent"
POST_TIMEOUT = 10.0  # seconds
QUEUE_MAX = 100  # events; more are dropped
MESSAGE_MAX = 1024  # characters in an Event's message


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
        environ: Mapping[str, str],
        *,
        on_failure: Callable[[str], None],
        on_result: Callable[[str], None],
        root: str = ACCOUNT,
    ) -> None:
        """`on_failure` gets the first fault after a success, `on_result` for each event: posted, failed or dropped."""
        host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
        self._url = f"https://{f'[{host}]' if ':' in host else host}:{port}" if host else ""
        self._node = environ.get("NODE_NAME") or os.uname().nodename
        self._root = root
        self._on_failure, self._on_result = on_failure, on_result
        self._is_failing = False
        self._queue: queue.Queue[dict[str, object] | None] = queue.Queue(QUEUE_MAX)
        self._thread: Thread | None = None

    @property
    def enabled(self) -> bool:
        """Whether the agent runs in a cluster and has a service account."""
        return bool(self._url) and os.path.exists(f"{self._root}/token")

    def post(self, pod: PodRef, *, reason: str, message: str, warning: bool = False) -> None:
        """Queue an event. Does not wait for it to be posted."""
        if not self.enabled:
            return
        if self._thread is None:
            self._thread = Thread(target=self._work, name="events", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(self._event(pod, reason, message, warning=warning))
        except queue.Full:
            self._on_result("dropped")

    def close(self, seconds: float = 2.0) -> None:
        """Wait up to `seconds` for the queued events to be posted."""
        if self._thread is None:
            return
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
            "message": message[:MESSAGE_MAX],
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
                self._send(event)
            except (OSError, ValueError) as fault:  # HTTPError and SSLError are OSErrors
                if not self._is_failing:
                    self._is_failing = True
                    self._on_failure(_describe_fault(fault))
                self._on_result("failed")
            else:
                self._on_result("posted")
                self._is_failing = False

    def _send(self, event: dict[str, object]) -> None:
        with open(f"{self._root}/token", encoding="ascii") as file:
            token = file.read().strip()
        metadata = event["metadata"]
        namespace = metadata["namespace"] if isinstance(metadata, dict) else ""
        request = urllib.request.Request(  # noqa: S310  # https, see __init__
            f"{self._url}/api/v1/namespaces/{namespace}/events",
            data=json.dumps(event).encode(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            method="POST",
        )
        context = ssl.create_default_context(cafile=f"{self._root}/ca.crt")
        # No proxy: the API server is inside the cluster.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with opener.open(request, timeout=POST_TIMEOUT) as answer:
            answer.read(1 << 16)


def _describe_fault(fault: Exception) -> str:
    if isinstance(fault, urllib.error.HTTPError):
        try:
            message = str(json.loads(fault.read(1 << 16)).get("message", ""))
        except (OSError, ValueError, AttributeError):
            message = ""
        return f"the API server answered {fault.code}: {message or fault.reason}"
    return str(getattr(fault, "reason", fault))
