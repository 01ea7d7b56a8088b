"""A node of the cluster, from inside the machine: containerd, Multus, kubelet, the device plugin, our plugin.

eth0 is flannel's plugin's (it delegates to bridge and host-local); flanneld (host-gw) runs, or its subnet.env is
written by hand.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.cluster.parts import Parts
from tests.lab import commands
from tests.lab.client_programs import containerd, node, packages
from tests.lab.client_programs.cri import Cri, CriError

CNI_BIN = Path("/opt/cni/bin")
CNI_CONF = Path("/etc/cni/net.d")
SHARED = Path("/run/out")  # the host has put the images, kubeconfigs and the device plugin's configuration there
KUBELET_CONFIG = Path("/etc/kubernetes/kubelet.json")
PODS = "10.244.0.0/16"
FOLDERS = ("/var/lib/kubelet", "/var/lib/cni", "/var/log", "/etc/cni", "/etc/kubernetes", str(CNI_BIN))
STATE = (*FOLDERS, "/var/lib/containerd")  # what a node with a disk has on it
DISK = Path("/run/disk")
SUBNET_ENV = Path("/run/flannel/subnet.env")
FLANNEL_CONFIG = Path("/etc/kube-flannel/net-conf.json")
MODULES = ("overlay", "veth", "bridge", "br_netfilter")
SETTINGS = {
    "net/ipv4/ip_forward": 1,
    # what kubelet wants, and would set itself
    "vm/overcommit_memory": 1,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
}
# what kube-flannel installs as 10-flannel.conflist, without portmap and without masquerading, which wants iptables
FLANNEL = {
    "cniVersion": "0.3.1",
    "name": "cbr0",
    "type": "flannel",
    "delegate": {"hairpinMode": True, "isDefaultGateway": True, "ipMasq": False},
}
KUBELET: dict[str, Any] = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    # the API server of this cluster has no certificate that kubelet could check
    "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
    "authorization": {"mode": "AlwaysAllow"},
    "containerRuntimeEndpoint": f"unix://{containerd.SOCKET}",
    "cgroupDriver": "cgroupfs",
    "failSwapOn": False,
    # the root is an overlay on a tmpfs, of which kubelet cannot tell the size
    "localStorageCapacityIsolation": False,
    "evictionHard": dict.fromkeys(("memory.available", "nodefs.available", "imagefs.available"), "0%"),
    "imageGCHighThresholdPercent": 100,
    "nodeStatusUpdateFrequency": "5s",
    "runtimeRequestTimeout": "10m",
    "resolvConf": "",
}


def subnet(number: int) -> str:
    return f"10.244.{number}.0/24"


def start(name: str, words: Sequence[str]) -> None:
    """Start a program of the node; its log is /var/log/NAME.log."""
    with open(f"/var/log/{name}.log", "ab") as log:
        subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=node.PROJECT
        )


def use_disk() -> None:
    """Mount the machine's disk, and put on it what a real node keeps over a boot."""
    commands.run(["modprobe", "-a", "virtio_blk", "ext4"])
    DISK.mkdir()
    commands.run(["mount", "/dev/vda", str(DISK)])
    for folder in STATE:
        there = DISK / folder.lstrip("/")
        for path in (there, Path(folder)):
            path.mkdir(parents=True, exist_ok=True)
        commands.run(["mount", "--bind", str(there), folder])


def write_subnet(number: int, routes: dict[int, str]) -> None:
    """What flanneld would do; `routes` has the address of each other node by its number."""
    SUBNET_ENV.parent.mkdir(exist_ok=True)
    gateway = subnet(number).replace(".0/24", ".1/24")
    lines = {"NETWORK": PODS, "SUBNET": gateway, "MTU": "1500", "IPMASQ": "false"}
    SUBNET_ENV.write_text("".join(f"FLANNEL_{key}={value}\n" for key, value in lines.items()))
    for other, address in routes.items():
        commands.run(["ip", "route", "replace", subnet(other), "via", address])


def start_flanneld(name: str) -> None:
    """It waits for the node's podCIDR, and sets the routes to the other nodes."""
    node.write_conf(FLANNEL_CONFIG.parent, {"Network": PODS, "Backend": {"Type": "host-gw"}}, FLANNEL_CONFIG.name)
    words = [node.program("flanneld"), "--kube-subnet-mgr", "--kubeconfig-file", str(SHARED / "flanneld.kubeconfig")]
    words += ["--iface", "eth0", "--ip-masq=false", "--iptables-forward-rules=false"]
    start("flanneld", ["env", f"NODE_NAME={name}", *words])
    assert commands.wait(SUBNET_ENV.exists, 200, 0.5), f"flanneld writes no {SUBNET_ENV}: {tail('flanneld')}"


def write_network() -> None:
    """Multus with eth0's network."""
    kubeconfig = CNI_CONF / "multus.d/multus.kubeconfig"
    kubeconfig.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(SHARED / kubeconfig.name, kubeconfig)
    conf = {
        "cniVersion": "0.3.1",
        "name": "multus-cni-network",
        "type": "multus",
        "kubeconfig": str(kubeconfig),
        "logFile": "/var/log/multus.log",
        "logLevel": "verbose",
        "delegates": [FLANNEL],
    }
    node.write_conf(CNI_CONF, conf, "00-multus.conf")


