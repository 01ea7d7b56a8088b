"""containerd with its CRI, in the guest: start, kill, start again.

The distribution's, or 2.x of tests/tools/go-client in its place.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.lab import commands
from tests.lab.client_programs import image, packages
from tests.lab.client_programs.cri import Cri, CriError
from tests.lab.client_programs.node import program

SOCKET = "/run/containerd/containerd.sock"
LOG = Path("/run/containerd.log")
CONFIG = Path("/run/containerd-config.toml")
# Each major version with the newest format that it knows.
TEXT = {
    1: """\
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
""",
    2: """\
version = 3
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "{image}"
[plugins.'io.containerd.cri.v1.runtime']
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["{bin_dir}"]
    conf_dir = "{conf_dir}"
""",
}
# Those of 2.x, which come before the distribution's; runc is the distribution's.
PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr")


class Containerd:
    """One containerd with its state in /var/lib/containerd and /run/containerd."""

    def __init__(self, *, bin_dir: str, conf_dir: str, major: int = 1, cgroups: int = 2) -> None:
        if major == 2:
            packages.link("/usr/bin", [program(name) for name in PROGRAMS])
        packages.install("containerd")
        packages.own_tmpfs("/var/lib/containerd")
        packages.cgroups(cgroups)
        # a mount made in a pod's mount namespace has to be seen from the host's, as under an init system
        commands.run(["mount", "--make-rshared", "/"])
        commands.run(["modprobe", "-a", "overlay", "veth", "bridge"])
        CONFIG.write_text(TEXT[major].format(image=image.NAME, bin_dir=bin_dir, conf_dir=conf_dir))
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
