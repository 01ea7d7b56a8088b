"""For any input: one JSON document or nothing as output, a status that fits, and nothing touched elsewhere (C5)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.budget import ROOT, search
from tests.fuzz.calls import COMMANDS, WATCH, call, judged
from tests.fuzz.corpus import (
    CONF,
    NAMES,
    NASTY,
    PCI,
    PREVIOUS,
    VERSIONS,
    anything,
    damaged,
    encoded,
    places,
    replaced,
    varied,
)

# An invocation is a process: the kernel closes what it leaves open.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def in_host_namespace(conf: Any, place: str) -> Any:
    """Point its paths to our own folders; others are tried where they are refused or only read."""
    if isinstance(conf, dict):
        conf["stateDir"] = f"{place}/state"
        if conf.get("logFile"):
            conf["logFile"] = f"{place}/log"
        if isinstance(conf.get("ipam"), dict):
            conf["ipam"]["dataDir"] = f"{place}/networks"
        if isinstance(conf.get("runtimeConfig"), dict):
            conf["runtimeConfig"].pop("CNIDeviceInfoFile", None)
    return conf


def environment(command: str, place: str, **more: str) -> dict[str, str]:
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/proc/self/ns/net",
        "CNI_IFNAME": "net1",
        "CNI_PATH": f"{place}/bin",
        "CNI_NETNS_OVERRIDE": "1",
        **more,
    }


commands = st.sampled_from(COMMANDS)
# Variables are bytes; Python makes surrogates of those that are not UTF-8 (PEP 383).
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40) | st.binary(max_size=20).map(
    lambda content: os.fsdecode(content.replace(b"\0", b""))
)
pairs = st.sampled_from(
    ("guid=1", "IP=10.0.0.2", "IgnoreUnknown=1", "IgnoreUnknown=x", "K8S_POD_NAME=p\udcff", "=", "a")
)
arguments = texts | st.lists(pairs | texts, max_size=4).map(";".join)


def test_the_watch_sees_changes(tmp_path: Path) -> None:
    """A search that could never find anything would prove nothing."""
    with WATCH.watching():
        (tmp_path / "folder").mkdir()
        (tmp_path / "file").write_text("x")
        os.rename(tmp_path / "file", tmp_path / "other")
        (tmp_path / "link").symlink_to("/nowhere")
        with pytest.raises(FileNotFoundError):
            os.listdir("/var/lib/cni/nowhere")
    names = [os.path.basename(path) for path in WATCH.touched]
    assert names == ["folder", "file", "file", "other", "link"]
    assert WATCH.read == ["/var/lib/cni/nowhere"]


@pytest.mark.parametrize("stdout", [b"{}{}\n", b'{"code": 0}\n', b"x", b'{"cniVersion": NaN}\n', b""])
def test_wrong_answers_are_seen(stdout: bytes) -> None:
    with pytest.raises((AssertionError, ValueError)):
        judged(1, stdout, "ADD")


@search("stdin")
@given(commands, st.binary(max_size=200) | damaged(varied(CONF, 1).map(encoded)))
@example("ADD", b"")
@example("DEL", b"[" * 100_000)
@example("DEL", b'{"cniVersion":"1.1.0","name":"ibnet","x":' + b'{"a":' * 400 + b"1" + b"}" * 400 + b"}")
def test_standard_input(place: str, command: str, stdin: bytes) -> None:
    """Any bytes, and configurations damaged somewhere; those that parse must not name other folders."""
    try:
        document = json.loads(stdin)
    except (ValueError, RecursionError):
        document = None
    call(
        environment(command, place),
        stdin if document is None else encoded(in_host_namespace(document, place)),
        allowed=place,
    )


@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_each_value_in_each_place(place: str, command: str) -> None:
    """Without randomness: every member of a configuration with every value known to cause trouble."""
    for path in places(CONF):
        for value in NASTY:
            # A source of lower precedence is read only where the others have no value.
            sparse = {"cniVersion": "1.1.0", "name": "ibnet", path[0]: CONF[path[0]]}
            conf = in_host_namespace(replaced(sparse, path, value), place)
            call(environment(command, place), encoded(conf), allowed=place)


@search("configuration")
@given(commands, varied(CONF), st.sampled_from(VERSIONS))
def test_configuration(place: str, command: str, conf: Any, version: str) -> None:
    conf["cniVersion"] = version
    call(environment(command, place), encoded(in_host_namespace(conf, place)), allowed=place)


@search("environment")
@given(
    commands | texts,
    st.dictionaries(
        st.sampled_from(("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH", "CNI_NETNS_OVERRIDE")), texts
    ),
    arguments,
)
@example("ADD", {}, "K8S_POD_NAME=\udcff;IgnoreUnknown=1")
def test_environment(place: str, command: str, environ: dict[str, str], args: str) -> None:
    if command:
        conf = in_host_namespace({"cniVersion": "1.1.0", "name": "ibnet", "deviceID": PCI}, place)
        call({**environment(command, place), **environ, "CNI_ARGS": args}, encoded(conf), allowed=place)


@search("prevResult")
@given(st.sampled_from(("ADD", "CHECK", "DEL")), varied(PREVIOUS) | anything, st.sampled_from(VERSIONS))
def test_prev_result(place: str, command: str, before: Any, version: str) -> None:
    conf = in_host_namespace({"cniVersion": version, "name": "ibnet", "deviceID": PCI, "prevResult": before}, place)
    call(environment(command, place), encoded(conf), allowed=place)


RECORD: dict[str, Any] = {
    "schema": 1,
    "key": {"network": "ibnet", "container_id": "c1", "ifname": "net1"},
    "pci": PCI,
    "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
    "netns_path": "/proc/self/ns/net",
    "netns_cookie": 1,
    "pod": "train/worker-0",
    "since": 1700000000.5,
    "committed": True,
    "rdma_isolation": False,
    "driver": "mlx5_core",
    "had_netdev": "ib0",
    "had_altnames": ["ibp1s0v0"],
    "had_mtu": 2044,
    "had_up": False,
    "had_rdma": "mlx5_1",
    "had_uverbs": "uverbs1",
    "had_node_guid": "00:11:22:33:44:55:66:77",
    "had_port_guid": None,
    "had_config_node_guid": "00:11:22:33:44:55:66:77",
    "had_config_port_guid": "00:11:22:33:44:55:66:77",
    "had_link_state": "auto",
    "guid": "02:11:22:33:44:55:66:77",
    "node_guid": "02:11:22:33:44:55:66:77",
    "set_guid": True,
    "link_state": "",
    "conf": CONF,
    "args": "IgnoreUnknown=1;K8S_POD_NAME=p",
    "result": PREVIOUS,
}
GO_RECORD: dict[str, Any] = {
    "name": "ibnet",
    "Master": "ib0",
    "deviceID": PCI,
    "VFID": 0,
    "HostIFNames": "ib1",
    "HostIFGUID": "00:11:22:33:44:55:66:77",
    "ContIFNames": "net1",
    "link_state": "auto",
    "rdmaIsolation": True,
    "RdmaNetState": {"SandboxRdmaDevName": "mlx5_1", "ContainerRdmaDevName": "mlx5_1"},
    "ipam": {"type": "host-local"},
}
record_texts = varied(RECORD).map(encoded) | damaged(st.just(encoded(RECORD))) | anything.map(encoded)
go_texts = varied(GO_RECORD).map(encoded) | damaged(st.just(encoded(GO_RECORD)))
listed = st.sampled_from(([], [{"containerID": "c1", "ifname": "eth0"}], *NASTY))
owners = st.sampled_from(("ibnet/c1:net1", "../../../etc/passwd", "ibnet/c1:net1/..", "", "x"))


def record_with_own_folders(text: bytes, place: str) -> bytes:
    """A record whose configuration names our own folders. What is not JSON stays as it is: it is not used."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(document, dict):
        return text
    in_host_namespace(document.get("conf"), place)
    if isinstance(document.get("ipam"), dict):  # the Go plugin's record is the configuration itself
        document["ipam"]["dataDir"] = f"{place}/networks"
    return encoded(document)