def kubelet_config(parts: Parts) -> dict[str, Any]:
    if not parts.kubelet_flags:
        return KUBELET
    newer = ("containerRuntimeEndpoint", "localStorageCapacityIsolation")
    config = {key: value for key, value in KUBELET.items() if key not in newer}
    return {**config, "featureGates": {"LocalStorageCapacityIsolation": False}}


def start_kubelet(name: str, address: str, parts: Parts) -> None:
    words = [
        node.program(parts.kubelet),
        *("--config", str(KUBELET_CONFIG), "--kubeconfig", str(SHARED / "kubeconfig")),
        *("--hostname-override", name, "--node-ip", address, "--v=2"),
    ]
    if parts.kubelet_flags:
        endpoint = str(KUBELET["containerRuntimeEndpoint"])
        words += ["--container-runtime", "remote", "--container-runtime-endpoint", endpoint, "--resolv-conf", ""]
    start("kubelet", words)

    def healthy() -> bool:
        words = ["busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:10248/healthz"]
        return commands.run(words, check=False).returncode == 0

    assert commands.wait(healthy, 200, 0.5), f"kubelet is not healthy: {tail('kubelet')}"


def start_device_plugin() -> None:
    start("device-plugin", [sys.executable, "-m", "tests.cluster.guest.device_plugin", str(SHARED / "devices.json")])


def kill(*programs: str) -> None:
    """End programs of the node as a crash would, by their names, and wait until they are gone."""

    def running() -> list[int]:
        return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/comm") if name_of(path) in programs]

    for pid in running():
        os.kill(pid, signal.SIGKILL)
    assert commands.wait(lambda: not running())


def name_of(comm: Path) -> str:
    """A process's name; "" if it has ended, a zombie included."""
    try:
        return comm.read_text().strip() if os.path.exists(comm.parent / "exe") else ""
    except (FileNotFoundError, ProcessLookupError):
        return ""


def runtime_answers() -> bool:
    runtime = Cri(containerd.SOCKET)
    try:
        runtime.version()
    except CriError:
        return False
    finally:
        runtime.close()
    return True


def start_again(*, name: str, address: str, parts: dict[str, Any]) -> None:
    """Start containerd and kubelet after they were killed."""
    start("containerd", ["containerd", "-c", str(containerd.CONFIG)])
    # kubelet ends when the runtime does not answer yet, and nothing here starts it again
    assert commands.wait(runtime_answers, 200, 0.2), tail("containerd")
    start_kubelet(name, address, Parts(**parts))


def tail(name: str, lines: int = 15) -> str:
    text = Path(f"/var/log/{name}.log").read_text(errors="replace")
    return "\n".join(text.splitlines()[-lines:])


def import_images(archives: Sequence[str]) -> None:
    """Import images that the host has shared, by the names of their archives, unless the disk has them already."""
    for archive in archives:
        done = Path("/var/lib/containerd") / f"{archive}.imported"
        if not done.exists():
            commands.run(["ctr", "-n", "k8s.io", "images", "import", str(SHARED / archive)], timeout=300)
            done.touch()
    # containerd does not sync what it unpacks
    commands.run(["sync"])


def up(
    *,
    name: str,
    number: int,
    address: str,
    parts: dict[str, Any],
    routes: dict[int, str] | None = None,
    images: Sequence[str] = ("ib-test.tar",),
    plugin: bool = True,
    disk: bool = False,
) -> None:
    """All of the node, once in a boot; nodes count from 1.

    `routes` has the address of each other node by its number, without it there is flanneld. Without `plugin` the CNI
    folder does not have ours. With `disk` the machine's disk keeps what a node's would.
    """
    made_of = Parts(**parts)
    commands.run(["modprobe", "-a", *MODULES])
    for path, value in SETTINGS.items():
        Path("/proc/sys", path).write_text(str(value))
    commands.run(["mount", "--make-rshared", "/"])
    if disk:
        use_disk()
    packages.own_tmpfs(*FOLDERS)
    commands.run(["mount", "--make-rshared", "/var/lib/kubelet"])
    node.bin_folder(CNI_BIN, [made_of.multus, *made_of.plugins], plugin=plugin)
    if routes is not None:
        write_subnet(number, routes)
    write_network()
    runtime = containerd.Containerd(
        bin_dir=str(CNI_BIN), conf_dir=str(CNI_CONF), major=made_of.containerd, cgroups=made_of.cgroups
    )
    runtime.cri.close()
    import_images(images)
    KUBELET_CONFIG.write_text(json.dumps(kubelet_config(made_of)))
    start_kubelet(name, address, made_of)
    if routes is None:
        start_flanneld(name)
    start_device_plugin()
    # containerd and kubelet stay: this process must not end them with itself
    os._exit(0)
