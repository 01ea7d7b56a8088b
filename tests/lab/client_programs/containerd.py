"""containerd with its CRI, in the guest: start, kill, start again."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.lab import commands
from tests.lab.client_programs import image, packages
from tests.lab.client_programs.cri import Cri, CriError

SOCKET = "/run/containerd/containerd.sock"
LOG = Path("/run/containerd.log")
CONFIG = Path("/run/containerd-config.toml")
# Version 2 of the format is read by containerd 1.6 and 2.
TEXT = """\
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{bin_dir}"
    conf_dir = "{conf_dir}"
"""


class Containerd:
    """One containerd with its state in /var/lib/containerd and /run/containerd."""

    def __init__(self, *, bin_dir: str, conf_dir: str) -> None:
        packages.install("containerd")
        packages.own_tmpfs("/var/lib/containerd")
        packages.cgroups()
        # a mount made in a pod's mount namespace has to be seen from the host's, as under an init system
        commands.run(["mount", "--make-rshared", "/"])
        commands.run(["modprobe", "-a", "overlay", "veth", "bridge"])
        CONFIG.write_text(TEXT.format(image=image.NAME, bin_dir=bin_dir, conf_dir=conf_dir))
        self.process: subprocess.Popen[bytes] | None = None
        self.cri: Cri
        self.start()
        commands.run(["ctr", "-n", "k8s.io", "images", "import", str(image.make_image(Path("/run/image.tar")))])

    def start(self, **environment: str) -> None:
        """Start it, and wait until it serves the CRI with a network; plugins see its environment."""
        with open(LOG, "ab") as log:
            self.process = subprocess.Popen(
                ["containerd", "-c", str(CONFIG)], stdout=log, stderr=log, env={**os.environ, **environment}
            )
        process = self.process

        def serves() -> bool:
            assert process.poll() is None, f"containerd ended with {process.returncode}: {tail()}"
            cri = Cri(SOCKET)
            try:
                if not cri.network_ready():
                    self.cri = cri
                    return True
            except CriError:
                pass
            cri.close()
            return False

        assert commands.wait(serves, 90, 0.2), f"containerd does not serve its CRI: {tail()}"

    def kill(self) -> None:
        """Kill it as a crash would, without a chance to say goodbye; its pods run on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        # not before: containerd kills the plugins of a call whose caller has gone
        self.cri.close()

    def remove_pods(self) -> None:
        """Remove every pod, whatever state a test has left."""
        if self.process is None or self.process.poll() is not None:
            self.start()
        for pod in self.cri.pods():
            self.cri.stop_pod(pod)
            self.cri.remove_pod(pod)

    def end(self) -> None:
        """Stop it."""
        if self.process is None or self.process.poll() is not None:
            return
        self.cri.close()
        self.process.terminate()
        self.process.wait(30)


def tail(lines: int = 30) -> str:
    """Give the last lines of containerd's log, for the message of a failure."""
    return "\n".join(LOG.read_text(errors="replace").splitlines()[-lines:]) if os.path.exists(LOG) else "(no log)"
