"""config: what it reports about files, what it explains, and that the reference is up to date."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from ib_sriov_cni import cli
from ib_sriov_cni.cli.documents import read_configurations
from ib_sriov_cni.cli.keys import (
    BY_NAME,
    HOST_LOCAL_KEYS,
    INNER_KEYS,
    PROTOCOL_KEYS,
    describe_unknown_keys,
    find_nearest,
    render_reference,
)
from ib_sriov_cni.cli.output import EXIT_FAILED, EXIT_PROBLEM
from ib_sriov_cni.cli.validation import validate
from ib_sriov_cni.core.known_keys import KNOWN

ROOT = Path(__file__).resolve().parents[2]
CONF = {"cniVersion": "1.0.0", "name": "ib", "type": "ib-sriov"}


def run(*words: str, stdin: str = "") -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.main, ["config", *words], input=stdin, prog_name="ib-sriov")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


# ---- the table of keys


def test_every_key_that_the_parser_reads_is_in_the_table_and_read_in_any_case() -> None:
    import re

    source = (ROOT / "ib_sriov_cni/core/configuration.py").read_text()
    read = set(re.findall(r'conf(?:\.get\(|, )"(\w+)"', source))
    assert {"mtu", "link_state", "ipam"} <= read
    assert read <= set(KNOWN)
    assert set(KNOWN) == set(BY_NAME) | set(PROTOCOL_KEYS)


def test_the_reference_is_current() -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    assert render_reference() in text, "docs/configuration.md is not what the table says: make reference"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("linkState", "link_state"),
        ("rdma_isolation", "rdmaIsolation"),
        ("RDMAIsolation", "rdmaIsolation"),
        ("ibkubernetesenabled", "ibKubernetesEnabled"),
        ("pKey", "pkey"),
        ("logfile", "logFile"),
        ("device", "deviceID"),
        ("statedir", "stateDir"),
        ("zzz", ""),
    ],
)
def test_the_nearest_known_key(wrong: str, right: str) -> None:
    assert find_nearest(wrong, BY_NAME) == right


def test_unknown_keys_everywhere() -> None:
    conf = {
        **CONF,
        "linkState": "auto",
        "vlan": 5,
        "runtimeConfig": {"infinibandGuid": "x"},
        "args": {"cni": {"anything": 1}, "cnl": {}},
        "ipam": {
            "type": "host-local",
            "range": [],
            "ranges": [[{"rangestart": "x"}]],
            "routes": [{"destination": "x"}],
            "slices": {"flanel": True},
        },
    }
    said = describe_unknown_keys(conf)
    assert said[0] == "linkState is not a known key and is ignored; did you mean link_state?"
    assert said[1] == "vlan is not a known key and is ignored"
    assert "runtimeConfig.infinibandGuid is read as runtimeConfig.infinibandGUID: write it so" in said
    assert "ipam.ranges[0][0].rangestart is read as ipam.ranges[0][0].rangeStart: write it so" in said
    assert "ipam.slices.flanel is not a known key and is ignored; did you mean ipam.slices.flannel?" in said
    assert len(said) == 8
    # The keys of other IPAM plugins are not checked.
    assert describe_unknown_keys({**CONF, "ipam": {"type": "whereabouts", "range": "x"}}) == []
    assert describe_unknown_keys({**CONF, "ipam": {"type": "host-local", **dict.fromkeys(HOST_LOCAL_KEYS[1:])}}) == []


# ---- validate

NAD = """\
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata:
  name: fabric
  annotations: {k8s.v1.cni.cncf.io/resourceName: nvidia.com/ib}
spec:
  config: '{"cniVersion": "1.0.0", "type": "ib-sriov", "link_state": "auto"}'
