"""config schema: compared with ADD's parser on generated configurations."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from ib_sriov_cni import cli
from ib_sriov_cni.cli.keys import BY_NAME, KEYS, make_schema
from ib_sriov_cni.cli.validation import make_add_request
from ib_sriov_cni.core.configuration import parse_netconf
from ib_sriov_cni.core.errors import CniError
from ipam.host_local.config import parse_settings

SCHEMA = make_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
CONF = {"cniVersion": "1.0.0", "name": "ib", "type": "ib-sriov"}


def parser_takes(conf: dict[str, Any]) -> bool:
    try:
        parse_netconf(make_add_request(conf), needs_device=False)
    except CniError:
        return False
    return True


def schema_takes(conf: dict[str, Any]) -> bool:
    return bool(VALIDATOR.is_valid(conf))


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
        "acceptRA": either(False, "false"),
        "podMayChoose": junk | st.lists(st.sampled_from(["guid", "pkey", "ips", "mac", "vlan", 5]), max_size=4),
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
            st.fixed_dictionaries(
                {},
                optional={
                    "deviceID": pci,
                    "infinibandGUID": guid,
                    "CNIDeviceInfoFile": path,
                    "ips": either(["10.0.0.7"]),
                    "mac": junk,
                },
            ),
        ),
        "args": st.one_of(
            junk,
            st.fixed_dictionaries(
                {},
                optional={
                    "cni": junk
                    | st.fixed_dictionaries({}, optional={"guid": guid, "pkey": pkey, "ips": junk, "mac": junk})
                },
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
    """Most random configurations with many keys are invalid, so each key is also tested alone."""
    values = {"deviceID": pci, "guid": guid, "pkey": pkey, "logFile": path, "stateDir": path}
    conf: dict[str, Any] = {**CONF, name: data.draw(values.get(name, seconds | either("auto", "debug", True, 2044)))}
    if name == "ipam" and isinstance(conf[name], dict) and conf[name].get("type") == "host-local":
        return
    assert schema_takes(conf) is parser_takes(conf), conf


@pytest.mark.parametrize(
    ("key", "values"),
    [("guid", GUIDS), ("deviceID", PCIS), ("pkey", PKEYS), ("stateDir", PATHS)],
)
def test_values_at_the_border(key: str, values: tuple[Any, ...]) -> None:
    taken = [parser_takes({**CONF, key: each}) for each in values]
    assert [schema_takes({**CONF, key: each}) for each in values] == taken
    assert len(set(taken)) == 2  # both accepted and refused values, or the row proves nothing


def test_the_first_source_counts() -> None:
    conf = {**CONF, "runtimeConfig": {"deviceID": "0000:3b:00.2"}, "deviceID": "nonsense", "pciBusID": 5}
    assert schema_takes(conf)
    assert parser_takes(conf)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.sampled_from(["guid", "pkey", "ips", "mac"])),
    st.dictionaries(st.sampled_from(["infinibandGUID", "ips", "mac"]), st.sampled_from([GUIDS[0], "", None, []])),
    st.dictionaries(st.sampled_from(["guid", "pkey", "ips", "mac"]), st.sampled_from(["0x8001", "", None, []])),
)
def test_what_a_pod_may_choose(allowed: list[str], runtime: dict[str, Any], args: dict[str, Any]) -> None:
    conf = {**CONF, "podMayChoose": allowed, "runtimeConfig": runtime, "args": {"cni": args}}
    assert schema_takes(conf) is parser_takes(conf), conf


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
    """A schema cannot do range arithmetic: it may accept more than the parser here, never less."""
    conf: dict[str, Any] = {**CONF, "ipam": ipam}
    try:
        parse_settings(make_add_request(conf))
    except CniError:
        return
    assert schema_takes(conf), conf


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert set(SCHEMA["properties"]) >= set(BY_NAME)
    result = CliRunner().invoke(cli.main, ["config", "schema"])
    assert (result.exit_code, json.loads(result.stdout)) == (0, SCHEMA)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_examples_are_taken(key: Any) -> None:
    conf = {**CONF, key.name: json.loads(key.example)}
    assert parser_takes(conf)
    assert schema_takes(conf)
