"""The agent's HTTP server: /metrics for Prometheus, /healthz and /readyz for Kubernetes probes.

One thread serves all connections without blocking, and another renders the metrics. So a client that is slow, silent or
hostile costs a descriptor and bounds.HTTP_REQUEST_BYTES for some seconds. There are at most bounds.HTTP_CLIENTS
connections; one more takes the place of the one that has been sending its request for longest. A probe sends its
request as soon as it is connected, so it is answered however many others trickle theirs.

There is one request per connection, GET or HEAD. No library is used for it: http.server, which prometheus_client's own
server is made of, has a thread for each connection and a time limit for each recv(), so that a client that sends a byte
now and then keeps both for ever. Web frameworks are large for three pages, and bound the number of connections no more.
"""

from __future__ import annotations

import os
import queue
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder

from ipam.protocol.bounds import HTTP_CLIENTS, HTTP_REQUEST_BYTES

REQUEST_SECONDS = 5.0  # for the whole of a request's head
ANSWER_SECONDS = 10.0  # from there until the answer is sent
LINGER_SECONDS = 1.0  # for the client to close; if we did while something of it is unread, the answer could be lost
ACCEPTS = 32  # connections accepted in one turn
BACKLOG = 1024  # connections that wait to be accepted, in the kernel
PAUSE = 0.1  # seconds to wait if there is no descriptor for another connection
TEXT = "text/plain; charset=utf-8"
PAGES = "/metrics  Prometheus metrics\n/healthz  200 while the agent works\n/readyz   200 after its first pass\n"
STATUSES = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}
# Reasons for a refusal, the label values of ib_sriov_agent_http_refusals_total.
MALFORMED, LARGE, SLOW, CROWDED, FAILED = "malformed", "large", "slow", "crowded", "failed"
CONTROLS = frozenset((*range(9), *range(10, 32), 127))  # but for the tab

Probe = Callable[[], str]
"""Returns the reason for "no"; "" means yes."""
_Body = tuple[int, bytes, str]
"""Status, content and content type of an answer."""


