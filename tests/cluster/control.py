"""A Kubernetes control plane as processes of the host, in the network namespace of the machines.

etcd and the API server. There is neither scheduler nor controller-manager: pods name their node, and no service
accounts are made; users are known by their tokens.
"""

from __future__ import annotations

import base64
import json
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.cluster.segment import HOST, Segment
from tests.lab.client_programs.kube import make_certificate
from tests.lab.client_programs.node import PROJECT, program
from tests.lab.commands import CommandFailed, run, wait

API = f"https://{HOST}:6443"
ETCD = "http://127.0.0.1:2379"
ETCD_PEER = "http://127.0.0.1:2380"
SERVICES = "10.96.0.0/16"


def token(user: str) -> str:
    return f"token-of-{user}"


class ControlPlane:
    """Started at once; `end` kills it."""

    def __init__(self, segment: Segment, folder: Path, *, nodes: Sequence[str]) -> None:
        self.segment = segment
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        users = [
            *("admin,admin,system:masters", "multus,multus"),
            *(f"system:node:{name},{name},system:nodes" for name in nodes),
        ]
        self.key, self.certificate = make_certificate(folder, HOST)
        self.admin = folder / "admin.kubeconfig"
        self.admin.write_text(self.kubeconfig("admin"))
        (folder / "tokens.csv").write_text("".join(f"{token(user.split(',')[0])},{user}\n" for user in users))
        run(["openssl", "genrsa", "-out", str(folder / "accounts.key"), "2048"])
        self.start_etcd()
        self.start_api_server()

    def kubeconfig(self, user: str) -> str:
        """How a user reaches the API server; JSON is YAML."""
        authority = base64.b64encode(self.certificate.read_bytes()).decode()
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "lab", "cluster": {"server": API, "certificate-authority-data": authority}}],
                "users": [{"name": user, "user": {"token": token(user)}}],
                "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
                "current-context": "lab",
            }
        )

    def start(self, name: str, words: Sequence[str]) -> None:
        with open(self.folder / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                self.segment.command(words), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def start_etcd(self) -> None:
        self.start(
            "etcd",
            [
                program("etcd"),
                *("--data-dir", str(self.folder / "etcd"), "--unsafe-no-fsync"),
                *("--listen-client-urls", ETCD, "--advertise-client-urls", ETCD),
                *("--listen-peer-urls", ETCD_PEER, "--initial-advertise-peer-urls", ETCD_PEER),
                *("--initial-cluster", f"default={ETCD_PEER}"),
            ],
        )

    def start_api_server(self) -> None:
        self.start(
            "kube-apiserver",
            [
                program("kube-apiserver"),
                *("--etcd-servers", ETCD, "--bind-address", HOST, "--advertise-address", HOST, "--secure-port", "6443"),
                *("--tls-cert-file", str(self.certificate), "--tls-private-key-file", str(self.key)),
                *("--token-auth-file", str(self.folder / "tokens.csv")),
                *("--authorization-mode", "Node,RBAC", "--allow-privileged"),
                # nobody makes service accounts here
                *("--disable-admission-plugins", "ServiceAccount"),
                *("--service-account-issuer", "https://kubernetes.default.svc"),
                *("--service-account-key-file", str(self.folder / "accounts.key")),
                *("--service-account-signing-key-file", str(self.folder / "accounts.key")),
                *("--service-cluster-ip-range", SERVICES, "--endpoint-reconciler-type", "none"),
                # nobody resolves the names of nodes here
                *("--kubelet-preferred-address-types", "InternalIP"),
            ],
        )

    def kill(self, name: str) -> None:
        """End one process as a crash would; a polite end of the API server takes a minute."""
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].wait()

    def end(self) -> None:
        for name in reversed(self.processes):
            self.kill(name)

    def said(self) -> str:
        """The last lines of what has ended, for the message of a failure."""
        dead = [name for name, process in self.processes.items() if process.poll() is not None]
        return "\n".join(f"{name}: {(self.folder / f'{name}.log').read_text()[-1000:]}" for name in dead)

    # ---- kubectl

    def run(
        self, words: Sequence[str], *, check: bool = True, timeout: float = 120, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl with arguments, as admin, in the project's folder; raises CommandFailed."""
        argv = self.segment.command([program("kubectl"), "--kubeconfig", str(self.admin), *words])
        done = subprocess.run(
            argv, input=stdin or "", capture_output=True, text=True, timeout=timeout, cwd=PROJECT, check=False
        )
        if check and done.returncode:
            raise CommandFailed(f"kubectl {' '.join(words)}: {(done.stderr or done.stdout).strip()}")
        return done

    def get(self, *words: str) -> Any:
        return json.loads(self.run(["get", *words, "-o", "json"]).stdout)

    def apply(self, documents: str) -> None:
        self.run(["apply", "-f", "-"], stdin=documents)

    def wait_until_ready(self, timeout: float = 200) -> None:
        def ready() -> bool:
            return self.run(["get", "--raw", "/readyz"], check=False).returncode == 0

        assert wait(ready, timeout, 0.5), f"no API server: {self.said()}"
