"""DEL: addresses are released as the ADD reserved them, though the network or the node has changed since."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ib_sriov_cni.attach.delete import delete
from ib_sriov_cni.attach.host import Host
from ib_sriov_cni.core.configuration import parse_netconf
from ib_sriov_cni.core.known_keys import KNOWN
from ib_sriov_cni.core.pod_choices import restrict_choices
from ib_sriov_cni.state.node_defaults import apply_defaults
from ib_sriov_cni.telemetry.log import Log
from ipam.protocol.request import Request, parse_request
from ipam.protocol.value import replace
from tests.unit.trees import KEY, RECORD

IPAM = {"type": "host-local", "subnet": "10.0.0.0/24"}


class Node:
    """A state directory with one record of a former boot, whose devices are gone: addresses are left to release."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.host = Host(
            log=Log(path=str(root / "log")),
            state_dir=str(root / "state"),
            lock_dir=str(root / "run"),
            sysfs_root=str(root / "sys"),
            proc_root=str(root / "proc"),
        )

    def added(self, conf: dict[str, Any]) -> None:
        """Write the record that an ADD with a configuration leaves."""
        document = {"cniVersion": "1.0.0", "name": KEY.network, **conf}
        self.host.records.write(replace(RECORD, boot_id="another", committed=True, conf=document))

    def lease(self, folder: Path) -> Path:
        path = folder / KEY.network / "10.0.0.2"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{KEY.container_id}\r\n{KEY.ifname}")
        return path

    def delete(self, conf: dict[str, Any], defaults: dict[str, object] | None = None) -> None:
        environ = {
            "CNI_COMMAND": "DEL",
            "CNI_CONTAINERID": KEY.container_id,
            "CNI_IFNAME": KEY.ifname,
            "CNI_PATH": str(self.root),
        }
        stdin = json.dumps({"cniVersion": "1.0.0", "name": KEY.network, **conf}).encode()
        asked: Request = parse_request(environ, stdin, known_args=frozenset(), names=KNOWN)
        asked = apply_defaults(asked, defaults or {})
        delete(self.host, restrict_choices(asked, []), parse_netconf(asked, lenient=True))
        assert self.host.records.read(KEY) is None


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.mark.parametrize("changed", [{"dataDir": "/nowhere"}, {"type": "nosuch"}, {"type": ""}])
def test_another_ipam_since(node: Node, tmp_path: Path, changed: dict[str, str]) -> None:
    ipam = {**IPAM, "dataDir": str(tmp_path / "leases")}
    lease = node.lease(tmp_path / "leases")
    node.added({"ipam": ipam})
    node.delete({"ipam": {**ipam, **changed}})
    assert not lease.exists()


def test_the_same_ipam(node: Node, tmp_path: Path) -> None:
    ipam = {**IPAM, "dataDir": str(tmp_path / "leases")}
    lease = node.lease(tmp_path / "leases")
    node.added({"ipam": ipam})
    node.delete({"ipam": ipam})
    assert not lease.exists()


def test_keys_in_a_case_that_the_version_of_the_add_did_not_know(node: Node, tmp_path: Path) -> None:
    """That version took the default for `DataDir`, and its record has the key as it was."""
    ipam = {"type": "host-local", "subnet": "10.0.0.0/24", "dataDir": str(tmp_path / "one"), "DataDir": "/two"}
    lease = node.lease(tmp_path / "one")
    node.added({"ipam": ipam})
    node.delete({"ipam": {**ipam, "dataDir": None}})
    assert not lease.exists()


def test_an_executed_plugin_gets_what_the_pod_chose(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node's defaults forbid the choice since; the plugin needs it, to release the address."""
    program = tmp_path / "made"
    program.write_text(f"#!/bin/sh\ncat > {tmp_path}/asked\n")
    program.chmod(0o755)
    monkeypatch.setenv("CNI_PATH", str(tmp_path))
    conf = {"ipam": {"type": "made"}, "args": {"cni": {"ips": ["10.0.0.2"]}}}
    node.added(conf)
    node.delete(conf, {"podMayChoose": []})
    assert json.loads((tmp_path / "asked").read_text())["args"] == conf["args"]