def parse_listen(text: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT, [IPV6]:PORT or :PORT (all addresses, host ""). Raises ValueError.

    IPv6 without brackets is accepted, since a port always follows: a manifest may join $(HOST_IP):9743.
    """
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ValueError(
            f"{text!r} is not an address to listen on (expected HOST:PORT, like 127.0.0.1:9743 or [::1]:9743)"
        )
    return bare, int(port)


@dataclass(frozen=True, kw_only=True)
class HttpRequest:
    """What the server uses of a request."""

    method: str
    path: str
    accept: str = ""


def parse_request(head: bytes) -> HttpRequest:
    """Return the request in a head, which is everything before its empty line. Raises ValueError if it is malformed."""
    first, *rest = [line.removesuffix(b"\r") for line in head.split(b"\n")]
    if any(not CONTROLS.isdisjoint(line) for line in (first, *rest)):
        raise ValueError("it has control characters")
    words = first.decode("latin-1").split(" ")
    if len(words) != 3 or not words[0].isalpha() or words[2] not in {"HTTP/1.0", "HTTP/1.1"}:
        raise ValueError("its first line is not METHOD PATH HTTP/1.1")
    accept = []
    for line in rest:
        name, colon, text = line.decode("latin-1").partition(":")
        if not colon or not name or name != name.strip():
            raise ValueError("a header line is not NAME: TEXT")
        if name.lower() == "accept":
            accept.append(text.strip())
    return HttpRequest(method=words[0], path=words[1].partition("?")[0], accept=",".join(accept))


class _Client:
    """A connection and how far it is: its request is received, then perhaps rendered, then the answer is sent."""

    def __init__(self, link: socket.socket, address: str, seconds: float) -> None:
        self.link = link
        self.address = address
        self.received = bytearray()
        self.request: HttpRequest | None = None  # None until it is complete
        self.unsent: list[memoryview] = []  # parts, of which the metrics may be shared with other connections
        self.is_answered = False  # all is sent, and what the client still sends is dropped
        self.events = 0  # that it is registered for
        self.deadline = time.monotonic() + seconds


class Web:
    """Serves from its own threads until it is closed."""

    def __init__(
        self,
        listen: str,
        registry: CollectorRegistry,
        *,
        healthy: Probe,
        ready: Probe,
        before_scrape: Callable[[], None] = lambda: None,
        on_refusal: Callable[[str, str, str], None] = lambda _reason, _client, _words: None,
        request_seconds: float = REQUEST_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        """Start serving. Raises ValueError for an invalid address, OSError if it is not available.

        `on_refusal` gets the reason (one of the label values above), the client's address and words for each request
        that is not answered as asked. It and `before_scrape` are called from the server's threads.
        """
        self._request_seconds, self._answer_seconds = request_seconds, answer_seconds
        self._registry, self._before_scrape, self._on_refusal = registry, before_scrape, on_refusal
        self._probes = {"/healthz": healthy, "/readyz": ready}
        self._listener = _listen(*parse_listen(listen))
        self.port = int(self._listener.getsockname()[1])
        self._clients: dict[_Client, None] = {}  # in the order in which they came
        self._scrapes: dict[_Client, str] = {}  # that wait for the metrics, each with its header Accept
        self._is_rendering = False
        self._jobs: queue.SimpleQueue[list[tuple[_Client, str]] | None] = queue.SimpleQueue()
        self._rendered: queue.SimpleQueue[list[tuple[_Client, _Body]]] = queue.SimpleQueue()
        self._stop = False
        self._wake_reader, self._wake_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_reader, selectors.EVENT_READ, self._take_rendered)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._threads = [Thread(target=work, name="http", daemon=True) for work in (self._serve, self._render_jobs)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._stop = True
        self._jobs.put(None)
        self._wake()
        for thread in self._threads:
            thread.join()
        for client in list(self._clients):
            self._drop(client)
        self._selector.close()
        self._listener.close()
        os.close(self._wake_reader)
        os.close(self._wake_writer)

    # ---- The thread that serves

    def _serve(self) -> None:
        while not self._stop:
            try:
                self._serve_once()
            except Exception as fault:  # noqa: BLE001  # whatever happens, the probes must be answered
                self._refuse(FAILED, "", f"{type(fault).__name__}: {fault}")
                time.sleep(PAUSE)

    def _serve_once(self) -> None:
        first = min((client.deadline for client in self._clients), default=None)
        for key, _ in self._selector.select(None if first is None else max(0.0, first - time.monotonic())):
            if not isinstance(key.data, _Client):
                key.data()
            elif key.data in self._clients:  # it may have made room for another one just now
                self._go_on(key.data)
        now = time.monotonic()
        for client in [client for client in self._clients if client.deadline <= now]:
            self._give_up(client)

    def _accept(self) -> None:
        for _ in range(ACCEPTS):
            try:
                link, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as fault:
                self._refuse(CROWDED, "", f"no connection can be accepted: {fault}")
                self._make_room()
                time.sleep(PAUSE)
                return
            if len(self._clients) >= HTTP_CLIENTS:
                self._make_room()
            link.setblocking(False)
            client = _Client(link, str(address[0]), self._request_seconds)
            self._clients[client] = None
            self._watch(client, selectors.EVENT_READ)
            self._go_on(client)  # its request is usually there already

    def _make_room(self) -> None:
        """Close the connection that has been sending its request for longest, or else the oldest."""
        slowest = next((client for client in self._clients if client.request is None), None)
        oldest = slowest or next(iter(self._clients), None)
        if oldest is not None:
            self._refuse(CROWDED, oldest.address, f"closed to make room: there are {len(self._clients)} connections")
            self._drop(oldest)

    def _watch(self, client: _Client, events: int) -> None:
        """Wait for events of a connection; 0: for none, while its answer is rendered."""
        if client.events:
            self._selector.unregister(client.link)
        client.events = events
        if events:
            self._selector.register(client.link, events, client)

    def _go_on(self, client: _Client) -> None:
        """Receive or send what can be without waiting."""
        try:
            if client.unsent:
                self._send(client)
            else:
                self._receive(client)
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)  # it has closed the connection
        except Exception as fault:  # noqa: BLE001  # a defect met by one client must not end the server
            self._refuse(FAILED, client.address, f"{type(fault).__name__}: {fault}")
            self._drop(client)

    def _receive(self, client: _Client) -> None:
        data = client.link.recv(HTTP_REQUEST_BYTES)
        if not data:
            self._drop(client)
            return
        if client.request is not None or client.is_answered:
            return  # more than one request: the answer says that the connection will be closed
        client.received += data
        # An empty line may come before a request (RFC 9112, section 2.2).
        received = bytes(client.received).lstrip(b"\r\n")
        ends = [at for at in (received.find(b"\r\n\r\n"), received.find(b"\n\n")) if at >= 0]
        if ends and min(ends) < HTTP_REQUEST_BYTES:
            self._answer_request(client, received[: min(ends)])
        elif len(client.received) >= HTTP_REQUEST_BYTES:
            self._answer_refusal(client, 431, LARGE, f"the request has more than {HTTP_REQUEST_BYTES} bytes")

    def _answer_request(self, client: _Client, head: bytes) -> None:
        try:
            request = client.request = parse_request(head)
        except ValueError as fault:
            self._answer_refusal(client, 400, MALFORMED, f"the request cannot be read: {fault}")
            return
        client.deadline = time.monotonic() + self._answer_seconds
        if request.method not in {"GET", "HEAD"}:
            self._answer(client, 501, b"only GET and HEAD are supported\n")
        elif request.path == "/metrics":
            self._watch(client, 0)
            self._scrapes[client] = request.accept
            self._start_rendering()
        elif request.path in self._probes:
            why_not = self._probes[request.path]()
            self._answer(client, 503 if why_not else 200, f"{why_not or 'ok'}\n".encode())
        elif request.path == "/":
            self._answer(client, 200, PAGES.encode())
        else:
            self._answer(client, 404, b"not found\n")

    def _answer_refusal(self, client: _Client, status: int, reason: str, words: str) -> None:
        self._refuse(reason, client.address, words)
        self._answer(client, status, f"{words}\n".encode())

    def _answer(self, client: _Client, status: int, body: bytes, kind: str = TEXT) -> None:
        head = (
            f"HTTP/1.1 {status} {STATUSES[status]}\r\nServer: ib-sriov-agent\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        is_head = client.request is not None and client.request.method == "HEAD"
        client.received.clear()
        client.unsent = [memoryview(part) for part in (head.encode("latin-1"), b"" if is_head else body) if part]
        self._watch(client, selectors.EVENT_WRITE)
        self._send(client)

    def _send(self, client: _Client) -> None:
        while client.unsent:
            part = client.unsent[0]
            sent = client.link.send(part)
            client.unsent[:1] = [part[sent:]] if sent < len(part) else []
        client.is_answered = True
        client.deadline = time.monotonic() + LINGER_SECONDS
        client.link.shutdown(socket.SHUT_WR)
        self._watch(client, selectors.EVENT_READ)

    def _give_up(self, client: _Client) -> None:
        """Close a connection whose time is over; one whose request is incomplete gets 408 first."""
        if client.is_answered:
            self._drop(client)
        elif client.request is None and not client.unsent:
            client.deadline = time.monotonic() + LINGER_SECONDS
            words = f"the request was not complete after {self._request_seconds:g} s"
            try:
                self._answer_refusal(client, 408, SLOW, words)
            except OSError:
                self._drop(client)
        else:
            self._refuse(SLOW, client.address, f"the answer was not taken within {self._answer_seconds:g} s")
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        if client in self._clients:
            del self._clients[client]
            self._watch(client, 0)
            client.link.close()
            self._scrapes.pop(client, None)

    def _refuse(self, reason: str, address: str, words: str) -> None:
        try:
            self._on_refusal(reason, address, words)
        except Exception:  # noqa: BLE001, S110  # reporting a fault must not become one
            pass

    # ---- Rendering

    def _start_rendering(self) -> None:
        """Have the metrics rendered once for all who wait for them, unless they are being rendered now."""
        if self._scrapes and not self._is_rendering:
            self._is_rendering = True
            self._jobs.put(list(self._scrapes.items()))
            self._scrapes.clear()

    def _take_rendered(self) -> None:
        """Send what the other thread has rendered."""
        os.read(self._wake_reader, 4096)
        while not self._rendered.empty():
            self._is_rendering = False
            for client, body in self._rendered.get():
                if client in self._clients:
                    self._answer_rendered(client, body)
        self._start_rendering()

    def _answer_rendered(self, client: _Client, body: _Body) -> None:
        try:
            self._answer(client, *body)
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)

    def _render_jobs(self) -> None:
        while (scrapes := self._jobs.get()) is not None:
            self._try_before_scrape()
            bodies: dict[str, _Body] = {}
            for client, accept in scrapes:
                if accept not in bodies:
                    bodies[accept] = self._render(client.address, accept)
            self._rendered.put([(client, bodies[accept]) for client, accept in scrapes])
            self._wake()

    def _try_before_scrape(self) -> None:
        try:
            self._before_scrape()
        except Exception as fault:  # noqa: BLE001  # the other metrics are served
            self._refuse(FAILED, "", f"{type(fault).__name__}: {fault}")

    def _render(self, address: str, accept: str) -> _Body:
        """Return status, body and content type of the metrics, in the default format if `accept` cannot be read."""
        encode: Callable[[CollectorRegistry], bytes] = generate_latest
        kind = CONTENT_TYPE_PLAIN_0_0_4
        try:
            encode, kind = choose_encoder(accept)
        except Exception as fault:  # noqa: BLE001  # prometheus_client parses versions in it as numbers
            self._refuse(MALFORMED, address, f"the header Accept cannot be read: {type(fault).__name__}: {fault}")
        try:
            return 200, encode(self._registry), kind
        except Exception as fault:  # noqa: BLE001  # the next scrape tries again
            self._refuse(FAILED, address, f"{type(fault).__name__}: {fault}")
            return 500, b"the metrics cannot be rendered: see the agent's log\n", TEXT

    def _wake(self) -> None:
        try:
            os.write(self._wake_writer, b"x")
        except BlockingIOError:
            pass  # it is awake


def _listen(host: str, port: int) -> socket.socket:
    if not host:
        host = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104  # requested by ":PORT"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # The kernel keeps a connection until its client has sent something (man 7 tcp). So a probe's request is there
        # when its connection is accepted, and no other client can displace it before.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, int(REQUEST_SECONDS))
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