def made_state(place: str, record: bytes | None, go: bytes | None, owner: str) -> Path:
    state = Path(place, "state")
    shutil.rmtree(state, ignore_errors=True)
    (state / "attachments/ibnet").mkdir(parents=True)
    (state / "devices").mkdir()
    if record is not None:
        (state / "attachments/ibnet/c1:net1.json").write_bytes(record_with_own_folders(record, place))
    if go is not None:
        (state / "c1-net1").write_bytes(record_with_own_folders(go, place))
    if owner:
        (state / f"devices/{PCI}").symlink_to(owner)
    return state


@search("records")
@given(st.sampled_from(("ADD", "DEL", "CHECK", "GC", "STATUS")), record_texts, go_texts, owners, listed)
def test_records(place: str, command: str, record: bytes, go: bytes, owner: str, valid: Any) -> None:
    """Our records and the Go plugin's, owners, lists of valid attachments; then a DEL, which must finish."""
    made_state(place, record, go, owner)
    conf = in_host_namespace({"cniVersion": "1.1.0", "name": "ibnet", "deviceID": PCI, "lockTimeout": 0}, place)
    conf["cni.dev/valid-attachments"] = valid
    if command == "CHECK":
        conf["prevResult"] = PREVIOUS
    call(environment(command, place), encoded(conf), allowed=place)
    call(environment("DEL", place, CNI_NETNS=""), encoded(conf), allowed=place)


