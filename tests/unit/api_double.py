"""A Kubernetes API server over TLS, with a certificate and a service account that go with it."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from ib_sriov_cni.agent.api_server import ANSWER_SECONDS, ApiServer

NODE = "node-7"


def make_certificate(folder: Path, name: str = "kubernetes") -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 and its key."""
    files = folder / f"{name}.crt", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run([*command, "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    return files


def make_account(folder: Path, certificate: tuple[Path, Path]) -> Path:
    """Make the folder of a service account that trusts the certificate."""
    account = folder / "account"
    account.mkdir()
    (account / "token").write_text("t0ken\n")
    (account / "ca.crt").write_text(certificate[0].read_text())
    return account


def client(port: int, account: Path, seconds: float = ANSWER_SECONDS, **environ: str) -> ApiServer:
    """Return the API server at a port as the agent on NODE has it."""
    where = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(port), "NODE_NAME": NODE}
    return ApiServer({**where, **environ}, root=str(account), seconds=seconds)


class Api(HTTPServer):
    """Accepts events and tells of nodes, or refuses both."""

    def __init__(self, certificate: tuple[Path, Path]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.got: list[tuple[str, str, Any]] = []
        self.asked: list[str] = []
        self.nodes: dict[str, object] = {}
        self.status = 201
        self.port = int(self.server_address[1])

    def handle_error(self, *_what: object) -> None:
        """Ignore it: a client that rejects the certificate is part of the test."""


class Handler(BaseHTTPRequestHandler):
    server: Api

    def do_POST(self) -> None:
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.got.append((self.path, self.headers["Authorization"], event))
        answer = b"{}" if self.server.status == 201 else b'{"message": "events is forbidden"}'
        self._answer(self.server.status, answer)

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        node = self.server.nodes.get(self.path.removeprefix("/api/v1/nodes/"))
        if self.server.status >= 300:
            self._answer(self.server.status, b'{"message": "nodes is forbidden"}')
        elif node is None:
            self._answer(404, b'{"message": "no such node"}')
        else:
            self._answer(200, json.dumps(node).encode())

    def _answer(self, status: int, answer: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_what: object) -> None:
        """Keep the server's log out of the test output."""


@contextmanager
def serving(certificate: tuple[Path, Path]) -> Iterator[Api]:
    """An API server that answers until the end."""
    server = Api(certificate)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
