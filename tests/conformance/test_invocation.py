"""Environment, input, versions and errors: what needs no device to be decided (C1 to C6, C19)."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.conformance.runtime import (
    ABSENT,
    CONF,
    MULTUS_ARGS,
    NEWEST,
    VERSIONS,
    Runtime,
    refused,
    silent,
    since,
)
from tests.conformance.schemas import VERSION_INFO
from tests.lab.cni import PROJECT
from tests.lab.rig import Rig, guid_of

NEEDED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    "GC": ("CNI_PATH",),
}
MEBIBYTE = 1 << 20


@pytest.mark.parametrize("command", NEEDED)
def test_c01_variables_that_a_command_needs(ask: Runtime, command: str) -> None:
    """All of them absent: all of them named, and no other."""
    said = refused(ask(command, **ABSENT), 4)["msg"]
    assert {name for name in ABSENT if name in said} == set(NEEDED[command])


def test_c01_version_needs_its_command_alone(ask: Runtime) -> None:
    for stdin in (b"", b"junk"):
        run = ask("VERSION", stdin, **ABSENT)
        assert run.status == 0
        jsonschema.validate(run.out, VERSION_INFO)
        assert run.out == {"cniVersion": NEWEST, "supportedVersions": list(VERSIONS)}


def test_c01_status_without_cni_path(rig: Rig, ask: Runtime) -> None:
    silent(ask("STATUS", **ABSENT))
    assert rig.hca.numvfs


def test_c02_a_missing_variable_among_others(ask: Runtime) -> None:
    said = refused(ask("ADD", CNI_NETNS=None, CNI_IFNAME=None), 4)["msg"]
    assert "CNI_NETNS" in said
    assert "CNI_IFNAME" in said
    assert "CNI_CONTAINERID" not in said


def test_c02_an_unknown_command(ask: Runtime) -> None:
    for command in ("UPDATE", "add"):
        refused(ask(command), 4, f"{command!r}")


def test_c02_no_command_is_a_person(ask: Runtime) -> None:
    done = ask.run_shell('"$@" </dev/null', None)
    assert done.returncode == 0
    assert "CNI plugin" in done.stdout


def test_c03_container_ids(ask: Runtime) -> None:
    for container in ("-a", "a/b", "a\n", "\u00e4"):
        refused(ask("DEL", CNI_CONTAINERID=container), 4, "CNI_CONTAINERID")
    refused(ask("DEL", CNI_CONTAINERID=""), 3)
    silent(ask("DEL", CNI_CONTAINERID="Az0_.-"))


def test_c03_interface_names(ask: Runtime) -> None:
    for ifname in ("..", "a/b", "a:b", "a b", "a" * 16):
        refused(ask("DEL", CNI_IFNAME=ifname), 4, "CNI_IFNAME")
    silent(ask("DEL", CNI_IFNAME="a" * 15))


def test_c03_network_names(ask: Runtime) -> None:
    for name in ("..", "a/b", "", None):
        refused(ask("DEL", {**CONF, "name": name}), 7, "name")


def test_c04_input_that_cannot_be_read(ask: Runtime) -> None:
    refused(ask.shell('"$@" <&-', "DEL", CNI_NETNS="/n"), 5)
    refused(ask.shell('"$@" 0>/dev/null', "DEL", CNI_NETNS="/n"), 5)


@pytest.mark.parametrize(
    "stdin",
    [
        b"",
        b"{",
        b"null",
        b'["cniVersion"]',
        b'{"cniVersion":"1.1.0"}{}',
        b'{"cniVersion":"1.1.0","name":"ibnet","x":"\xff"}',
        b'{"cniVersion":"1.1.0","name":"ibnet","x":"\0"}',
        b'{"cniVersion":"1.1.0","name":"ibnet","name":"other"}',
        b'{"cniVersion":"1.1.0","name":"ibnet","x":NaN}',
        b'{"cniVersion":"1.1.0","name":"ibnet","x":"\\ud800"}',
        b"[" * 100_000,
        b'{"cniVersion":"1.1.0","name":"ibnet","x":' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"cniVersion":"1.1.0","name":"ibnet","x":"' + b"x" * MEBIBYTE + b'"}',
    ],
    ids=[
        "empty",
        "cut",
        "null",
        "list",
        "two",
        "invalid-utf8",
        "nul",
        "key-twice",
        "nan",
        "surrogate",
        "bomb",
        "deep",
        "long",
    ],
)
def test_c04_input_that_is_no_object(ask: Runtime, stdin: bytes) -> None:
    refused(ask("DEL", stdin), 6)


def test_c04_input_of_one_mebibyte(ask: Runtime) -> None:
    text = json.dumps({**CONF, "x": ""}).encode()
    silent(ask("DEL", text[:-2] + b"x" * (MEBIBYTE - len(text)) + text[-2:]))


def test_c04_every_fault_of_a_configuration(ask: Runtime) -> None:
    """Types are strict, and one answer names all that is wrong."""
    faults: dict[str, Any] = {
        "deviceID": "mlx5_0",
        "guid": "00:00",
        "link_state": "up",
        "rdmaIsolation": "true",
        "pkey": "0x8000",
        "mtu": 10,
        "ibKubernetesEnabled": 1,
        "portTimeout": -1,
        "lockTimeout": "5s",
        "ipamTimeout": True,
        "stateDir": "a\0b",
        "ipam": {"type": "dhcp"},
        "prevResult": {"ips": [{}]},
    }
    refused(ask("ADD", {**CONF, **faults}), 7, "and 3 more")  # ten are named
    names = list(faults)
    for part in (names[:8], names[8:]):
        refused(ask("ADD", {**CONF, **{name: faults[name] for name in part}}), 7, *part)
    refused(ask("ADD", {**CONF, "ipam": [], "runtimeConfig": "x", "args": 3}), 7, "ipam", "runtimeConfig", "args")
    refused(ask("ADD", CONF), 7, "deviceID must be the PCI address of a VF")


def test_c04_a_value_that_is_not_supported(rig: Rig) -> None:
    """Code 2 names key and value: isolation where the RDMA namespaces are shared."""
    run = rig.cni("ADD", rig.pod(), rig.conf(rdmaIsolation=True, guid=guid_of(1)))
    refused(run, 2, "rdmaIsolation needs", "it is shared", "netns_mode=0")
    rig.assert_as_before()


@pytest.mark.parametrize("version", VERSIONS)
def test_c05_error_documents(ask: Runtime, version: str) -> None:
    refused(ask("ADD", {**CONF, "cniVersion": version}), 7, version=version)


def test_c05_logs_are_not_on_stdout(ask: Runtime, tmp_path: Path) -> None:
    log = tmp_path / "log"
    run = ask("ADD", {**CONF, "deviceID": "0009:00:00.1", "logFile": str(log), "logLevel": "debug"})
    refused(run, 3, "/run/netns/none")
    assert "level=error" in run.stderr
    assert "level=error" in log.read_text()


def test_c05_an_internal_fault(rig: Rig, tmp_path: Path) -> None:
    """An installation that lacks a module: code 100 and which log has it, in one line; the host as before."""
    for package in ("ib_sriov_cni", "ipam"):
        shutil.copytree(PROJECT / package, tmp_path / "lib" / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "lib/ib_sriov_cni/state/device_info.py").unlink()
    log, conf_file = tmp_path / "log", tmp_path / "conf"
    info = str(tmp_path / "device-info.json")
    conf = rig.conf(guid=guid_of(1), logFile=str(log), runtimeConfig={"CNIDeviceInfoFile": info}, portTimeout=0)
    conf_file.write_text(json.dumps(conf))
    pod = rig.pod()
    environ = {"CNI_CONTAINERID": pod.container_id, "CNI_NETNS": pod.netns, "PYTHONPATH": str(tmp_path / "lib")}
    runtime = Runtime()
    runtime.cni.command = [sys.executable, "-m", "ib_sriov_cni"]  # a module can be taken out of the source alone
    run = runtime.shell(f'cd {tmp_path}/lib; "$@" <{conf_file}', "ADD", **environ)
    said = refused(run, 100, str(log))
    assert "ModuleNotFoundError" in said["msg"]
    assert "Traceback" not in run.stdout
    (line,) = [line for line in log.read_text().splitlines() if 'msg="internal fault"' in line]
    assert "ModuleNotFoundError: No module named 'ib_sriov_cni.state.device_info' (" in line
    assert "attach/add.py:" in line
    rig.assert_as_before()


def test_c06_versions(ask: Runtime) -> None:
    for version in ("0.0.9", "1.2.0", 1):
        refused(ask("ADD", {**CONF, "cniVersion": version}), 1)
    for conf in ({"name": "ibnet"}, {"name": "ibnet", "cniVersion": ""}):
        refused(ask("ADD", conf), 7, version="0.1.0")


@pytest.mark.parametrize(("command", "first"), [("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")])
def test_c06_commands_have_a_first_version(ask: Runtime, command: str, first: str) -> None:
    for version in VERSIONS:
        run = ask(command, {**CONF, "cniVersion": version, "ipam": {"type": 5}})
        if version in since(first):
            refused(run, 7, version=version)
        else:
            refused(run, 1, command, version=version if run.out["cniVersion"] == version else NEWEST)


def test_c19_cni_args(ask: Runtime) -> None:
    for args in ("COLOUR=red", "guid", "IgnoreUnknown=0;COLOUR=red", "IgnoreUnknown=maybe"):
        refused(ask("ADD", CNI_ARGS=args), 4, "CNI_ARGS")
    for args in ("COLOUR=red;IgnoreUnknown=1", "IgnoreUnknown=true;COLOUR=red", MULTUS_ARGS, "guid="):
        refused(ask("ADD", CNI_ARGS=args), 7, "deviceID must be the PCI address of a VF")
    silent(ask("DEL", CNI_ARGS="COLOUR=red"))
    refused(ask.shell(f"CNI_ARGS=$'IP=\\xff' \"$@\" <<<'{json.dumps(CONF)}'", "ADD", CNI_NETNS="/n"), 4, "UTF-8")


def test_c19_precedence_of_guids(ask: Runtime) -> None:
    """First runtimeConfig, then args.cni, CNI_ARGS, the configuration: the one that counts is named."""
    conf = {
        **CONF,
        "deviceID": "0001:00:00.1",
        "guid": "bad top",
        "args": {"cni": {"guid": "bad args.cni"}},
        "runtimeConfig": {"infinibandGUID": "bad capability"},
    }
    wanted = ["runtimeConfig.infinibandGUID", "args.cni.guid", "CNI_ARGS guid", "guid"]
    takes: list[Any] = [None, "runtimeConfig", "args", "CNI_ARGS"]
    environ = {"CNI_ARGS": "guid=bad-CNI_ARGS"}
    for place, take in zip(wanted, takes, strict=True):
        conf.pop(take, None)
        environ.pop(take, None)
        said = refused(ask("ADD", conf, **environ), 7)["msg"]
        assert f"network ibnet: {place} must be a GUID" in said, said
        assert said.count("bad") == 1


def test_c19_args_cni_of_any_type(ask: Runtime) -> None:
    """Unknown keys are ignored, whatever is in them; a known one of a wrong type is a fault that is named."""
    values: list[Any] = ["text", 5, 1.5, True, None, [1, {"a": None}], {"b": [[]]}]
    cni = {f"key{index}": item for index, item in enumerate(values)}
    said = refused(
        ask("ADD", {**CONF, "args": {"cni": cni, "other": values}}), 7, "deviceID must be the PCI address of a VF"
    )["msg"]
    assert "args" not in said
    for item in (5, 1.5, True, [1], {"a": 1}):
        refused(ask("ADD", {**CONF, "args": {"cni": {"guid": item}}}), 7, "args.cni.guid must be a GUID")
