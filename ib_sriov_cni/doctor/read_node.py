"""Reads facts about the node around the plugin: kernel, programs in CNI_PATH, Multus, kubelet's devices, log files.

<CNI_PATH>/ib-sriov                                     this plugin, or the Go plugin of the same name
<CNI_PATH>/multus, multus-shim                          thin Multus, or the shim of thick Multus
/run/multus/multus.sock                                 the daemon of thick Multus
/var/lib/kubelet/device-plugins/*.sock                  kubelet's socket, and those of device plugins
/var/lib/kubelet/plugins_registry/*.sock                those of device plugins that kubelet finds itself, as SR-IOV's
/var/lib/kubelet/device-plugins/kubelet_internal_checkpoint     {"Data": {"RegisteredDevices": {resource: [id]}}}
/run/k8s.cni.cncf.io/devinfo/dp/<resource>-<id>-device.json     what the device plugin says of a VF
"""

from __future__ import annotations

import os
import stat
import subprocess

from ib_sriov_cni.doctor.facts import MULTUS_PROGRAMS, PLUGIN, DevicePlugin, NodeFacts, ProgramFacts
from ib_sriov_cni.doctor.reader_processes import describe_exception
from ib_sriov_cni.kernel.sysfs import read_attribute
from ib_sriov_cni.state.directory import list_names
from ipam.protocol.bounds import NODE_FILE_BYTES
from ipam.protocol.fastjson import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.doctor.facts import Network, Options, Roots

GO_MARK = b"\xff Go buildinf:"  # debug/buildinfo of the Go toolchain
MULTUS_SOCKETS = ("/run/multus/multus.sock", "/run/multus/socket/multus.sock")
KUBELET_FOLDER = "/var/lib/kubelet/device-plugins"
REGISTRY = "/var/lib/kubelet/plugins_registry"  # kubelet's plugin watcher looks here (pkg/kubelet/pluginmanager)
NOT_DEVICE_PLUGIN = "-reg.sock"  # CSI and DRA drivers, which register there too
DEVINFO = "/run/k8s.cni.cncf.io/devinfo/dp"


def read_node(roots: Roots, options: Options, networks: tuple[Network, ...]) -> NodeFacts:
    """Return all facts about the node; programs may take up to `options.seconds` to answer."""
    seconds = options.seconds * 0.8
    release = read_attribute(f"{roots.proc}/sys/kernel/osrelease")
    folders = [roots.path(folder) for folder in options.cni_path]
    paths = [f"{folder}/{name}" for folder in folders for name in list_names(folder)]
    return NodeFacts(
        kernel=parse_release(release),
        release=release,
        root=os.geteuid() == 0,
        plugin=next((read_program(path, roots, seconds) for path in paths if os.path.basename(path) == PLUGIN), None),
        programs=frozenset([os.path.basename(path) for path in paths if os.access(path, os.X_OK)]),
        multus=tuple([path for path in paths if os.path.basename(path) in MULTUS_PROGRAMS]),
        multus_socket=any(_is_socket(roots.path(path)) for path in MULTUS_SOCKETS),
        device_plugin=_read_device_plugin(roots),
        log_folders=tuple(_read_logs(roots, networks)),
    )


