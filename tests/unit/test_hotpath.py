"""What an invocation imports: a list, not a time (docs/performance.md, "What this means for the code").

Modules are loaded by a bare interpreter (`-I -S`), as the packed program loads them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
FORBIDDEN = {
    *("click", "asyncio", "ssl", "logging", "argparse", "typing", "json", "re", "enum", "dataclasses", "contextlib"),
    *("subprocess", "socket", "ipaddress", "pathlib", "tempfile", "shutil", "inspect", "traceback", "ctypes"),
    *("hashlib", "random", "threading", "signal", "pyverbs", "pyroute2", "pyroute2.iproute"),
}
# Not counted: what a bare interpreter has loaded by then, as the packed program has (io, os and what they import).
STARTED = "import sys; sys.path[:0] = {path!r}; started = set(sys.modules)\n"
TELL = "\nimport sys; sys.stderr.write('MODULES ' + ' '.join(sorted(set(sys.modules) - started)))"


def path_of_the_source() -> list[str]:
    """The sys.path with which a bare interpreter finds the two packages and their libraries."""
    return [ROOT, *[item for item in sys.path if item.endswith("-packages")]]


def load(code: str, *, stdin: bytes = b"", **environ: str) -> tuple[set[str], bytes]:
    """Run code in a bare interpreter; returns the modules it loaded and its standard output."""
    text = STARTED.format(path=path_of_the_source()) + code + TELL
    command = [sys.executable, "-I", "-S", "-c", text]
    done = subprocess.run(command, input=stdin, env=environ, capture_output=True, check=False)
    told = done.stderr.decode()
    assert done.returncode == 0, told
    assert "MODULES " in told, told
    return set(told.rpartition("MODULES ")[2].split()), done.stdout


MAIN = """
from ib_sriov_cni.__main__ import main
status = main()
"""

# The packed program answers VERSION without an interpreter; a checkout loads the entry point, but none of these.
BEHIND_THE_EDGE = {"ib_sriov_cni.attach", "ib_sriov_cni.core.configuration", "ipam.protocol.request", "ipam.host_local"}


def test_version_imports_next_to_nothing() -> None:
    modules, out = load(MAIN, CNI_COMMAND="VERSION")
    assert json.loads(out)["cniVersion"] == "1.1.0"
    assert not modules & (FORBIDDEN | BEHIND_THE_EDGE)


def test_the_ipam_plugin_imports_nothing_of_the_other() -> None:
    code = "import sys; sys.argv = ['/opt/cni/bin/ib-host-local']" + MAIN
    modules, out = load(code, CNI_COMMAND="VERSION")
    assert json.loads(out)["cniVersion"] == "1.1.0"
    assert not {name for name in modules if name.startswith("ib_sriov_cni.")} - {"ib_sriov_cni.__main__"}


CONF = {"cniVersion": "1.0.0", "name": "ib", "type": "ib-sriov", "deviceID": "0000:99:00.7"}


def invocation(command: str, state: Any) -> dict[str, str]:
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/proc/self/ns/net",
        "CNI_IFNAME": "net1",
        "CNI_PATH": "/nowhere",
        "CNI_NETNS_OVERRIDE": "1",
    }


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK"])
def test_an_invocation_as_far_as_it_goes_without_an_hca(command: str, tmp_path: Any) -> None:
    conf = {**CONF, "stateDir": str(tmp_path / "state"), "logFile": str(tmp_path / "log"), "prevResult": {}}
    modules, _ = load(MAIN, stdin=json.dumps(conf).encode(), **invocation(command, tmp_path))
    assert not modules & FORBIDDEN
    assert "ib_sriov_cni.attach" in modules
    assert "ib_sriov_cni.cli" not in modules


# What a whole attachment imports beyond the bare interpreter (tests/lab/attach/test_hotpath.py runs one). `_ctypes` is
# for setns(2) and prctl(2) before Python 3.12; `select` waits for devices and for the child's answer.
OF_THE_LIBRARY = {
    *("__future__", "_collections_abc", "_json", "_stat", "genericpath", "os", "os.path", "posixpath", "stat"),
    *("_collections", "_functools", "_socket", "_struct", "errno", "struct", "fcntl"),
}


def of(package: str, modules: str) -> set[str]:
    """A package and some of its modules."""
    return {package, *[f"{package}.{name}" for name in modules.split()]}


OF_IPAM = {
    "ipam",
    *of("ipam.protocol", "bounds edge errors fastjson files request spelling value versions result address"),
    *of("ipam.host_local", "plugin config ranges allocator store index lock"),
}
OF_ALL = {
    *("ib_sriov_cni", "ib_sriov_cni.__main__", "ib_sriov_cni.cni"),
    *of("ib_sriov_cni.core", "configuration errors known_keys pod_choices record values"),
    *of("ib_sriov_cni.telemetry", "fault_points log span"),
    *of("ib_sriov_cni.kernel", "netlink_messages netlink_socket netns pyroute2_loader rtnetlink stand_ins"),
    *of("ib_sriov_cni.kernel", "syscalls sysfs vf_settings"),
    *of("ib_sriov_cni.state", "directory go_records locks node_defaults ownership records"),
    *of("ib_sriov_cni.delegation", "execute ipam_plugin"),
    *of("ib_sriov_cni.attach", "host pod_namespace recorded_request"),
    *OF_THE_LIBRARY,
    *OF_IPAM,
}
# ADD needs these too, to undo itself.
OF_DEL = of("ib_sriov_cni.core", "device_numbers fault_collector plan") | of(
    "ib_sriov_cni.attach",
    "devices keep_identity keep_numbers pkey_interface restore_names rebind release remaining_users "
    "restore_guids return_devices",
)
OF_ADD = of(
    "ib_sriov_cni.attach", "add configure_interface guid_holders heal liveness move_into_pod set_identity verify_rdma"
)
COMPARISON = {"ib_sriov_cni.core.comparison", "ib_sriov_cni.core.routes"}
MODULES = {
    "ADD": OF_ALL | OF_DEL | OF_ADD | COMPARISON | {"ib_sriov_cni.kernel.rdma_verifier", "_ctypes", "select"},
    "CHECK": OF_ALL | COMPARISON | {"ib_sriov_cni.attach.check", "_ctypes"},
    "DEL": OF_ALL | OF_DEL | {"ib_sriov_cni.attach.delete"},
    # For the verifying child: beyond what its parent had loaded by then and pyverbs' own modules.
    "verify": {"cython_runtime", "ib_sriov_cni.kernel.pyverbs_loader"},
}
ISOLATED = {"ib_sriov_cni.kernel.rdma_netlink"}  # loaded for rdmaIsolation
REST = {
    "ADD": ("ib_sriov_cni.attach.add", "ib_sriov_cni.kernel.rdma_verifier"),
    "DEL": ("ib_sriov_cni.attach.delete",),
    "CHECK": ("ib_sriov_cni.attach.check",),
    "everything": (),
}
# Imported besides a command's own modules: those that functions import when called.
WITH = (
    "ib_sriov_cni.attach.host",
    "ib_sriov_cni.kernel.rtnetlink",
    "ib_sriov_cni.kernel.rdma_netlink",
    "ipam.host_local.plugin",
    "ipam.host_local.store",
)


def every_module() -> list[str]:
    names = []
    for package in ("ib_sriov_cni", "ipam"):
        for folder, _, files in os.walk(os.path.join(ROOT, package)):
            for file in files:
                name = os.path.relpath(os.path.join(folder, file), ROOT).removesuffix(".py").replace(os.sep, ".")
                cold = name.startswith(("ib_sriov_cni.agent", "ib_sriov_cni.cli", "ib_sriov_cni.doctor"))
                if file.endswith(".py") and not cold:
                    names.append(name.removesuffix(".__init__"))
    return sorted(names)


@pytest.mark.parametrize("command", list(REST))
def test_the_rest_of_the_way(command: str) -> None:
    names = [*REST[command], *WITH] if REST[command] else every_module()
    code = "\n".join(f"import {name}" for name in names if not name.endswith("__main__"))
    modules, _ = load(code)
    assert set(names) - modules <= {name for name in names if name.endswith("__main__")}
    assert not modules & FORBIDDEN
    # The partly loaded pyroute2 is not left in sys.modules: a later import gets the whole package.
    assert not {name for name in modules if name.startswith("pyroute2")}
    if command in MODULES:
        assert modules <= MODULES[command] | ISOLATED, modules - MODULES[command]
