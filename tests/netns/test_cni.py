"""The plugin as a process, as far as it gets without a VF: one document, the right code, and nothing changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.netns.conftest import Sandbox

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
ABSENT = "0000:99:00.7"  # no machine has it; what needs a VF is tested in the lab
LOCKS = "/run/ib-sriov"


class Runtime:
    """Calls the plugin as a container runtime does."""

    def __init__(self, folder: Path, sandbox: Sandbox) -> None:
        self.folder = folder
        self.sandbox = sandbox
        self.conf: dict[str, Any] = {
            "cniVersion": "1.1.0",
            "name": "ib",
            "type": "ib-sriov",
            "deviceID": ABSENT,
            "stateDir": str(folder / "state"),
            "logFile": str(folder / "log"),
            "ipam": {"type": "host-local", "subnet": "10.1.2.0/24", "dataDir": str(folder / "networks")},
        }

    def call(
        self, command: str, changes: Mapping[str, str | None], stdin: bytes | None = None
    ) -> tuple[int, bytes, str]:
        environ = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": "c1",
            "CNI_NETNS": self.sandbox.path,
            "CNI_IFNAME": "net1",
            "CNI_PATH": str(self.folder / "bin"),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": ROOT,
        }
        for name, value in changes.items():
            environ.pop(name, None)
            if value is not None:
                environ[name] = value
        done = subprocess.run(
            [sys.executable, "-m", "ib_sriov_cni"],
            env=environ,
            input=json.dumps(self.conf).encode() if stdin is None else stdin,
            capture_output=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr.decode()

    def refusal(self, command: str, **changes: str | None) -> dict[str, Any]:
        """The error document of a call that fails and changes nothing."""
        before = self.world()
        status, out, err = self.call(command, changes)
        assert self.world() == before
        assert status == 1
        assert "Traceback" not in err
        document = json.loads(out)
        assert set(document) == {"cniVersion", "code", "msg", "details"}
        return dict(document)

    def success(self, command: str, **changes: str | None) -> None:
        before = self.world()
        assert self.call(command, changes) == (0, b"", "")
        assert self.world() == before

    def world(self) -> tuple[object, ...]:
        """Everything the plugin could have changed, except its log."""
        files = sorted(str(path) for path in self.folder.rglob("*") if path.name != "log")
        locks = sorted(os.listdir(LOCKS)) if os.path.isdir(LOCKS) else None
        return files, locks, self.sandbox.ip("addr"), self.sandbox.ip("route"), os.listdir("/sys/class/net")


@pytest.fixture
def runtime(tmp_path: Path, sandbox: Sandbox) -> Runtime:
    return Runtime(tmp_path, sandbox)


def test_c1_version(runtime: Runtime) -> None:
    everything = ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH")
    status, out, err = runtime.call("VERSION", dict.fromkeys(everything), b"junk")
    versions = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
    assert (status, err) == (0, "")
    assert json.loads(out) == {"cniVersion": "1.1.0", "supportedVersions": versions}


def test_c2_missing_variables(runtime: Runtime) -> None:
    document = runtime.refusal("ADD", CNI_CONTAINERID=None, CNI_NETNS=None, CNI_IFNAME=None, CNI_PATH=None)
    assert document["code"] == 4
    for name in ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"):
        assert name in document["msg"]


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
def test_c20_the_own_namespace(runtime: Runtime, command: str) -> None:
    runtime.conf["prevResult"] = {"cniVersion": "1.1.0", "interfaces": []}
    for path in ("/proc/self/ns/net", f"/proc/{os.getpid()}/ns/net"):
        document = runtime.refusal(command, CNI_NETNS=path)
        assert document["code"] == 8
        assert "own network namespace" in document["msg"]


def test_c20_unless_it_is_overridden(runtime: Runtime) -> None:
    for word in ("1", "true", "TRUE"):
        assert runtime.refusal("ADD", CNI_NETNS="/proc/self/ns/net", CNI_NETNS_OVERRIDE=word)["code"] == 101
    for word in ("", "0", "false", "yes"):
        assert runtime.refusal("ADD", CNI_NETNS="/proc/self/ns/net", CNI_NETNS_OVERRIDE=word)["code"] == 8


def test_a_device_that_is_absent(runtime: Runtime) -> None:
    document = runtime.refusal("ADD")
    assert (document["code"], document["cniVersion"]) == (101, "1.1.0")
    assert document["msg"] == f"deviceID {ABSENT}: there is no such PCI device"
    (line,) = Path(runtime.conf["logFile"]).read_text().splitlines()
    assert "cmd=ADD container=c1 if=net1 msg=refused code=101" in line


@pytest.mark.parametrize("device", ["junk", "/sys/bus/pci/devices/0000:99:00.7", "../0000:99:00.7", "0000:99:00.7/net"])
def test_a_device_that_is_junk(runtime: Runtime, device: str) -> None:
    runtime.conf["deviceID"] = device
    document = runtime.refusal("ADD")
    assert document["code"] == 7
    assert "deviceID must be a PCI address" in document["msg"]


def test_a_device_that_is_no_vf(runtime: Runtime) -> None:
    """PCI devices of this machine that are not VFs (a machine without PCI has none), and one that is absent."""
    folder = "/sys/bus/pci/devices"
    names = os.listdir(folder) if os.path.isdir(folder) else []
    for name in [name for name in names if not os.path.exists(f"{folder}/{name}/physfn")][:3]:
        runtime.conf["deviceID"] = name
        document = runtime.refusal("ADD")
        assert document["code"] == 101
        assert "not a VF" in document["msg"] or "not an SR-IOV virtual function" in document["msg"]
    runtime.conf["deviceID"] = ABSENT
    assert runtime.refusal("ADD")["code"] == 101


def test_c13_a_namespace_that_is_gone(runtime: Runtime, tmp_path: Path) -> None:
    assert runtime.refusal("ADD", CNI_NETNS="/run/netns/never-was")["code"] == 3
    (tmp_path / "file").write_text("")
    assert runtime.refusal("ADD", CNI_NETNS=str(tmp_path / "file"))["code"] == 4


def test_an_ipam_plugin_that_is_not_there(runtime: Runtime) -> None:
    runtime.conf["ipam"] = {"type": "whereabouts"}
    # The device may be checked first; either way nothing is changed.
    assert runtime.refusal("ADD")["code"] in {101, 104}


@pytest.mark.parametrize("netns", ["sandbox", "", "/run/netns/never-was", "/proc/self/ns/net", "/etc/passwd"])
def test_c13_a_del_of_what_never_was(runtime: Runtime, netns: str) -> None:
    path = runtime.sandbox.path if netns == "sandbox" else netns
    for _ in range(2):
        runtime.success("DEL", CNI_NETNS=path or None)


def test_c13_a_del_releases_the_address_of_an_attachment_without_record(runtime: Runtime) -> None:
    lease = Path(runtime.conf["ipam"]["dataDir"]) / "ib/10.1.2.9"
    lease.parent.mkdir(parents=True)
    lease.write_bytes(b"c1\r\nnet1")
    assert runtime.call("DEL", {}) == (0, b"", "")
    assert not lease.exists()


def test_c13_a_container_id_too_long_for_a_record(runtime: Runtime) -> None:
    runtime.success("DEL", CNI_CONTAINERID="c" * 300)
    assert runtime.refusal("ADD", CNI_CONTAINERID="c" * 300)["code"] in {101, 106}


def test_c15_a_check_of_what_never_was(runtime: Runtime) -> None:
    assert runtime.refusal("CHECK")["code"] == 7
    runtime.conf["prevResult"] = {"cniVersion": "1.1.0", "interfaces": [{"name": "net1"}]}
    document = runtime.refusal("CHECK")
    assert document["code"] == 105
    assert "there is no record of it" in document["msg"]


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_c6_every_version(runtime: Runtime, version: str) -> None:
    runtime.conf["cniVersion"] = version
    assert runtime.refusal("ADD")["cniVersion"] == version
    runtime.success("DEL")