def test_each_value_in_each_place_of_a_record(place: str) -> None:
    """Without randomness: every member of a record with every value known to cause trouble."""
    conf = in_host_namespace({"cniVersion": "1.1.0", "name": "ibnet", "deviceID": PCI, "lockTimeout": 0}, place)
    for path in places(RECORD):
        for value in NASTY:
            made_state(place, encoded(replaced(RECORD, path, value)), None, "ibnet/c1:net1")
            call(environment("DEL", place, CNI_NETNS=""), encoded(conf), allowed=place)


@pytest.mark.parametrize("name", NAMES)
def test_names_lead_nowhere(place: str, name: str) -> None:
    """Names of networks, containers and interfaces are rejected, or stay below the state directory."""
    for command in ("ADD", "DEL", "CHECK", "GC"):
        conf = in_host_namespace({**CONF, "name": name}, place)
        call(environment(command, place), encoded(conf), allowed=place)
        if "\0" not in name:
            for variable in ("CNI_CONTAINERID", "CNI_IFNAME"):
                environ = environment(command, place, **{variable: name})
                call(environ, encoded(in_host_namespace({**CONF}, place)), allowed=place)


@pytest.mark.parametrize("command", [*COMMANDS, "JUNK"])
def test_as_processes(place: str, command: str) -> None:
    """The same for the program itself, with a prepared state and inputs that are not text."""
    conf = in_host_namespace({**CONF}, place)
    inputs = [b"", b"\xff\xfe", encoded(conf), encoded({**conf, "name": None}), encoded(conf)[:-1], b"[" * 50_000]
    state = made_state(place, encoded(RECORD)[:300], encoded(GO_RECORD), "ibnet/c1:net1")
    for stdin in inputs:
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment(command, place)}
        done = subprocess.run(
            [sys.executable, "-m", "ib_sriov_cni"],
            input=stdin,
            env=environ,
            capture_output=True,
            check=False,
            cwd=place,
        )
        judged(done.returncode, done.stdout, command)
        assert b"Traceback" not in done.stderr, done.stderr.decode()
    assert state.is_dir()
    assert {path.name for path in Path(place).iterdir()} <= {"state", "networks", "log", "working-directory"}