"""


def found_in(text: str) -> list[Any]:
    found = read_configurations(text, "x")
    for each in found:
        if each.ours:
            validate(each)
    return found


def test_a_definition() -> None:
    (found,) = found_in(NAD)
    assert (found.name, found.faults, found.warnings) == ("fabric", [], [])
    assert found.parsed.link_state == "auto"


def test_files_with_more_than_one() -> None:
    chain = {"cniVersion": "1.0.0", "name": "c", "plugins": [{"type": "ib-sriov", "mtu": "x"}, {"type": "tuning"}]}
    listed = {"kind": "List", "apiVersion": "v1", "items": [{"kind": "Pod", "apiVersion": "v1"}, chain]}
    found = found_in(f"{NAD}---\n{json.dumps(chain)}\n---\n{json.dumps(listed)}\n")
    assert [each.place for each in found] == [
        "x, document 1 (fabric), spec.config",
        "x, document 2, plugins[0]",
        "x, document 2, plugins[1]",
        "x, document 3, items[0]",
        "x, document 3, items[1], plugins[0]",
        "x, document 3, items[1], plugins[1]",
    ]
    assert [bool(each.faults) for each in found] == [False, True, False, False, True, False]
    assert found[1].faults == ["mtu must be a number of bytes (got 'x')"]
    assert found[1].name == "c"


def test_a_configuration_in_yaml_and_one_with_tabs() -> None:
    (found,) = found_in("cniVersion: 1.0.0\nname: ib\ntype: ib-sriov\nportTimeout: 3\n")
    assert found.parsed.port_timeout == 3.0
    (found,) = found_in('{\n\t"cniVersion": "1.0.0",\n\t"name": "ib",\n\t"type": "ib-sriov"\n}\n')
    assert found.faults == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "x, line 1: not JSON: Expecting property name"),
        ("a: b: c", "x, line 1: not YAML: mapping values are not allowed here"),
        ("", "no network configuration found"),
        ("just words", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ('{"name": "x"}', "type is missing"),
        ('{"name": "x", "plugins": []}', "plugins must be a list"),
        ('{"name": "x", "plugins": [1]}', "not a JSON object"),
        (NAD.replace("'{", "{").replace("}'", "}"), "spec.config is not a string"),
        (NAD.replace('"auto"}', '"auto"'), "x, line 7: not JSON"),
        ('{"type": "ib-sriov", "name": "a", "name": "b"}', "x, line 1: duplicate key 'name'"),
        ('{"type": "ib-sriov"}', "name is missing"),
        ('{"type": "ib-sriov", "name": "x", "cniVersion": "9"}', "cniVersion '9' is not supported (supported: 0.1.0, "),
        ('{"type": "ib-sriov", "name": "x", "ipam": {"type": "host-local"}}', "no IP ranges specified"),
        ("x: &a {type: ib-sriov, y: *a}\ntype: ib-sriov", "contains itself"),
        ("- " * 3000, "YAML"),
        ("type: ib-sriov\n2024-01-01: x", "it cannot be converted to JSON"),
        ("type: ib-sriov\nname: x\nmtu: .inf", "is not JSON"),
    ],
)
def test_what_cannot_be_read_is_a_fault(text: str, words: str) -> None:
    assert any(words in fault for each in found_in(text) for fault in each.faults), found_in(text)


BROKEN = '{"type": "ib-sriov",\n "mtu": 1,\n "mtu": 2}'
BLOCK = "kind: NetworkAttachmentDefinition\nmetadata: {name: n}\nspec:\n  config: |\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (BROKEN, "x, line 3: duplicate key 'mtu'"),
        (BROKEN.replace("1,", "1"), "x, line 3: not JSON: Expecting ',' delimiter (column 2)"),
        ('{"a": "\\u0062", "b": [{"c": 1}, {"c": 1}],\n"\\u0062": 1}', "x, line 2: duplicate key 'b'"),
        ('{"a": 1,}', "x, line 1: not JSON"),
        ('{"a": NaN}', "x is not JSON: NaN is not JSON"),
        ("a: 1\nb: 2\na: 3\n", "x, line 3: duplicate key 'a'"),
        ("a: 1\n\tb: 2\n", "x, line 2: not YAML: found character"),
        ("a: 1\nb: [\n", "x, line 3: not YAML: "),
        ("a: 1\nb: \x07", "x, line 2: not YAML: it contains the character U+0007"),
        (BLOCK + "    " + BROKEN.replace("\n", "\n    "), "x, line 7: duplicate key 'mtu'"),
        (
            BLOCK.replace("|", ">") + "    " + BROKEN.replace("\n", "\n    "),
            "x, line 5, line 3 of the text there: duplicate key 'mtu'",
        ),
        (BLOCK.replace("|\n", "") + f"'{BROKEN}'".replace("\n", "\n    "), "x, line 4: duplicate key 'mtu'"),
        (
            json.dumps({"kind": "NetworkAttachmentDefinition", "spec": {"config": BROKEN}}),
            "x, spec.config, line 3: duplicate key 'mtu'",
        ),
    ],
)
def test_a_fault_has_its_line(text: str, fault: str) -> None:
    (found,) = found_in(text)
    (said,) = found.faults
    assert said.startswith(fault)
    assert "\n" not in said
    assert "standard input" not in said


@pytest.mark.parametrize("plugin", ["ib_sriov", "IB-SRIOV", "ibsriov", "ib-sriv", "ib-sriov-cnj"])
def test_a_type_that_is_nearly_ours(plugin: str) -> None:
    (found,) = found_in(json.dumps({**CONF, "type": plugin}))
    assert found.faults == []
    assert found.warnings == [f"skipped: type {plugin} is not this plugin's; did you mean ib-sriov?"]


@pytest.mark.parametrize("plugin", ["sriov", "ipoib", "bridge", "host-device", "rdma"])
def test_types_of_other_plugins(plugin: str) -> None:
    (found,) = found_in(json.dumps({**CONF, "type": plugin}))
    assert found.warnings == []


@pytest.mark.parametrize(
    ("ipam", "faults"),
    [
        (
            {"ranges": [{"subnet": "10.0.0.0/24"}]},
            ['ipam.ranges[0] is not a list of ranges: the form is [[{"subnet": "172.16.0.0/24"}]]'],
        ),
        (
            {"ranges": [[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.1.1", "gateway": "x"}]]},
            [
                "ipam.ranges[0][0]: rangeStart 10.0.1.1 is not in the subnet 10.0.0.0/24",
                "ipam.ranges[0][0]: gateway 'x' is not an IP address",
            ],
        ),
        (
            {"subnet": "10.0.0.0", "gateway": 5, "rangeEnd": "y"},
            ["ipam: gateway is not a string", "ipam: '10.0.0.0' has no prefix length"],
        ),
        (
            {"subnet": "10.0.0.0/24", "slices": {"flannel": 5}},
            ["ipam.slices.flannel must be true or an absolute path"],
        ),
    ],
)
def test_faults_of_ranges(ipam: dict[str, object], faults: list[str]) -> None:
    (found,) = found_in(json.dumps({**CONF, "ipam": {"type": "host-local", **ipam}}))
    assert found.faults == faults


LINES = (
    *("kind: NetworkAttachmentDefinition", "apiVersion: v1", "metadata: {name: x}", "spec:", "  config: |", "---"),
    *('    {"type": "ib-sriov"}', '{"type": "ib-sriov", "name": "x", "plugins": [', "]}", "type: ib-sriov", "- a"),
    *("name: 2024-01-01", "2024-01-01: x", "? [a]", ": b", "mtu: .inf", "pkey: .nan", "guid: 0x10", "\t"),
    *("args: {cni: 5}", "ipam: {type: host-local}", "ipam: &a {type: *a}", "plugins: {}", "kind: List"),
    *("plugins: [{type: ib-sriov}]", "items: [1, {kind: List}]", "capabilities: {IPs: 1}", "metaPlugins: x"),
    *("kind: SriovIBNetwork", "kind: SriovNetworkNodePolicy", "spec: {ipam: '{}', metaPlugins: x, nicSelector: 1}"),
)


@settings(max_examples=600, deadline=None)
@given(st.lists(st.sampled_from(LINES) | st.text(max_size=12), max_size=8))
def test_any_text_at_all_is_answered_in_words(lines: list[str]) -> None:
    found = found_in("\n".join(lines))
    assert found
    assert all(isinstance(fault, str) and fault for each in found for fault in each.faults)


def test_advice() -> None:
    text = NAD.replace("annotations", "labels").replace(
        '"link_state": "auto"',
        '"guid": "02:00:00:00:00:00:00:01", "ibKubernetesEnabled": true, '
        '"ipam": {"type": "host-local", "subnet": "10.0.0.0/24"}',
    )
    (found,) = found_in(text)
    assert found.faults == []
    assert [words.partition(" ")[0] for words in found.warnings] == [
        "ibKubernetesEnabled",
        "neither",
        "guid:",
        "host-local",
    ]
    (found,) = found_in(text.replace('"guid"', '"podMayChoose": ["ips"], "guid"'))
    assert [words for words in found.warnings if words.startswith("ibKubernetesEnabled")][1:] == [
        "ibKubernetesEnabled, but podMayChoose does not list guid: a GUID from ib-kubernetes is refused"
    ]
    (found,) = found_in('{"name": "x", "type": "ib-sriov"}')
    assert found.warnings == ["cniVersion is missing, which means 0.1.0: no CHECK, and results in the oldest format"]


def test_validate_prints_what_it_comes_to(tmp_path: Path) -> None:
    path = tmp_path / "fabric.yaml"
    path.write_text(NAD)
    status, out, _ = run("validate", str(path))
    assert status == 0
    rows = [line.split() for line in out.splitlines()]
    assert ["link_state", "auto", "configuration"] in rows
    assert ["portTimeout", "30", "default"] in rows
    assert ["acceptRA", "false", "default"] in rows
    assert ["podMayChoose", "guid,", "pkey,", "ips,", "mac", "default"] in rows
    assert run("validate", str(path), "-q")[1].count("\n") == 1
    status, out, _ = run("validate", "-", "-o", "json", stdin=NAD)
    (found,) = json.loads(out)["configurations"]
    assert (status, found["ok"], found["network"]) == (0, True, "fabric")
    assert found["effective"]["stateDir"] == {"value": "/var/lib/cni/ib-sriov", "from": "default"}


def test_where_a_value_is_from() -> None:
    conf = {
        **CONF,
        "deviceID": "0000:3b:00.2",
        "pkey": "0x1",
        "runtimeConfig": {"deviceID": "0000:3b:00.3", "infinibandGUID": "0211223344556677"},
        "args": {"cni": {"pkey": "0x8002"}},
    }
    _, out, _ = run("validate", "-", "-o", "json", stdin=json.dumps(conf))
    found = json.loads(out)["configurations"][0]["effective"]
    assert found["deviceID"] == {"value": "0000:3b:00.3", "from": "runtimeConfig.deviceID"}
    assert found["guid"] == {"value": "02:11:22:33:44:55:66:77", "from": "runtimeConfig.infinibandGUID"}
    assert found["pkey"] == {"value": "0x8002", "from": "args.cni.pkey"}


def test_validate_says_all_faults_and_ends_with_1() -> None:
    conf = {**CONF, "linkstate": "auto", "mtu": 5, "rdmaIsolation": "true"}
    status, out, _ = run("validate", "-", stdin=json.dumps(conf))
    assert status == EXIT_PROBLEM
    assert "standard input: invalid  network ib" in out
    assert out.count("  error ") == 2
    assert "did you mean link_state?" in out
    assert run("validate", "-", stdin=json.dumps({**CONF, "linkstate": "x"}))[0] == 0
    assert run("validate", "-", "--strict", stdin=json.dumps({**CONF, "linkstate": "x"}))[0] == EXIT_PROBLEM


def test_validate_of_nothing_of_ours() -> None:
    status, out, err = run("validate", "-", stdin='{"name": "x", "type": "bridge"}')
    assert status == 0
    assert "skipped" in out
    assert "no configuration of type ib-sriov" in err


def test_validate_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    status, _, err = run("validate", "/nowhere/x")
    assert status == EXIT_FAILED
    assert "what to do: pass a file that exists, or - for standard input" in err
    status, _, err = run("validate", str(tmp_path))
    assert status == EXIT_FAILED
    assert f"what to do: pass the files in it: {tmp_path}/*" in err
    path = tmp_path / "binary"
    path.write_bytes(b"\xff\xfe")
    status, _, err = run("validate", str(path))
    assert status == EXIT_FAILED
    assert "is not UTF-8 text" in err


# ---- explain


@pytest.mark.parametrize("key", [*BY_NAME, *PROTOCOL_KEYS, *INNER_KEYS])
def test_explain_one(key: str) -> None:
    status, out, _ = run("explain", key)
    assert status == 0
    assert out.startswith(f"{key}: ")
    assert "`" not in out
    assert "](" not in out


def test_every_key_of_host_local_can_be_explained() -> None:
    assert {f"ipam.{name}" for name in HOST_LOCAL_KEYS} == set(INNER_KEYS)
    assert run("explain", "runtimeConfig.ips")[1].startswith("runtimeConfig: ")
    assert run("explain", "args.cni.guid")[1].startswith("args: ")
    status, _, err = run("explain", "ipam.range")
    assert status == 2
    assert "did you mean ipam.ranges?" in err


def test_the_overview_is_not_cut_off() -> None:
    assert "..." not in run("--help")[1].partition("Commands:")[2]


def test_explain_all_and_none() -> None:
    status, out, _ = run("explain")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == [*BY_NAME, *PROTOCOL_KEYS]
    assert set(json.loads(run("explain", "-o", "json")[1])) == {*BY_NAME, *PROTOCOL_KEYS}
    status, _, err = run("explain", "linkState")
    assert status == 2
    assert "did you mean link_state?" in err
    assert "lists all keys" in run("explain", "zzz")[2]
