"""podman with its CNI backend, in the guest."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from tests.lab import commands
from tests.lab.client_programs import image, node, packages

FOLDER = Path("/run/podman-lab")
STORAGE = "/var/lib/containers"
# No systemd here: cgroups by their file system, events and logs to files.
TEXT = """\
[network]
network_backend = "cni"
cni_plugin_dirs = ["{folder}/bin"]
network_config_dir = "{folder}/net.d"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
[containers]
log_driver = "k8s-file"
"""


class Podman:
    """podman with a configuration of its own and one image."""

    def __init__(self) -> None:
        packages.install("podman")
        packages.own_tmpfs(STORAGE)
        packages.cgroups()
        FOLDER.mkdir(parents=True, exist_ok=True)
        node.bin_folder(FOLDER / "bin")
        (FOLDER / "containers.conf").write_text(TEXT.format(folder=FOLDER))
        self.use({"cniVersion": "1.0.0", "name": "none", "plugins": [{"type": "ib-sriov"}]})
        self("load", "-q", "-i", str(image.make_image(FOLDER / "image.tar")))

    def use(self, conf: dict[str, Any]) -> None:
        """Have one network configuration, and no other."""
        node.write_conf(FOLDER / "net.d", conf)

    def __call__(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "CONTAINERS_CONF": str(FOLDER / "containers.conf")}
        # vfs: layers are copied, nothing is asked of the kernel
        argv = ["podman", "--storage-driver", "vfs", *words]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=180, check=False)
        if check and done.returncode:
            raise commands.CommandFailed(f"{' '.join(argv)}: {done.returncode}: {done.stdout}{done.stderr}")
        return done
