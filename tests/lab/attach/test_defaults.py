"""/etc/ib-sriov/defaults.json: what it does to an attachment, and what it leaves alone when it changes or breaks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.rig import STATE, Rig, rigs

DEFAULTS = Path("/etc/ib-sriov/defaults.json")


@pytest.fixture(scope="module")
def loaded() -> Iterator[Rig]:
    yield from rigs("exclusive")


@pytest.fixture(autouse=True)
def without_a_file() -> Iterator[None]:
    DEFAULTS.parent.mkdir(exist_ok=True)
    yield
    DEFAULTS.unlink(missing_ok=True)


def write(found: Any) -> None:
    DEFAULTS.write_text(found if isinstance(found, str) else json.dumps(found))
    DEFAULTS.chmod(0o644)


BARE: dict[str, Any] = {"rdmaIsolation": None}  # the network itself says nothing


def test_isolation_for_all_networks_until_del_whatever_happens_to_the_file(rig: Rig) -> None:
    pod = rig.pod()
    write({"rdmaIsolation": True, "mtu": 2000})
    result = rig.add(pod, **BARE)
    assert pod.rdma(), "the RDMA device is in the pod"
    (record,) = STATE.glob("attachments/ibnet/*.json")
    assert json.loads(record.read_text())["conf"]["rdmaIsolation"] is True
    for content in ({"rdmaIsolation": False, "mtu": 1500}, {"mtu": "x", "podMayChoose": 5}, "{", {}):
        write(content)
        check = rig.check(pod, result, **BARE)
        assert (check.status, check.stdout) == (0, ""), check
    rig.delete(pod, **BARE)
    rig.assert_as_before()


def test_a_network_that_says_otherwise(rig: Rig) -> None:
    pod = rig.pod()
    write({"rdmaIsolation": True})
    rig.add(pod, rdmaIsolation=False)
    assert pod.rdma() == []
    rig.delete(pod, rdmaIsolation=False)
    rig.assert_as_before()


def test_a_damaged_file_refuses_add_and_status_and_nothing_else(rig: Rig) -> None:
    pod = rig.pod()
    rig.add(pod)
    write('{"rdmaIsolaton": true}')
    refused = rig.call("ADD", rig.pod(), 1)
    assert refused.code == 7, refused
    assert refused.out["msg"].startswith(f"node-wide defaults {DEFAULTS}: rdmaIsolaton cannot be set for a whole node")
    assert rig.call("STATUS", pod).code == 7
    kept: dict[str, Any] = {"cni.dev/valid-attachments": [{"containerID": pod.container_id, "ifname": "net1"}]}
    nothing: dict[str, Any] = {}
    for command, more in (("GC", kept), ("DEL", nothing)):
        done = rig.call(command, pod, **more)
        assert (done.status, done.stdout) == (0, ""), done
        assert "level=warning" in done.stderr
        assert f"node-wide defaults {DEFAULTS}" in done.stderr
    rig.assert_as_before()


def test_a_file_of_somebody_else_is_not_believed(rig: Rig) -> None:
    write({"rdmaIsolation": False})
    os.chown(DEFAULTS, 65534, 65534)
    refused = rig.call("ADD", rig.pod())
    assert "it must belong to root" in refused.out["msg"], refused


def test_an_ipam_plugin_gets_the_same_choices_from_add_and_del(rig: Rig, tmp_path: Path) -> None:
    """The pod may choose its address when it is added, and may not any more when it is deleted."""
    answer = {"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.2/24"}]}
    program = tmp_path / "made"
    program.write_text(
        f"#!/bin/sh\ncat > {tmp_path}/$CNI_COMMAND\n[ $CNI_COMMAND = DEL ] || echo '{json.dumps(answer)}'\n"
    )
    program.chmod(0o755)
    pod = rig.pod()
    conf = rig.conf(0, ipam={"type": "made"}, args={"cni": {"ips": ["10.9.0.2"]}})
    for command in ("ADD", "DEL"):
        done = rig.cni(command, pod, conf, env={"CNI_PATH": str(tmp_path)})
        assert done.status == 0, done
        assert json.loads((tmp_path / command).read_text())["args"] == {"cni": {"ips": ["10.9.0.2"]}}
        write({"podMayChoose": []})
    rig.assert_as_before()


@pytest.mark.parametrize("key", ["RdmaIsolation", "RDMAISOLATION"])
def test_isolation_in_another_case(rig: Rig, key: str) -> None:
    pod = rig.pod()
    conf: dict[str, Any] = {**BARE, key: True}
    result = rig.add(pod, **conf)
    assert pod.rdma(), "the RDMA device is in the pod"
    check = rig.check(pod, result, **conf)
    assert (check.status, check.stdout) == (0, ""), check
    rig.delete(pod, **conf)
    rig.assert_as_before()
