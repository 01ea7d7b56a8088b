"""config validate and config show: chains, capabilities, operators' documents, node-wide defaults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ib_sriov_cni.cli.output import EXIT_FAILED, EXIT_PROBLEM
from tests.unit.test_cli_config import CONF, found_in, run

RESOURCE = {"k8s.v1.cni.cncf.io/resourceName": "nvidia.com/ib"}


def chain(*plugins: dict[str, Any]) -> str:
    return json.dumps({"cniVersion": "1.0.0", "name": "ib", "plugins": list(plugins)})


def network(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "sriovnetwork.openshift.io/v1",
        "kind": "SriovIBNetwork",
        "metadata": {"name": "fabric", "namespace": "sriov-network-operator"},
        "spec": {"resourceName": "ib", "networkNamespace": "default", **spec},
    }


def policy(**spec: Any) -> dict[str, Any]:
    usual = {
        "resourceName": "ib",
        "linkType": "ib",
        "isRdma": True,
        "numVfs": 8,
        "nicSelector": {"vendor": "15b3", "pfNames": ["ibs1f0#0-7"]},
    }
    return {
        "apiVersion": "sriovnetwork.openshift.io/v1",
        "kind": "SriovNetworkNodePolicy",
        "metadata": {"name": "ib"},
        "spec": {key: item for key, item in {**usual, **spec}.items() if item is not None},
    }


# ---- what an ADD does not see


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"rdmaIsolation": True}, "rdma, later in the list, fails: rdmaIsolation has moved the RDMA device already"),
        ({}, "rdma, later in the list, moves the RDMA device, and the kernel then makes net1 anew"),
    ],
)
def test_rdma_cni_behind_it_in_a_chain(own: dict[str, Any], words: str) -> None:
    found = found_in(chain({"type": "ib-sriov", **own}, {"type": "tuning"}, {"type": "rdma"}))
    assert [text for text in found[0].warnings if text.startswith(words)]
    assert found_in(chain({"type": "rdma"}, {"type": "ib-sriov"}, {"type": "tuning"}))[1].warnings == []


def test_a_partition_that_nobody_fills() -> None:
    (found,) = found_in(json.dumps({**CONF, "pkey": "0x8001"}))
    assert [text.partition(":")[0] for text in found.warnings] == ["pkey without ibKubernetesEnabled"]
    conf = {**CONF, "pkey": "0x8001", "ibKubernetesEnabled": True, "capabilities": {"infinibandGUID": True}}
    assert found_in(json.dumps(conf))[0].warnings == []


def test_capabilities() -> None:
    (found,) = found_in(json.dumps({**CONF, "capabilities": {"infinibandGuid": True, "mine": True, "IPs": "true"}}))
    wrong = "nothing passes a value of that name; did you mean "
    assert found.warnings == [
        f"capabilities.infinibandGuid: {wrong}infinibandGUID?",
        f"capabilities.IPs: {wrong}ips?",
    ]
    assert found.faults == ["capabilities.IPs must be true or false (got 'true'): libcni refuses anything else"]


@pytest.mark.parametrize("kind", ["host-local", "whereabouts"])
def test_a_default_route(kind: str) -> None:
    ipam = {"type": kind, "subnet": "10.0.0.0/24", "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.1.0.0/16"}]}
    (found,) = found_in(json.dumps({**CONF, "ipam": ipam}))
    assert found.warnings == [
        "ipam.routes has 0.0.0.0/0, which eth0 has too: it is used only while eth0's is gone (docs/ipam.md, Routes)"
    ]


def test_the_old_type_is_checked_as_ours() -> None:
    (found,) = found_in(json.dumps({**CONF, "type": "ib-sriov-cni", "mtu": "x"}))
    assert found.faults == ["mtu must be a number of bytes (got 'x')"]
    (said,) = found.warnings
    assert said.startswith("type ib-sriov-cni is an older name: this plugin, and the Go plugin, are installed as ib-")


def test_keys_in_another_case_are_read_and_named() -> None:
    (found,) = found_in(json.dumps({"cniVersion": "1.0.0", "Name": "ib", "Type": "ib-sriov", "RdmaIsolation": True}))
    assert found.parsed.rdma_isolation is True
    assert found.warnings == [
        f"{key} is read as {right}: write it so"
        for key, right in (("Name", "name"), ("Type", "type"), ("RdmaIsolation", "rdmaIsolation"))
    ]


def test_addresses_that_nobody_sets() -> None:
    ipam = {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}]]}
    conf = {"cniVersion": "1.1.0", "name": "vms", "type": "ib-sriov", "deviceID": "0000:3b:00.2", "vfioPciMode": True}
    assert found_in(json.dumps(conf))[0].warnings == []
    (said,) = found_in(json.dumps({**conf, "ipam": ipam}))[0].warnings
    assert said.startswith("ipam with vfioPciMode: ")


def test_keys_of_the_go_plugin_without_a_meaning_here() -> None:
    (found,) = found_in(json.dumps({**CONF, "publishPfGuid": True, "kubeconfig": "/k"}))
    assert [text.partition(",")[0] for text in found.warnings] == [
        f"{key} is a key of the Go plugin" for key in ("publishPfGuid", "kubeconfig")
    ]


def test_comfort_keys_are_warnings() -> None:
    (found,) = found_in(json.dumps({**CONF, "logLevel": "loud", "logFile": "ib.log"}))
    assert found.faults == []
    assert [text.partition(" ")[0] for text in found.warnings] == ["logLevel", "logFile"]


# ---- sriov-network-operator


def test_an_operators_network_is_what_the_operator_makes_of_it() -> None:
    ipam = '{\n  "type": "host-local", "subnet": "10.0.0.0/24",\n "slices": {"flannel": true}}'
    spec = {"linkState": "enable", "capabilities": '{"infinibandGUID": true}', "ipam": ipam}
    (found,) = found_in(json.dumps(network(**spec)))
    assert (found.place, found.faults, found.warnings) == ("x (fabric)", [], [])
    assert found.conf == {
        "cniVersion": "1.0.0",
        "name": "fabric",
        "type": "ib-sriov",
        "link_state": "enable",
        "capabilities": {"infinibandGUID": True},
        "ipam": json.loads(ipam),
    }


def test_an_operators_network_with_meta_plugins() -> None:
    found = found_in(json.dumps(network(metaPlugins='{"type": "tuning"}, {"type": "rdma"}')))
    assert [each.plugin for each in found] == ["ib-sriov", "tuning", "rdma"]
    assert found[0].conf == {"cniVersion": "1.0.0", "name": "fabric", "type": "ib-sriov", "ipam": {}}
    assert any(text.startswith("rdma, later in the list") for text in found[0].warnings)


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ({"resourceName": ""}, "spec.resourceName is missing: its pods get no VF"),
        ({"linkState": "up"}, "spec.linkState must be auto, enable, disable (got 'up')"),
        ({"ipam": '{"type": }'}, "spec.ipam must be JSON, one object: "),
        ({"ipam": "[]"}, "spec.ipam must be JSON, one object"),
        ({"ipam": {"type": "host-local"}}, "spec.ipam must be a string with JSON in it: one object"),
        ({"ipam": '{"type": "host-local"}'}, "no IP ranges specified: ipam has neither ranges nor subnet"),
        ({"metaPlugins": "rdma"}, "spec.metaPlugins must be JSON, objects of plugins, with commas between them: "),
        ({"capabilities": '{"ips": "it\'s"}'}, "spec.capabilities must not contain ', in which the operator puts"),
    ],
)
def test_faults_of_an_operators_network(spec: dict[str, Any], fault: str) -> None:
    found = found_in(json.dumps(network(**spec)))
    assert any(text.startswith(fault) for text in found[0].faults), found


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("rdmaIsolation", "has no effect: rdmaIsolation can be set in /etc/ib-sriov/defaults.json"),
        ("linkstate", "has no effect: link_state can be set in /etc/ib-sriov/defaults.json"),
        ("metaPlugin", "that goes into the configuration; did you mean metaPlugins?"),
        ("vlan", "that goes into the configuration"),
    ],
)
def test_fields_that_the_operator_does_not_know(field: str, words: str) -> None:
    (found,) = found_in(json.dumps(network(**{field: "x"})))
    assert found.warnings[0] == f"spec.{field} is not a field of SriovIBNetwork " + (
        f"and {words}" if words.startswith("has") else words
    )


def test_a_good_policy_and_one_that_is_not_for_infiniband() -> None:
    (found,) = found_in(json.dumps(policy()))
    assert (found.faults, found.warnings) == ([], [])
    for other in (policy(linkType="eth"), policy(linkType=None, nicSelector={"vendor": "8086"})):
        (found,) = found_in(json.dumps(other))
        assert found.warnings == ["skipped: the policy is not for InfiniBand"]


@pytest.mark.parametrize(
    ("spec", "faults", "warnings"),
    [
        ({"linkType": None}, [], ["spec.linkType is not set"]),
        ({"isRdma": None}, [], ["spec.isRdma is not true"]),
        ({"deviceType": "vfio-pci", "isRdma": False}, [], ["spec.deviceType is vfio-pci"]),
        ({"deviceType": "vfio-pci"}, ["spec.deviceType vfio-pci and spec.isRdma true exclude each other"], []),
        ({"resourceName": None}, ["spec.resourceName is missing"], []),
        ({"numVfs": 0}, [], ["spec.numVfs is not a positive number"]),
        ({"eSwitchMode": "switchdev"}, [], ["spec.eSwitchMode is switchdev"]),
        ({"nicSelector": {}}, ["spec.nicSelector must have one of vendor, deviceID"], []),
        ({"nicSelector": {"pfNames": ["ib0#0-8"]}}, ["spec.nicSelector.pfNames: ib0#0-8 goes beyond VF 7"], []),
        ({"nicSelector": {"pfNames": ["ib0#3"]}}, ["spec.nicSelector.pfNames must be names of PFs"], []),
        ({"nicSelector": {"pfNames": ["ib0#²-³", "#0-1"]}}, ["spec.nicSelector.pfNames must be names of PFs"] * 2, []),
    ],
)
def test_what_matters_of_a_policy(spec: dict[str, Any], faults: list[str], warnings: list[str]) -> None:
    (found,) = found_in(json.dumps(policy(**spec)))
    for said, expected in ((found.faults, faults), (found.warnings, warnings)):
        assert len(said) == len(expected), said
        assert all(text.startswith(words) for text, words in zip(said, expected, strict=True)), said


def test_a_network_whose_resource_no_policy_has() -> None:
    definition = {
        "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": "n", "annotations": RESOURCE},
        "spec": {"config": json.dumps(CONF)},
    }
    items = [policy(), network(), network(resourceName="bi"), definition]
    status, out, _ = run("validate", "-", stdin=json.dumps({"kind": "List", "apiVersion": "v1", "items": items}))
    assert status == 0
    words = "no SriovNetworkNodePolicy here has the resourceName "
    assert [line.partition(words)[2] for line in out.splitlines() if words in line] == ["bi: its pods get no VF"]
    assert "skipped" not in out


def test_policies_alone_are_something(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(policy()))
    status, out, err = run("validate", str(path))
    assert (status, out, err) == (0, f"{path} (ib): valid\n", "")
    path.write_text(json.dumps(policy(nicSelector={})))
    assert run("validate", str(path))[0] == EXIT_PROBLEM


# ---- config show and --defaults


def test_show_with_defaults(tmp_path: Path) -> None:
    path = tmp_path / "defaults.json"
    path.write_text('{"rdmaIsolation": true, "link_state": "auto", "podMayChoose": []}')
    text = json.dumps(network(linkState="enable"))
    status, out, _ = run("show", "--defaults", str(path), "-", "-o", "json", stdin=text)
    (found,) = json.loads(out)["configurations"]
    assert status == 0
    assert found["conf"]["rdmaIsolation"] is True
    assert found["conf"]["link_state"] == "enable"
    assert found["effective"]["rdmaIsolation"] == {"value": "true", "from": "node"}
    assert found["effective"]["link_state"] == {"value": "enable", "from": "configuration"}
    assert found["effective"]["podMayChoose"] == {"value": "none", "from": "node"}
    status, out, _ = run("show", "--defaults", str(path), "-", stdin=text)
    assert '  "rdmaIsolation": true' in out
    assert ["rdmaIsolation", "true", "node"] in [line.split() for line in out.splitlines()]
    status, out, _ = run("validate", "--defaults", str(path), "-", stdin=text)
    assert ["rdmaIsolation", "true", "node"] in [line.split() for line in out.splitlines()]


def test_show_says_what_is_wrong() -> None:
    status, out, _ = run("show", "-", stdin=json.dumps({**CONF, "mtu": 5}))
    assert status == EXIT_PROBLEM
    assert "mtu must be between 68 and 65520 (got 5)" in out
    status, _, err = run("show", "-", stdin='{"name": "x", "type": "bridge"}')
    assert status == 0
    assert "no configuration of type ib-sriov" in err


def test_defaults_that_are_wrong_or_missing(tmp_path: Path) -> None:
    status, _, err = run("show", "--defaults", "/nowhere/x", "-", stdin=json.dumps(CONF))
    assert (status, "there is no file /nowhere/x" in err) == (EXIT_FAILED, True)
    path = tmp_path / "defaults.json"
    path.write_text('{"guid": "x"}')
    status, _, err = run("validate", "--defaults", str(path), "-", stdin=json.dumps(CONF))
    assert (status, f"node-wide defaults {path}: guid cannot be set for a whole node" in err) == (EXIT_FAILED, True)


def test_a_default_that_is_not_valid_is_a_fault_of_the_network(tmp_path: Path) -> None:
    path = tmp_path / "defaults.json"
    path.write_text('{"rdmaIsolation": "yes"}')
    status, out, _ = run("validate", "--defaults", str(path), "-", stdin=json.dumps(CONF))
    assert status == EXIT_PROBLEM
    assert "rdmaIsolation must be true or false (got 'yes')" in out
