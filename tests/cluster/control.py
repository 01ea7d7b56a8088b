"""A Kubernetes control plane as processes of the host, in the network namespace of the machines.

etcd and the API server; users are known by their tokens. A small one has neither scheduler nor controller-manager: pods
name their node, and no service accounts are made. A full one has both, and keeps an audit log.
"""

from __future__ import annotations

import base64
import json
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.cluster.parts import Parts
from tests.cluster.segment import HOST, Segment
from tests.lab.client_programs.kube import make_certificate
from tests.lab.client_programs.node import PROJECT, program
from tests.lab.commands import CommandFailed, run, wait

API = f"https://{HOST}"
ETCD = "http://127.0.0.1:2379"
ETCD_PEER = "http://127.0.0.1:2380"
PODS = "10.244.0.0/16"
SERVICES = "10.96.0.0/16"
KUBERNETES = "10.96.0.1"
"""The service of that name: an address of the namespace, so that nobody has to translate it to the API server's."""
CONTROLLERS = ("kube-scheduler", "kube-controller-manager")
AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    # what pods ask: the rest would be too much
    "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}, {"level": "None"}],
}


def token(user: str) -> str:
    return f"token-of-{user}"


class ControlPlane:
    """Started at once; `end` kills it."""

    def __init__(
        self, segment: Segment, folder: Path, *, nodes: Sequence[str], parts: Parts, full: bool = False
    ) -> None:
        self.segment = segment
        self.folder = folder
        self.parts = parts
        self.full = full
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        users = [
            *("admin,admin,system:masters", "multus,multus", "flanneld,flanneld"),
            *(f"system:{name},{name}" for name in CONTROLLERS),
            *(f"system:node:{name},{name},system:nodes" for name in nodes),
        ]
        self.key, self.certificate = make_certificate(folder, HOST, KUBERNETES, "127.0.0.1")
        self.admin = self.write_kubeconfig("admin")
        (folder / "tokens.csv").write_text("".join(f"{token(user.split(',')[0])},{user}\n" for user in users))
        run(["openssl", "genrsa", "-out", str(folder / "accounts.key"), "2048"])
        segment.ip(f"address add {KUBERNETES}/32 dev lo")
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

    def write_kubeconfig(self, user: str) -> Path:
        path = self.folder / f"{user.rpartition(':')[2]}.kubeconfig"
        path.write_text(self.kubeconfig(user))
        return path

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
        accounts = str(self.folder / "accounts.key")
        words = [
            *("--etcd-servers", ETCD, "--advertise-address", HOST, "--secure-port", "443"),
            *("--tls-cert-file", str(self.certificate), "--tls-private-key-file", str(self.key)),
            *("--token-auth-file", str(self.folder / "tokens.csv")),
            *("--authorization-mode", "Node,RBAC", "--allow-privileged"),
            *("--service-account-issuer", "https://kubernetes.default.svc"),
            *("--service-account-key-file", accounts, "--service-account-signing-key-file", accounts),
            *("--service-cluster-ip-range", SERVICES, "--endpoint-reconciler-type", "none"),
            # nobody resolves the names of nodes here
            *("--kubelet-preferred-address-types", "InternalIP"),
        ]
        if self.full:
            policy = self.folder / "audit-policy.json"
            policy.write_text(json.dumps(AUDIT))
            words += ["--audit-policy-file", str(policy), "--audit-log-path", str(self.audit_log)]
            words += ["--audit-log-mode", "blocking"]
        else:
            # nobody makes service accounts here
            words += ["--disable-admission-plugins", "ServiceAccount"]
        self.start("kube-apiserver", [program(self.parts.api_server), *words])

    @property
    def audit_log(self) -> Path:
        return self.folder / "audit.log"

    def start_controller(self, name: str) -> None:
        """The scheduler or the controller-manager; without an API server they end."""
        words = ["--kubeconfig", str(self.write_kubeconfig(f"system:{name}")), "--leader-elect=false"]
        if name == "kube-controller-manager":
            words += ["--service-account-private-key-file", str(self.folder / "accounts.key")]
            words += ["--root-ca-file", str(self.certificate), "--use-service-account-credentials"]
            words += ["--allocate-node-cidrs", "--cluster-cidr", PODS, "--service-cluster-ip-range", SERVICES]
            # an emulated node is slow
            words += ["--node-monitor-grace-period", "3m"]
        self.start(name, [program(name), *words])

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

    def kubectl(self, words: Sequence[str]) -> list[str]:
        """The command for kubectl with arguments, as admin.

        It has a cache of its own: API servers of other clusters have this one's address.
        """
        own = ["--kubeconfig", str(self.admin), "--cache-dir", str(self.folder / "cache")]
        return self.segment.command([program("kubectl"), *own, *words])

    def run(
        self, words: Sequence[str], *, check: bool = True, timeout: float = 120, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl with arguments, as admin, in the project's folder; raises CommandFailed."""
        argv = self.kubectl(words)
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
        """Wait for the API server; the first time the controllers of a full control plane are started then."""

        def ready() -> bool:
            # /readyz came with 1.16
            return self.run(["get", "--raw", "/healthz"], check=False).returncode == 0

        assert wait(ready, timeout, 0.5), f"no API server: {self.said()}"
        for name in CONTROLLERS if self.full else ():
            if name not in self.processes:
                self.start_controller(name)
