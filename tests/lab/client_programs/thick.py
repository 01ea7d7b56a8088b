"""Thick Multus: a daemon in a root file system of its own, which runs delegates under a chroot of the host."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.lab import commands
from tests.lab.client_programs import multus, node
from tests.lab.client_programs.kube import Kube

ROOT = Path("/run/thick")
BIN_DIR = "/opt/cni/bin"
LOG = Path("/run/multus-daemon.log")
SOCKETS = Path("/run/multus")
ACCOUNT = Path("/run/thick-account")
# host's folder to the place in the daemon's root, as the project's own daemon set mounts them
BINDS = {
    BIN_DIR: "opt/cni/bin",
    "/run": "host/run",
    "/run/netns": "run/netns",
    "/run/k8s.cni.cncf.io": "run/k8s.cni.cncf.io",
    "/var/lib/cni/multus": "var/lib/cni/multus",
    "/var/lib/kubelet": "var/lib/kubelet",
    str(ACCOUNT): "run/secrets/kubernetes.io/serviceaccount",
    "/proc": "proc",
    "/dev": "dev",
}


class Thick:
    """The daemon; what it is to know of the cluster has to be known to `kube` already."""

    def __init__(self, kube: Kube) -> None:
        node.bin_folder(Path(BIN_DIR), ["bridge", "host-local"], copies=True)
        for folder in (*BINDS, *(str(ROOT / place) for place in BINDS.values()), str(ROOT / "hostroot"), str(SOCKETS)):
            Path(folder).mkdir(parents=True, exist_ok=True)
        for folder in ("etc/cni/net.d", "var", "usr/bin"):
            (ROOT / folder).mkdir(parents=True, exist_ok=True)
        if not (ROOT / "var/run").exists():
            (ROOT / "var/run").symlink_to("../run")
        (ROOT / "usr/bin/multus-daemon").write_bytes(Path(node.program("multus-daemon")).read_bytes())
        (ROOT / "usr/bin/multus-daemon").chmod(0o755)
        settings = {
            "cniVersion": "1.0.0",
            "chrootDir": "/hostroot",
            "socketDir": "/host/run/multus/",
            # without "auto" this version of the daemon serves nothing and ends
            "cniConfigDir": "/etc/cni/net.d",
            "multusAutoconfigDir": "/etc/cni/net.d",
            "multusConfigFile": "auto",
            "logLevel": "debug",
            "logToStderr": True,
            "binDir": BIN_DIR,
        }
        node.write_conf(ROOT / "etc/cni/net.d", multus.cluster_network("1.0.0"), "10-cbr0.conf")
        (ROOT / "etc/daemon.json").write_text(json.dumps(settings))
        # namespaces that come later have to be seen in the daemon's mounts (HostToContainer)
        commands.run(["mount", "--make-rshared", "/"])
        binds = [f"mount --rbind {host} {ROOT / place}" for host, place in BINDS.items()]
        start = f"exec chroot {ROOT} /usr/bin/multus-daemon -config /etc/daemon.json"
        script = " && ".join([f"mount --rbind / {ROOT}/hostroot", *binds, start])
        environment = {
            "PATH": os.environ["PATH"],
            # its root has no /etc/passwd to look root up in
            "USER": "root",
            "HOME": "/root",
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(kube.port),
            "MULTUS_NODE_NAME": "node",
        }
        with open(LOG, "wb") as log:
            self.process = subprocess.Popen(
                ["unshare", "-m", "--propagation", "slave", "sh", "-c", script],
                env=environment,
                cwd="/",
                stdout=log,
                stderr=log,
            )

        def serves() -> bool:
            assert self.process.poll() is None, f"multus-daemon ended with {self.process.returncode}: {tail()}"
            return "open for business" in LOG.read_text(errors="replace")

        assert commands.wait(serves, 90, 0.2), f"multus-daemon does not serve: {tail()}"

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def conf(version: str, delegate: dict[str, Any]) -> dict[str, Any]:
    """What the runtime hands to the shim."""
    return {
        "cniVersion": version,
        "name": "multus-cni-network",
        "type": "multus-shim",
        "daemonSocketDir": str(SOCKETS),
        "delegates": [delegate],
    }


def tail(lines: int = 40) -> str:
    """Give the last lines of the daemon's log, for the message of a failure."""
    return "\n".join(LOG.read_text(errors="replace").splitlines()[-lines:])
