"""config: what it finds in files and says of it; and the schema, held to the parser by generated configurations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from ib_sriov_cni import cli
from ib_sriov_cni.cli.documents import read_configurations, request_of, validate
from ib_sriov_cni.cli.keys import (
    BY_NAME,
    HOST_LOCAL,
    KEYS,
    PROTOCOL,
    make_schema,
    nearest,
    render_reference,
    unknown_keys,
)
from ib_sriov_cni.cli.output import FAILED, FOUND, NO_SUCH
from ib_sriov_cni.errors import CniError
from ib_sriov_cni.netconf import parse_netconf
from ipam.config import parse_settings

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = make_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
CONF = {"cniVersion": "1.0.0", "name": "ib", "type": "ib-sriov"}


def run(*words: str, stdin: str = "") -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.main, ["config", *words], input=stdin, prog_name="ib-sriov")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def parser_takes(conf: dict[str, Any]) -> bool:
    try:
        parse_netconf(request_of(conf), needs_device=False)
    except CniError:
        return False
    return True


def schema_takes(conf: dict[str, Any]) -> bool:
    return bool(VALIDATOR.is_valid(conf))


# ---- the schema

GUIDS = ("02:11:22:33:44:55:66:77", "0x0211223344556677", " 0211:2233:4455:6677\t", "0" * 16, "ff" * 8, "fF00" * 4)
PCIS = ("0000:3b:00.2", "0000:3B:1f.7", "10000:3b:00.2", "000:3b:00.2", "0000:3b:20.2", "0000:3b:00.8", "0:3b:00.2\n")
PKEYS: tuple[object, ...] = (
    *("0x8001", "8001", "0x7fff", "0x8000", "0", "0x0", "0x", "0x10000", "0x00001", " 0x1", "1_0"),
    *(1, 0x8000, 65536, -1),
)
PATHS = ("/var/log/x", "x", "/", "/a\0b", "/a\n", "/run/../x")
junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 70000),
    st.floats(0, 5000).filter(lambda number: not number.is_integer()),
    st.text(max_size=5),
    st.just(""),
    st.just([]),
    st.just({}),
    st.just({"a": 1}),
)
hexadecimal = st.text("0123456789abcdefABCDEFg:x. ", max_size=24)


def either(*words: Any) -> st.SearchStrategy[Any]:
    return st.one_of(st.sampled_from(words), junk)


guid, pci, pkey, path = either(*GUIDS) | hexadecimal, either(*PCIS), either(*PKEYS) | hexadecimal, either(*PATHS)
seconds = either(0, 10, 3600, 3601, -1, 0.5, True, "10")
configurations = st.fixed_dictionaries(
    {},
    optional={
        "cniVersion": either("1.0.0", "1.1.0", "0.1.0", "2.0.0"),
        "name": st.one_of(st.sampled_from(["ib", "a" * 255, "a" * 256, "a b", "-a", "ib\n", "Ib_.-9"]), junk),
        "type": either("ib-sriov"),
        "deviceID": pci,
        "pciBusID": pci,
        "guid": guid,
        "link_state": either("auto", "enable", "disable", "up"),
        "rdmaIsolation": either(True, "true"),
        "pkey": pkey,
        "mtu": either(0, 67, 68, 65520, 65521, "2044"),
        "ibKubernetesEnabled": either(False),
        "ipam": either({"type": "whereabouts"}, {"type": ""}, {"type": 5}, {"type": "dhcp"}, {"type": None}, {"x": 1}),
        "portTimeout": seconds,
        "lockTimeout": seconds,
        "ipamTimeout": seconds,
        "logLevel": either("debug", "info", "warning", "error", "DEBUG"),
        "logFile": path,
        "stateDir": path,
        "capabilities": either({"ips": True}),
        "dns": junk,
        "prevResult": st.just(None) | st.just({}) | st.just("x"),
        "runtimeConfig": st.one_of(
            junk,
            st.fixed_dictionaries({}, optional={"deviceID": pci, "infinibandGUID": guid, "CNIDeviceInfoFile": path}),
        ),
        "args": st.one_of(
            junk,
            st.fixed_dictionaries(
                {}, optional={"cni": junk | st.fixed_dictionaries({}, optional={"guid": guid, "pkey": pkey})}
            ),
        ),
        "somethingElse": junk,
    },
)


@settings(max_examples=1500, deadline=None)
@given(configurations)
def test_the_schema_takes_what_the_parser_takes(conf: dict[str, Any]) -> None:
    assert schema_takes(conf) is parser_takes(conf), conf


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(sorted(BY_NAME)), st.data())
def test_one_key_alone(name: str, data: st.DataObject) -> None:
    """Of a configuration with many keys most are wrong together; one key at a time is looked at from near."""
    values = {"deviceID": pci, "guid": guid, "pkey": pkey, "logFile": path, "stateDir": path}
    conf: dict[str, Any] = {**CONF, name: data.draw(values.get(name, seconds | either("auto", "debug", True, 2044)))}
    if name == "ipam" and isinstance(conf[name], dict) and conf[name].get("type") == "host-local":
        return
    assert schema_takes(conf) is parser_takes(conf), conf


@pytest.mark.parametrize(
    ("key", "values"),
    [("guid", GUIDS), ("deviceID", PCIS), ("pkey", PKEYS), ("logFile", PATHS), ("stateDir", PATHS)],
)
def test_values_at_the_border(key: str, values: tuple[Any, ...]) -> None:
    taken = [parser_takes({**CONF, key: each}) for each in values]
    assert [schema_takes({**CONF, key: each}) for each in values] == taken
    assert len(set(taken)) == 2  # some of each, or the row proves nothing


def test_the_first_source_counts() -> None:
    conf = {**CONF, "runtimeConfig": {"deviceID": "0000:3b:00.2"}, "deviceID": "nonsense", "pciBusID": 5}
    assert schema_takes(conf)
    assert parser_takes(conf)


ADDRESSES = ("10.0.0.0/24", "10.0.0.1", "10.0.0.1/24", "fd00::/64", "x", "")
ranges = st.fixed_dictionaries(
    {}, optional={name: either(*ADDRESSES) for name in ("subnet", "rangeStart", "rangeEnd", "gateway")}
)
host_local = st.fixed_dictionaries(
    {"type": st.just("host-local")},
    optional={
        "subnet": either(*ADDRESSES),
        "ranges": junk | st.lists(junk | st.lists(ranges | junk, max_size=2), max_size=2),
        "routes": junk | st.lists(st.fixed_dictionaries({}, optional={"dst": either(*ADDRESSES), "mtu": junk})),
        "resolvConf": path,
        "dataDir": path,
        "slices": either({"flannel": True}, {"index": 1, "count": 4}, {"index": 1, "count": 0}, {"flannel": "/x"}),
    },
)


@settings(max_examples=800, deadline=None)
@given(host_local)
def test_what_the_schema_refuses_of_host_local_the_parser_refuses_too(ipam: dict[str, Any]) -> None:
    """Ranges are arithmetic, which no schema does: here it may take more, never less."""
    conf: dict[str, Any] = {**CONF, "ipam": ipam}
    try:
        parse_settings(request_of(conf))
    except CniError:
        return
    assert schema_takes(conf), conf


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert set(SCHEMA["properties"]) >= set(BY_NAME)
    status, out, _ = run("schema")
    assert (status, json.loads(out)) == (0, SCHEMA)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_examples_are_taken(key: Any) -> None:
    conf = {**CONF, key.name: json.loads(key.example)}
    assert parser_takes(conf)
    assert schema_takes(conf)


# ---- the table of keys


def test_every_key_that_the_parser_reads_is_in_the_table() -> None:
    import re

    source = (ROOT / "ib_sriov_cni/netconf.py").read_text()
    read = set(re.findall(r'conf(?:\.get\(|, )"(\w+)"', source)) - {"name"}
    assert read - set(BY_NAME) - set(PROTOCOL) == set()
    assert {"mtu", "link_state", "guid", "ipam"} <= read


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
    assert nearest(wrong, BY_NAME) == right


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
    said = unknown_keys(conf)
    assert said[0] == "linkState is no key of it and is ignored; is link_state meant?"
    assert said[1] == "vlan is no key of it and is ignored"
    assert "runtimeConfig.infinibandGuid is no key of it and is ignored; is runtimeConfig.infinibandGUID meant?" in said
    assert "ipam.ranges[0][0].rangestart is no key of it and is ignored; is ipam.ranges[0][0].rangeStart meant?" in said
    assert "ipam.slices.flanel is no key of it and is ignored; is ipam.slices.flannel meant?" in said
    assert len(said) == 8
    # Another IPAM plugin's keys are its own.
    assert unknown_keys({**CONF, "ipam": {"type": "whereabouts", "range": "x"}}) == []
    assert unknown_keys({**CONF, "ipam": {"type": "host-local", **dict.fromkeys(HOST_LOCAL[1:])}}) == []


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
    assert found[1].faults == ["mtu: 'x' is not a number of bytes"]
    assert found[1].name == "c"


def test_a_configuration_in_yaml_and_one_with_tabs() -> None:
    (found,) = found_in("cniVersion: 1.0.0\nname: ib\ntype: ib-sriov\nportTimeout: 3\n")
    assert found.parsed.port_timeout == 3.0
    (found,) = found_in('{\n\t"cniVersion": "1.0.0",\n\t"name": "ib",\n\t"type": "ib-sriov"\n}\n')
    assert found.faults == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "neither JSON"),
        ("a: b: c", "not YAML"),
        ("", "there is no network configuration"),
        ("just words", "it is no object"),
        ("[1]", "it is no object"),
        ('{"name": "x"}', "type is missing"),
        ('{"name": "x", "plugins": []}', "plugins is no list"),
        ('{"name": "x", "plugins": [1]}', "it is no object"),
        (NAD.replace("'{", "{").replace("}'", "}"), "spec.config is no text"),
        (NAD.replace('"auto"}', '"auto"'), "is not JSON"),
        ('{"type": "ib-sriov", "name": "a", "name": "b"}', "is not JSON"),
        ('{"type": "ib-sriov"}', "name is missing"),
        ('{"type": "ib-sriov", "name": "x", "cniVersion": "9"}', "cniVersion '9' is not supported"),
        ('{"type": "ib-sriov", "name": "x", "ipam": {"type": "host-local"}}', "no IP ranges specified"),
        ("x: &a {type: ib-sriov, y: *a}\ntype: ib-sriov", "goes round in a circle"),
        ("- " * 3000, "YAML"),
    ],
)
def test_what_cannot_be_read_is_a_fault(text: str, words: str) -> None:
    assert any(words in fault for each in found_in(text) for fault in each.faults), found_in(text)


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
    (found,) = found_in('{"name": "x", "type": "ib-sriov"}')
    assert found.warnings == ["cniVersion is missing, which means 0.1.0: no CHECK, and results of the oldest shape"]


def test_validate_prints_what_it_comes_to(tmp_path: Path) -> None:
    path = tmp_path / "fabric.yaml"
    path.write_text(NAD)
    status, out, _ = run("validate", str(path))
    assert status == 0
    rows = [line.split() for line in out.splitlines()]
    assert ["link_state", "auto", "configuration"] in rows
    assert ["portTimeout", "10", "default"] in rows
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
    assert found["deviceID"] == {"value": "0000:3b:00.3", "from": "runtimeConfig"}
    assert found["guid"] == {"value": "02:11:22:33:44:55:66:77", "from": "runtimeConfig.infinibandGUID"}
    assert found["pkey"] == {"value": "0x8002", "from": "args.cni"}


def test_validate_says_all_faults_and_ends_with_1() -> None:
    conf = {**CONF, "linkstate": "auto", "mtu": 5, "rdmaIsolation": "true"}
    status, out, _ = run("validate", "-", stdin=json.dumps(conf))
    assert status == FOUND
    assert "standard input: fault  network ib" in out
    assert out.count("  fault ") == 2
    assert "is link_state meant?" in out
    assert run("validate", "-", stdin=json.dumps({**CONF, "linkstate": "x"}))[0] == 0
    assert run("validate", "-", "--strict", stdin=json.dumps({**CONF, "linkstate": "x"}))[0] == FOUND


def test_validate_of_nothing_of_ours() -> None:
    status, out, err = run("validate", "-", stdin='{"name": "x", "type": "bridge"}')
    assert status == 0
    assert "passed over" in out
    assert "no configuration of type ib-sriov" in err


def test_validate_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert run("validate", "/nowhere/x")[0] == FAILED
    path = tmp_path / "binary"
    path.write_bytes(b"\xff\xfe")
    status, _, err = run("validate", str(path))
    assert status == FAILED
    assert "it is no text" in err


# ---- explain


@pytest.mark.parametrize("key", [*BY_NAME, *PROTOCOL])
def test_explain_one(key: str) -> None:
    status, out, _ = run("explain", key)
    assert status == 0
    assert out.startswith(f"{key}: ")
    assert "`" not in out
    assert "](" not in out


def test_explain_all_and_none() -> None:
    status, out, _ = run("explain")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == [*BY_NAME, *PROTOCOL]
    assert set(json.loads(run("explain", "-o", "json")[1])) == {*BY_NAME, *PROTOCOL}
    status, _, err = run("explain", "linkState")
    assert status == NO_SUCH
    assert "is link_state meant?" in err
    assert "lists them all" in run("explain", "zzz")[2]
