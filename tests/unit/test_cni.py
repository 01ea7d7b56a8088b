"""ib_sriov_cni.cni: whatever the input, the output is one JSON document or nothing (C5)."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ib_sriov_cni.cni import run
from ipam.protocol.versions import VERSIONS

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
ABSENT = "0000:99:00.7"  # no such PCI device anywhere
CODES = set(range(1, 9)) | {11, 50, 51} | set(range(101, 107))


def environment(command: str, **changes: str) -> dict[str, str]:
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/never-was",
        "CNI_IFNAME": "net1",
        "CNI_PATH": "/nowhere",
        **changes,
    }


def ask(environ: dict[str, str], conf: object) -> tuple[int, dict[str, Any] | None]:
    """Return the exit status and the document, if any; fail if the output is anything but one document or nothing."""
    out = io.BytesIO()
    stdin = conf if isinstance(conf, bytes) else json.dumps(conf).encode()
    status = run(environ, io.BytesIO(stdin), out)
    text = out.getvalue().decode()
    if status == 0 and not text:
        return 0, None
    document = json.loads(text)
    assert isinstance(document, dict)
    assert text.endswith("\n")
    if status:
        assert set(document) == {"cniVersion", "code", "msg", "details"}
        assert document["cniVersion"] in VERSIONS
        assert document["code"] in CODES, document
        assert document["msg"]
    return status, document


@pytest.fixture
def conf(tmp_path: Path) -> dict[str, Any]:
    return {
        "cniVersion": "1.1.0",
        "name": "ib",
        "type": "ib-sriov",
        "deviceID": ABSENT,
        "stateDir": str(tmp_path / "state"),
        "logFile": str(tmp_path / "log"),
    }


def test_c1_version_needs_no_configuration() -> None:
    status, document = ask({"CNI_COMMAND": "VERSION"}, b"")
    assert (status, document) == (0, {"cniVersion": "1.1.0", "supportedVersions": list(VERSIONS)})


@pytest.mark.parametrize(
    ("command", "changes", "conf_changes", "code", "words"),
    [
        ("ADD", {}, {}, 3, "open network namespace /run/netns/never-was: No such file"),
        ("CHECK", {}, {"prevResult": {}}, 3, "open network namespace"),
        ("CHECK", {}, {}, 7, "prevResult"),
        ("ADD", {}, {"deviceID": "mlx5_0"}, 7, "deviceID must be a PCI address like 0000:3b:00.2 (got 'mlx5_0')"),
        ("ADD", {}, {"deviceID": None}, 7, "deviceID must be the PCI address of a VF"),
        ("ADD", {"CNI_NETNS": "", "CNI_IFNAME": ""}, {}, 4, "CNI_NETNS, CNI_IFNAME"),
        ("ADD", {"CNI_ARGS": "X=1"}, {}, 4, "X is unknown"),
        ("ADD", {"CNI_CONTAINERID": "../c"}, {}, 4, "CNI_CONTAINERID"),
        ("ADD", {}, {"name": "../n"}, 7, "name"),
        ("ADD", {}, {"cniVersion": "2.0.0"}, 1, "2.0.0"),
        ("CHECK", {}, {"cniVersion": "0.3.1"}, 1, "CHECK"),
        ("JUMP", {}, {}, 4, "JUMP"),
        ("GC", {}, {}, 7, "valid-attachments"),
    ],
)
def test_refusals(
    conf: dict[str, Any], command: str, changes: dict[str, str], conf_changes: dict[str, Any], code: int, words: str
) -> None:
    status, document = ask(environment(command, **changes), {**conf, **conf_changes})
    assert document is not None
    assert (status, document["code"]) == (1, code), document
    assert words in document["msg"]
    assert not os.path.exists(conf["stateDir"])


@pytest.mark.parametrize("netns", ["", "/run/netns/never-was"])
def test_c13_a_del_of_nothing_succeeds(conf: dict[str, Any], netns: str) -> None:
    for _ in range(2):
        assert ask(environment("DEL", CNI_NETNS=netns), conf) == (0, None)
    assert not os.path.exists(conf["stateDir"])


def test_c13_a_del_with_every_key_wrong_succeeds(conf: dict[str, Any]) -> None:
    keys = ("deviceID", "guid", "link_state", "pkey", "mtu", "portTimeout", "lockTimeout", "logLevel")
    junk = dict.fromkeys(keys, ("x",))
    assert ask(environment("DEL", CNI_ARGS="junk;guid=x"), {**conf, **junk, "prevResult": {"ips": 5}}) == (0, None)


def test_a_refusal_is_in_the_log(conf: dict[str, Any]) -> None:
    ask(environment("ADD", CNI_ARGS="K8S_POD_NAMESPACE=n;K8S_POD_NAME=p"), conf)
    (line,) = Path(conf["logFile"]).read_text().splitlines()
    assert " level=error cmd=ADD pod=n/p container=c1 if=net1 msg=refused code=3 error=" in line


@pytest.mark.parametrize(
    ("command", "changes", "ending"),
    [
        ("DEL", {}, r"level=info cmd=DEL container=c1 if=net1 msg=done code=0 ms=\d+\.\d"),
        ("ADD", {}, r"level=error cmd=ADD container=c1 if=net1 msg=refused code=3 error=.* ms=\d+\.\d"),
        ("ADD", {"mtu": "x"}, r"level=error cmd=ADD container=c1 if=net1 msg=refused code=7 error=.* ms=\d+\.\d"),
    ],
)
def test_the_last_line_of_a_call_tells_how_it_ended(
    conf: dict[str, Any], command: str, changes: dict[str, Any], ending: str
) -> None:
    """The node agent counts these lines; there is one for an invalid configuration too."""
    ask(environment(command), {**conf, **changes})
    assert re.search(ending + "$", Path(conf["logFile"]).read_text().splitlines()[-1])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)
# No keys that hold a path: a random value would create a file of that name.
KEYS = [
    *("deviceID", "pciBusID", "guid", "link_state", "rdmaIsolation", "pkey", "mtu", "ibKubernetesEnabled", "args"),
    *("portTimeout", "lockTimeout", "logLevel", "prevResult", "runtimeConfig", "name", "cniVersion", "dns", "type"),
    *("cni.dev/valid-attachments", "cni.dev/attachments", "capabilities", "ipamTimeout"),
]
CHANGES = st.dictionaries(st.sampled_from(KEYS), JSON | st.dictionaries(st.sampled_from(KEYS), JSON), max_size=5)
VARIABLES = st.dictionaries(
    st.sampled_from(["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH", "CNI_ARGS"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12).map(lambda text: "?" + text)
    | st.sampled_from(["", "a-b", "net1", "guid=x", "IgnoreUnknown=1;guid=1", "/proc/self/ns/net", "x" * 300]),
    max_size=2,
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.sampled_from(["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"]), CHANGES, VARIABLES)
def test_c5_one_document_or_nothing(
    conf: dict[str, Any], command: str, changes: dict[str, Any], variables: dict[str, str]
) -> None:
    status, document = ask(environment(command, **variables), {**conf, **changes})
    if command != "VERSION":
        assert bool(status) == bool(document), "nothing on standard output on success: nothing can be attached here"
    assert not os.path.exists(conf["stateDir"])


@given(st.sampled_from(["ADD", "DEL", "CHECK", "GC", "STATUS"]), st.binary(max_size=40) | JSON.map(json.dumps))
def test_c4_any_bytes(command: str, stdin: bytes | str) -> None:
    status, document = ask(environment(command), stdin.encode() if isinstance(stdin, str) else stdin)
    assert document is not None
    assert status == 1


# ---- as a process


def call(command: str, shell: str = 'exec "$@"', stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    env = {**environment(command), "PATH": os.environ["PATH"], "PYTHONPATH": ROOT}
    program = [sys.executable, "-m", "ib_sriov_cni"]
    done = subprocess.run(["sh", "-c", shell, "sh", *program], env=env, input=stdin, capture_output=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_c1_version_with_closed_input() -> None:
    status, out, err = call("VERSION", 'exec "$@" <&-')
    assert (status, json.loads(out)["cniVersion"], err) == (0, "1.1.0", b"")


def test_c4_closed_input() -> None:
    status, out, _ = call("ADD", 'exec "$@" <&-')
    assert (status, json.loads(out)["code"]) == (1, 5)


@pytest.mark.parametrize("shell", ['exec "$@" >&-', 'exec "$@" >/dev/full'])
def test_output_that_cannot_be_written(shell: str) -> None:
    status, out, err = call("VERSION", shell)
    assert status != 0
    assert out == b""
    assert b"standard output cannot be written" in err
    assert b"Traceback" not in err


def test_c2_without_command_a_person_is_answered() -> None:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": ROOT}
    done = subprocess.run([sys.executable, "-m", "ib_sriov_cni"], env=env, capture_output=True, check=False)
    assert done.returncode == 0
    assert b"CNI plugin" in done.stdout
