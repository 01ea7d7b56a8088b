"""ipam.protocol.spelling: keys in any case, as encoding/json reads them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam.host_local.config import parse_place, parse_settings
from ipam.protocol.errors import InvalidConfiguration
from ipam.protocol.request import Request, parse_request
from ipam.protocol.result import parse_result
from ipam.protocol.spelling import CONFIGURATION, IPAM, name_all, respell
from tests.ipam.calls import environment


def spelled(found: dict[str, Any], names: Any = CONFIGURATION) -> tuple[dict[str, object], list[str]]:
    faults: list[str] = []
    return respell(found, names, faults), faults


def request(conf: dict[str, Any], command: str = "ADD") -> Request:
    return parse_request(environment(command), json.dumps(conf).encode(), known_args=frozenset())


IN_CASE: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "ib",
    "type": "host-local",
    "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9"}]],
        "routes": [{"dst": "10.1.0.0/16", "gw": "10.0.0.1"}],
        "dataDir": "/d",
        "anything": {"Else": 1},
    },
    "args": {"cni": {"ips": ["10.0.0.20"]}},
    "dns": {"nameservers": ["10.0.0.2"]},
}


def upper(found: Any) -> Any:
    if isinstance(found, dict):
        return {key if key in ("anything", "Else") else key.upper(): upper(item) for key, item in found.items()}
    return [upper(item) for item in found] if isinstance(found, list) else found


def test_an_object_in_the_usual_case_is_not_copied() -> None:
    found, faults = spelled(IN_CASE)
    assert found is IN_CASE
    assert faults == []


def test_every_level_in_another_case() -> None:
    assert spelled(upper(IN_CASE)) == (IN_CASE, [])


@pytest.mark.parametrize("key", ["name", "NAME", "Name", "nAmE"])
def test_a_request(key: str) -> None:
    assert request({"CNIVersion": "0.4.0", key: "ib"}).conf == {"cniVersion": "0.4.0", "name": "ib"}
    assert request({"CNIVersion": "0.4.0", key: "ib"}).version == "0.4.0"


def test_unicode_that_folds_to_ascii_as_go_folds_it() -> None:
    assert spelled({"rout\u0065\u017f": []}, IPAM)[0] == {"routes": []}


def test_host_local_reads_what_the_go_plugin_reads() -> None:
    conf = {
        "cniVersion": "1.0.0",
        "name": "ib",
        "IPAM": {"Type": "host-local", "Subnet": "10.0.0.0/24", "DataDir": "/d", "Routes": [{"Dst": "10.1.0.0/16"}]},
    }
    settings = parse_settings(request(conf))
    assert [str(part) for part in settings.sets[0]] == ["10.0.0.1-10.0.0.254"]
    assert settings.routes[0].dst == "10.1.0.0/16"
    assert parse_place(request(conf, "DEL").conf).data_dir == "/d"


def test_a_result_of_an_ipam_plugin() -> None:
    doc = {"CNIVersion": "1.0.0", "IPs": [{"Address": "10.0.0.7/24", "Gateway": "10.0.0.1"}], "DNS": {"Domain": "x"}}
    result = parse_result(doc, "1.0.0")
    assert (result.ips[0].address, result.ips[0].gateway) == ("10.0.0.7/24", "10.0.0.1")
    assert result.dns == {"domain": "x"}


def test_capabilities_are_compared_exactly_as_in_libcni() -> None:
    conf = {"capabilities": {"IPs": True}}
    assert spelled(conf)[0] == conf


def test_two_spellings_that_agree_and_two_that_do_not() -> None:
    names = name_all(("mtu", "flag"))
    assert spelled({"mtu": 1, "MTU": 1}, names) == ({"mtu": 1}, [])
    assert spelled({"MTU": 1, "mtu": None}, names) == ({"mtu": 1}, [])
    assert spelled({"MTU": None, "mtu": 1}, names) == ({"mtu": 1}, [])
    fault = "mtu and MTU are one key, and must not have different values"
    assert spelled({"mtu": 1, "MTU": 2}, names) == ({"mtu": 2}, [fault])  # the later one counts, as in Go
    assert spelled({"flag": 1, "Flag": True}, names)[1] == [
        "flag and Flag are one key, and must not have different values"
    ]


def test_two_spellings_refuse_an_add_and_not_a_del() -> None:
    conf = {"cniVersion": "1.0.0", "name": "ib", "ipam": {"ranges": [[{"subnet": "a", "Subnet": "b"}]]}}
    words = r"ipam\.ranges\[0\]\[0\]\.subnet and ipam\.ranges\[0\]\[0\]\.Subnet are one key"
    with pytest.raises(InvalidConfiguration, match=words):
        request(conf)
    assert request(conf, "DEL").conf["ipam"] == {"ranges": [[{"subnet": "b"}]]}


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["ipam", "IPAM", "ranges", "Ranges", "subnet", "SUBNET", "x", "dst"]), inner)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["ipam", "Ipam", "args", "name", "Name", "x"]), documents))
def test_any_document(document: dict[str, Any]) -> None:
    found, _ = spelled(document)
    assert spelled(found)[0] is found, "spelled once is spelled"
    if not any(key in CONFIGURATION for key in document):
        assert {key.casefold() for key in found} == {key.casefold() for key in document}
