"""The API server, as a pod asks it: with its service account, and with a deadline and a bound for each answer.

The service account's files are below `root`: token (rotated, so it is read for each request) and ca.crt. The API server
is at KUBERNETES_SERVICE_HOST:KUBERNETES_SERVICE_PORT.

What is between us and it (a load balancer, a proxy) may answer anything, at any length and slowness. So all of an
answer has a deadline and a bound, and a redirection is not followed (the token would go with it).
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import time
from collections.abc import Mapping
from typing import Any

from ipam.protocol.bounds import FILE_BYTES, LOG_VALUE_BYTES, shorten
from ipam.protocol.files import read_regular

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
ANSWER_SECONDS = 10.0  # to connect, and again for the answer as a whole
TRANSIENT = (408, 429)  # and all from 500 on: not an answer to this request


class ApiFailure(Exception):
    """Why a request failed; `status` is that of the API server's refusal, 0 if it did not answer clearly."""

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


class ApiServer:
    """The API server of the cluster that this process runs in, if there is one."""

    def __init__(self, environ: Mapping[str, str], *, root: str = ACCOUNT, seconds: float = ANSWER_SECONDS) -> None:
        """Ask nothing yet."""
        self._host = environ.get("KUBERNETES_SERVICE_HOST", "")
        self._port = environ.get("KUBERNETES_SERVICE_PORT", "443")
        self.node = environ.get("NODE_NAME") or os.uname().nodename
        self._root = root
        self._seconds = seconds

    @property
    def is_known(self) -> bool:
        """Whether this process runs in a cluster and has a service account."""
        return bool(self._host) and os.path.exists(f"{self._root}/token")

    def ask(self, method: str, path: str, *, most: int, body: object = None) -> dict[str, object]:
        """Return the JSON object that is the answer to a request, of at most `most` bytes. Raises ApiFailure."""
        try:
            return self._ask(method, path, most, body)
        except (OSError, ValueError, http.client.HTTPException) as fault:  # SSLError is an OSError
            raise ApiFailure(describe_defect(fault)) from None

    def _ask(self, method: str, path: str, most: int, body: object) -> dict[str, object]:
        token = read_regular(f"{self._root}/token", FILE_BYTES, follow=True).decode("ascii").strip()
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
            sent = None if body is None else json.dumps(body).encode()
            connection.request(method, path, body=sent, headers=headers)
            with connection.getresponse() as answer:
                status, reason = answer.status, answer.reason
                found = answer.read(most + 1)
        finally:
            connection.close()
        if not 200 <= status < 300:
            words = _read_message(found, most) or _shorten(reason)
            raise ApiFailure(f"the API server answered {status}: {words}", status)
        return _read_object(found, most)


def _read_object(body: bytes, most: int) -> dict[str, object]:
    """Return the JSON object that an answer must be. Raises ApiFailure."""
    if len(body) > most:
        raise ApiFailure(f"the API server's answer is longer than {most} bytes")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as fault:
        raise ApiFailure(f"the API server's answer is not JSON: {describe_defect(fault)}") from None
    if not isinstance(found, dict):
        raise ApiFailure("the API server's answer is not a JSON object")
    return found


def _read_message(body: bytes, most: int) -> str:
    """Return the message of a refusal, "" if it cannot be found."""
    try:
        message = _read_object(body, most).get("message")
    except ApiFailure:
        return ""
    return _shorten(message) if isinstance(message, str) else ""


def describe_defect(fault: Exception) -> str:
    """Return a fault in a few words."""
    return _shorten(str(fault) or type(fault).__name__)


def _shorten(words: str) -> str:
    return shorten(words, LOG_VALUE_BYTES)
