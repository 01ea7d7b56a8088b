"""Variables with bytes that are not UTF-8, and interface names that the kernel takes for templates: never code 100."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ib_sriov_cni.cni import run
from tests.ipam.calls import ROOT, ask, environment, here, leases

PCI = "0000:99:00.7"
BAD = "n\udcff\udcfe"  # as Python decodes b"n\xff\xfe" (PEP 383)
NAMES = ("CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH")


def network(folder: Path, **changes: Any) -> dict[str, Any]:
    ipam = {"type": "host-local", "dataDir": str(folder / "leases"), "subnet": "10.0.0.0/29"}
    own = {"cniVersion": "1.1.0", "name": "net", "type": "ib-sriov", "deviceID": PCI, "ipam": ipam}
    return {**own, "stateDir": str(folder / "state"), "logFile": str(folder / "log"), **changes}


def ask_plugin(command: str, conf: dict[str, Any], **environ: str) -> tuple[int, dict[str, Any]]:
    """Return the exit status and the document, which must be UTF-8 without escaped surrogates."""
    out = io.BytesIO()
    status = run({**environment(command), **environ}, io.BytesIO(json.dumps(conf).encode()), out)
    document: dict[str, Any] = json.loads(out.getvalue() or b"{}")
    json.dumps(document, ensure_ascii=False).encode()
    assert document.get("code") != 100, document
    return status, document


def text_of(name: str) -> str:
    return {"CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAME={BAD}", "CNI_NETNS": f"/{BAD}"}.get(name, BAD)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("command", ["ADD", "CHECK", "DEL", "GC", "STATUS"])
def test_bytes_that_are_not_utf8(command: str, name: str, tmp_path: Path) -> None:
    conf = network(tmp_path, prevResult={}, **{"cni.dev/valid-attachments": []})
    status, document = ask_plugin(command, conf, **{name: text_of(name)})
    if command in ("ADD", "CHECK") and name != "CNI_PATH":
        assert (document["code"], document["msg"]) == (4, f"{name} is not UTF-8")
    if command in ("DEL", "GC"):
        assert (status, document) == (0, {})


def test_a_container_id_that_is_not_utf8(tmp_path: Path) -> None:
    for command in ("ADD", "CHECK", "DEL"):
        assert ask_plugin(command, network(tmp_path), CNI_CONTAINERID=BAD)[1]["code"] == 4
    for command in ("GC", "STATUS"):
        conf = network(tmp_path, **{"cni.dev/valid-attachments": []})
        ask_plugin(command, conf, CNI_CONTAINERID=BAD)


@pytest.mark.parametrize("name", ["net%d", "%", "%s%s", "a%%b"])
def test_templates_are_refused_by_add_and_survived_by_del(name: str, tmp_path: Path) -> None:
    conf = network(tmp_path)
    status, document = ask_plugin("ADD", conf, CNI_IFNAME=name)
    assert (status, document["code"]) == (1, 4)
    assert document["msg"] == f"CNI_IFNAME {name!r}: contains '%', which the kernel replaces or refuses"
    assert ask_plugin("DEL", conf, CNI_IFNAME=name) == (0, {})
    assert not (tmp_path / "state").exists()


def test_a_plugin_that_is_not_found_in_such_a_path(tmp_path: Path) -> None:
    conf = network(tmp_path, ipam={"type": "my-ipam"})
    status, document = ask_plugin("DEL", conf, CNI_PATH=BAD)
    assert (status, document["code"]) == (1, 104)
    assert r"n\udcff\udcfe" in document["msg"]


def test_host_local_releases_a_lease_of_the_go_plugin_with_such_a_name(tmp_path: Path) -> None:
    conf = network(tmp_path)
    folder = tmp_path / "leases" / "net"
    folder.mkdir(parents=True)
    (folder / "10.0.0.2").write_bytes(b"c\r\nn\xff\xfe")
    (folder / "10.0.0.3").write_bytes(b"c\r\nnet%d")
    assert ask("ADD", conf, ifname=BAD).code == 4
    for name in (BAD, "net%d"):
        assert here(conf, environment("DEL", ifname=name)).status == 0
    assert leases(str(folder)) == {}


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "POSIX"])
@pytest.mark.parametrize("module", ["ipam", "ib_sriov_cni"])
def test_the_programs(module: str, locale: str, tmp_path: Path) -> None:
    conf = json.dumps(network(tmp_path)).encode()
    for command, code in (("ADD", 4), ("DEL", None)):
        variables = {**environment(command), "PYTHONPATH": ROOT, "LC_ALL": locale, "PATH": os.environ["PATH"]}
        environ = {**{key.encode(): text.encode() for key, text in variables.items()}, b"CNI_IFNAME": b"n\xff\xfe"}
        done = subprocess.run(
            [sys.executable, "-m", module], input=conf, env=environ, capture_output=True, check=False, timeout=60
        )
        document = json.loads(done.stdout or b"{}")
        assert document.get("code") == code, document
