"""The agent's HTTP port answers probes while thousands of clients trickle their requests, with a limit on open files.

The server runs in its own process, with the limit that packaging/systemd sets.
"""

from __future__ import annotations

import http.client
import re
import resource
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipam.protocol.bounds import HTTP_CLIENTS

ROOT = Path(__file__).parents[2]
CLIENTS = 2_000
SECONDS = 8.0  # of attack: longer than the server's limit for a request
PROBE_SECONDS = 3.0  # the timeout of a probe in the manifests is 5 s
SERVER = """
import resource, sys
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
from ib_sriov_cni.agent.metrics import Metrics
from ib_sriov_cni.agent.web import Web
metrics = Metrics()
def refuse(reason, client, words):
    metrics.http_refusals.labels(reason).inc()
web = Web("127.0.0.1:0", metrics.registry, healthy=str, ready=str, on_refusal=refuse)
print(web.port, flush=True)
sys.stdin.read()
web.close()
"""


class Trickle:
    """Clients that send one byte a second each, and reconnect when they are disconnected."""

    def __init__(self, port: int) -> None:
        self.address = ("127.0.0.1", port)
        self.selector = selectors.DefaultSelector()
        self.closed = 0
        self.stop = False
        for _ in range(CLIENTS):
            self.connect()
        self.thread = threading.Thread(target=self.work)
        self.thread.start()

    def connect(self) -> None:
        link = socket.socket()
        link.setblocking(False)
        link.connect_ex(self.address)
        self.selector.register(link, selectors.EVENT_READ)

    def work(self) -> None:
        while not self.stop:
            turn = time.monotonic()
            for key in list(self.selector.get_map().values()):
                link = key.fileobj
                assert isinstance(link, socket.socket)
                try:
                    link.send(b"x")
                except BlockingIOError:
                    pass
                except OSError:
                    self.again(link)
            while (left := turn + 1 - time.monotonic()) > 0:
                for key, _ in self.selector.select(min(left, 0.1)):
                    assert isinstance(key.fileobj, socket.socket)
                    self.again(key.fileobj)

    def again(self, link: socket.socket) -> None:
        self.selector.unregister(link)
        link.close()
        self.closed += 1
        self.connect()

    def close(self) -> None:
        self.stop = True
        self.thread.join()
        for key in list(self.selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CLIENTS + 500
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), max(hard, wanted)))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def granted_descriptors() -> int:
    unit = (ROOT / "packaging/systemd/ib-sriov-agent.service").read_text()
    found = re.search(r"^LimitNOFILE=(\d+)$", unit, re.MULTILINE)
    assert found, "the unit sets no LimitNOFILE"
    return int(found[1])


@pytest.mark.usefixtures("many_descriptors")
def test_probes_are_answered_while_thousands_trickle() -> None:
    command = [sys.executable, "-c", SERVER, str(granted_descriptors())]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        trickle = Trickle(port)
        try:
            most = probe_for_a_while(port, server.pid)
            metrics = ask(port, "/metrics")
            status = Path(f"/proc/{server.pid}/status").read_text()
        finally:
            trickle.close()
        _, said = server.communicate("")
    assert said == ""
    assert server.returncode == 0
    assert most <= HTTP_CLIENTS + 50
    assert int(status.partition("\nThreads:")[2].split()[0]) <= 4
    assert trickle.closed > CLIENTS, "the attack did not reach the server"
    assert 'ib_sriov_agent_http_refusals_total{reason="crowded"}' in metrics


def probe_for_a_while(port: int, pid: int) -> int:
    """Probe the health endpoint repeatedly; return the highest number of descriptors the server had open."""
    end = time.monotonic() + SECONDS
    most = asked = 0
    while time.monotonic() < end:
        begun = time.monotonic()
        assert ask(port, "/healthz") == "ok\n"
        assert time.monotonic() - begun < PROBE_SECONDS
        most = max(most, len(list(Path(f"/proc/{pid}/fd").iterdir())))
        asked += 1
        time.sleep(0.05)
    assert asked > 5
    return most


def ask(port: int, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()
