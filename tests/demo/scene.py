"""`make pictures`, the guest's side: a node worth looking at, and what commands print of it on a terminal.

Each picture is a file <name>.ansi in the folder that is shared with the host: a command line, then the very bytes
that the command wrote to its terminal.
"""

from __future__ import annotations

import os
import pty
import shlex
import subprocess
import sys
from pathlib import Path

from ib_sriov_cni import cli
from tests.lab import emulated_hca
from tests.lab.cni import PROJECT, Cni
from tests.lab.commands import wait
from tests.lab.emulated_hca import Hca
from tests.lab.pod import Pod

WIDTH = 128
SHARED = Path("/run/out")
PICTURES = {
    "list": ("ib-sriov list", "ib-sriov list --tree --state in-use --state leftover"),
    "doctor": ("ib-sriov doctor",),
}
CONF = {
    "cniVersion": "1.1.0",
    "name": "fabric",
    "type": "ib-sriov",
    "link_state": "auto",
    "rdmaIsolation": True,
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "172.16.0.0/16"}]]},
}


def on_a_terminal(line: str) -> bytes:
    """Run a command with a terminal for its output; return the bytes."""
    words = shlex.split(line)
    command = [sys.executable, "-m", "ib_sriov_cni", *words[1:]]
    environ = {
        **{name: item for name, item in os.environ.items() if not name.startswith("CNI_") and name != "NO_COLOR"},
        "TERM": "xterm-256color",
        "COLORTERM": "truecolor",
        "COLUMNS": str(WIDTH),
    }
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, cwd=PROJECT, env=environ, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs):
        os.close(theirs)
        heard = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # EIO: the last process has closed it
                break
            if not part:
                break
            heard += part
    os.close(ours)
    return heard.replace(b"\r\n", b"\n")


def attach(cni: Cni, device: Hca, vf: int, name: str) -> Pod:
    pod = Pod(name, serial=vf)
    args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=train;K8S_POD_NAME={name}"
    done = cni("ADD", pod, {**CONF, "deviceID": device.pci(vf)}, env={"CNI_ARGS": args})
    assert done.status == 0, done.stdout + done.stderr
    return pod


def make_the_node() -> None:
    """The plugin installed, three pods, one of which died without its DEL, and a VF whose driver was unbound."""
    device = emulated_hca.load(vfs=6, total_vfs=8, preset=True, mode="exclusive")
    program = Path("/opt/cni/bin/ib-sriov")
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f"#!/bin/sh\ncd {PROJECT} && exec {sys.executable} -m ib_sriov_cni\n")
    program.chmod(0o755)
    cni = Cni()
    pods = [attach(cni, device, vf, name) for vf, name in enumerate(("worker-0", "worker-1", "eval-7d9f"))]
    pods[2].delete()
    assert wait(lambda: len(device.netdevs(2)) == 1 and device.rdma(2), 20)
    device.unbind(4)


def main() -> int:
    make_the_node()
    for name, lines in PICTURES.items():
        if name not in cli.COMMANDS:
            continue
        parts = [b"\x1b[1;32m$\x1b[0m " + line.encode() + b"\n" + on_a_terminal(line) for line in lines]
        (SHARED / f"{name}.ansi").write_bytes(b"\n".join(parts))
        print(f"{name}: {sum(map(len, parts))} bytes", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