def parse_release(release: str) -> tuple[int, int]:
    """Return the first two numbers of a kernel release, (0, 0) if there are none."""
    parts = release.split(".")
    digits = [part.partition("-")[0] for part in parts[:2]]
    return (int(digits[0]), int(digits[1])) if len(digits) == 2 and all(part.isdigit() for part in digits) else (0, 0)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def read_program(path: str, roots: Roots, seconds: float) -> ProgramFacts:
    """Find out which plugin a file is by running it; a Go program is recognized by its build information instead."""
    kind, version, fault, slow = "unknown", "", "", ""
    executable = os.path.isfile(path) and os.access(path, os.X_OK)
    if not executable:
        return ProgramFacts(path=path, executable=False, kind=kind, version="", fault="it cannot be executed")
    try:
        with open(path, "rb") as file:
            if GO_MARK in file.read(NODE_FILE_BYTES):
                return ProgramFacts(path=path, executable=True, kind="go", version="", fault="")
    except OSError as refusal:
        return ProgramFacts(path=path, executable=True, kind=kind, version="", fault=describe_exception(refusal))
    if roots.root:  # a program of another root file system may not run here
        return ProgramFacts(path=path, executable=True, kind=kind, version="", fault="")
    try:
        environ = {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}
        done = subprocess.run(
            [path, "version"],
            check=False,
            capture_output=True,
            timeout=seconds,
            env=environ,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as refusal:
        if isinstance(refusal, OSError):
            fault = describe_exception(refusal)
        else:
            slow = f"no answer within {seconds:g} s"
    else:
        words = done.stdout.decode(errors="replace").split()
        if done.returncode == 0 and words[:1] == [PLUGIN] and len(words) == 2:
            kind, version = "ours", words[1]
        elif done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            fault = f"it exits with status {done.returncode}: {said[-1][:200] if said else 'no output'}"
    return ProgramFacts(path=path, executable=True, kind=kind, version=version, fault=fault, slow=slow)


def _read_device_plugin(roots: Roots) -> DevicePlugin:
    folder = roots.path(KUBELET_FOLDER)
    names = [name for name in list_names(folder) if name.endswith(".sock")]
    watched = [name for name in list_names(roots.path(REGISTRY)) if name.endswith(".sock")]
    names += [name for name in watched if not name.endswith(NOT_DEVICE_PLUGIN)]
    resources, reason = None, ""
    try:
        with open(f"{folder}/kubelet_internal_checkpoint", "rb") as file:
            resources = parse_checkpoint(loads(file.read(NODE_FILE_BYTES)))
    except FileNotFoundError:
        reason = "kubelet has written no checkpoint"
    except (OSError, ValueError) as fault:
        reason = (
            describe_exception(fault) if isinstance(fault, OSError) else f"its checkpoint cannot be parsed: {fault}"
        )
    return DevicePlugin(
        kubelet=os.path.isdir(folder) or os.path.isdir(roots.path("/var/lib/kubelet")),
        sockets=tuple(dict.fromkeys(names)),
        resources=resources,
        devinfo=tuple(_read_devinfo(roots)),
        reason=reason,
    )


def parse_checkpoint(doc: object) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the registered devices by resource. ValueError if `doc` is not a checkpoint."""
    data = doc.get("Data") if isinstance(doc, dict) else None
    if not isinstance(data, dict):
        raise ValueError("it has no Data")  # noqa: TRY004  # a fault of the document, not of the program
    registered = data.get("RegisteredDevices")
    if not isinstance(registered, dict):
        registered = {}  # null before the first device plugin has registered
    return tuple(
        [
            (str(name), tuple([str(device) for device in devices] if isinstance(devices, list) else []))
            for name, devices in sorted(registered.items())
        ]
    )


def _read_devinfo(roots: Roots) -> list[tuple[str, str, str]]:
    found = []
    for name in list_names(roots.path(DEVINFO)):
        try:
            with open(roots.path(f"{DEVINFO}/{name}"), "rb") as file:
                doc = loads(file.read(NODE_FILE_BYTES))
        except (OSError, ValueError):
            continue
        device = doc.get("pci") if isinstance(doc, dict) else None
        if isinstance(device, dict):
            found.append((name, str(device.get("pci-address", "")), str(device.get("rdma-device", ""))))
    return found


def _read_logs(roots: Roots, networks: tuple[Network, ...]) -> list[tuple[str, str]]:
    """Return each log file that cannot be written, with the reason."""
    found = []
    for path in dict.fromkeys([network.log_file for network in networks if network.log_file]):
        there = roots.path(path)
        folder = os.path.dirname(there)
        if not os.path.isdir(folder):
            found.append((path, "its folder does not exist"))
        elif os.path.islink(there):
            found.append((path, "it is a symbolic link, which is not followed"))
        elif os.path.isdir(there):
            found.append((path, "it is a folder"))
        elif os.geteuid() == 0 and not os.access(there if os.path.exists(there) else folder, os.W_OK):
            found.append((path, "it cannot be written"))
    return found
