"""The agent's HTTP server: /metrics for Prometheus, /healthz and /readyz for Kubernetes probes."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

CLIENT_TIMEOUT = 10.0  # seconds in which a client must send or receive something
PAGES = "/metrics  Prometheus metrics\n/healthz  200 while the agent works\n/readyz   200 after its first pass\n"

Probe = Callable[[], str]
"""Returns the reason for "no"; "" means yes."""


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
    ) -> None:
        """Start serving. Raises ValueError for an invalid address, OSError if it is not available."""
        host, port = parse_listen(listen)
        if not host:
            host = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104  # requested by ":PORT"
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._server = _Server((host, port), _Handler, family)
        self._server.registry, self._server.before_scrape = registry, before_scrape
        self._server.healthy, self._server.ready = healthy, ready
        self.port = int(self._server.server_address[1])
        self._thread = Thread(target=self._server.serve_forever, name="http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    registry: CollectorRegistry
    before_scrape: Callable[[], None]
    healthy: Probe
    ready: Probe

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], family: int) -> None:
        self.address_family = socket.AddressFamily(family)
        super().__init__(address, handler)

    def server_bind(self) -> None:
        # Like HTTPServer.server_bind, but without looking up our own host name, which may take long.
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, _request: object, _address: object) -> None:
        fault = sys.exc_info()[1]
        if not isinstance(fault, ConnectionError | TimeoutError):
            super().handle_error(_request, _address)  # type: ignore[arg-type]  # passed on unchanged


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = CLIENT_TIMEOUT
    protocol_version = "HTTP/1.1"
    server_version = "ib-sriov-agent"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self.server.before_scrape()
            encode, kind = choose_encoder(self.headers.get("Accept", ""))
            self._answer(200, encode(self.server.registry), kind)
        elif path in {"/healthz", "/readyz"}:
            why_not = (self.server.healthy if path == "/healthz" else self.server.ready)()
            self._answer(503 if why_not else 200, f"{why_not or 'ok'}\n".encode())
        elif path == "/":
            self._answer(200, PAGES.encode())
        else:
            self._answer(404, b"not found\n")

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_what: object) -> None:
        """Requests are not logged."""
