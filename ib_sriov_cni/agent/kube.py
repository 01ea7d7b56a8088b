"""Kubernetes events on pods, from inside the cluster, posted beside the work and never in its way.

Files of the service account, below `root`: token (rotated, read for each event), ca.crt. The API server is
KUBERNETES_SERVICE_HOST:KUBERNETES_SERVICE_PORT. Source: Kubernetes API reference, Event v1 core.
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
SECONDS = 10.0
WAITING = 100  # events; more of them at once are dropped: they are news, no records
MESSAGE_MAX = 1024  # characters that an Event's message may have


@dataclass(frozen=True, kw_only=True)
class PodRef:
    """The pod that an event is about."""

    namespace: str
    name: str
    uid: str = ""


class Events:
    """Posts events from a thread of its own."""

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        tell: Callable[[str], None],
        count: Callable[[str], None],
        root: str = ACCOUNT,
    ) -> None:
        """`tell` is told a fault once until a post succeeds; `count` what became of each: posted, failed, dropped."""
        host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
        self._url = f"https://{f'[{host}]' if ':' in host else host}:{port}" if host else ""
        self._node = environ.get("NODE_NAME") or os.uname().nodename
        self._root = root
        self._tell, self._count = tell, count
        self._told = False
        self._waiting: queue.Queue[dict[str, object] | None] = queue.Queue(WAITING)
        self._thread: Thread | None = None

    @property
    def wanted(self) -> bool:
        """Whether we are in a cluster, with a service account."""
        return bool(self._url) and os.path.exists(f"{self._root}/token")

    def post(self, pod: PodRef, *, reason: str, message: str, warning: bool = False) -> None:
        """Have an event posted; does not wait."""
        if not self.wanted:
            return
        if self._thread is None:
            self._thread = Thread(target=self._work, name="events", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait(self._event(pod, reason, message, warning=warning))
        except queue.Full:
            self._count("dropped")

    def close(self, seconds: float = 2.0) -> None:
        """Give what waits a moment, then give up."""
        if self._thread is None:
            return
        try:
            self._waiting.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(seconds)

    def _event(self, pod: PodRef, reason: str, message: str, *, warning: bool) -> dict[str, object]:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        involved = {"apiVersion": "v1", "kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid}
        return {
            "apiVersion": "v1",
            "kind": "Event",
            # As client-go names them: what it is about, and a moment.
            "metadata": {"namespace": pod.namespace, "name": f"{pod.name[:200]}.{int(now * 1e6):x}"},
            "involvedObject": {key: word for key, word in involved.items() if word},
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
        while (event := self._waiting.get()) is not None:
            try:
                self._send(event)
            except (OSError, ValueError) as fault:  # HTTPError and SSLError are OSErrors
                if not self._told:
                    self._told = True
                    self._tell(_words(fault))
                self._count("failed")
            else:
                self._count("posted")
                self._told = False

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
        # No proxy: the API server is inside.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with opener.open(request, timeout=SECONDS) as answer:
            answer.read(1 << 16)


def _words(fault: Exception) -> str:
    if isinstance(fault, urllib.error.HTTPError):
        try:
            said = str(json.loads(fault.read(1 << 16)).get("message", ""))
        except (OSError, ValueError, AttributeError):
            said = ""
        return f"the API server answered {fault.code}: {said or fault.reason}"
    return str(getattr(fault, "reason", fault))
