"""ipam.protocol.result: one model, seven formats (C7, C9)."""

from __future__ import annotations

import pytest

from ipam.protocol.errors import DecodingFailure, InvalidConfiguration
from ipam.protocol.result import Address, Interface, Result, Route, append_interface, parse_result, render_result
from ipam.protocol.versions import VERSIONS

FULL = Result(
    interfaces=(
        Interface(name="ib0"),
        Interface(name="net1", mac="00:11", sandbox="/ns", mtu=2044, socket_path="/s", pci_id="0000:3b:00.2"),
    ),
    ips=(
        Address(address="10.0.0.2/24", gateway="10.0.0.1", interface=1),
        Address(address="2001:db8::2/64", interface=1),
        Address(address="10.0.1.2/24"),
    ),
    routes=(
        Route(dst="0.0.0.0/0", gw="10.0.0.1", mtu=1500, advmss=1400, priority=3, table=0, scope=253),
        Route(dst="::/0"),
    ),
    dns={"nameservers": ["10.0.0.53"], "domain": "a", "search": ["b"], "options": ["c"]},
)
DNS = {"nameservers": ["10.0.0.53"], "domain": "a", "search": ["b"], "options": ["c"]}


def test_c9_an_interface_is_appended_with_what_was_reserved_for_it() -> None:
    ours = Interface(name="net2", sandbox="/ns", pci_id="0000:3b:00.3")  # passed through: no hardware address
    reserved = Result(ips=(Address(address="10.1.0.2/24"),), routes=(Route(dst="10.9.0.0/16"),))
    both = append_interface(FULL, ours, reserved)
    assert both.interfaces == (*FULL.interfaces, ours)
    assert both.ips == (*FULL.ips, Address(address="10.1.0.2/24", interface=2))
    assert (both.routes, both.dns) == ((*FULL.routes, Route(dst="10.9.0.0/16")), FULL.dns)
    alone = append_interface(Result(), ours, reserved)
    assert (alone.interfaces, alone.ips) == ((ours,), (Address(address="10.1.0.2/24", interface=0),))
    assert render_result(alone, "1.1.0")["interfaces"] == [{"name": "net2", "sandbox": "/ns", "pciID": "0000:3b:00.3"}]


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_c7_first_shape(version: str) -> None:
    assert render_result(FULL, version) == {
        "cniVersion": version,
        "ip4": {"ip": "10.0.0.2/24", "gateway": "10.0.0.1", "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}]},
        "ip6": {"ip": "2001:db8::2/64", "routes": [{"dst": "::/0"}]},
        "dns": DNS,
    }


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0"])
def test_c7_second_shape(version: str) -> None:
    assert render_result(FULL, version) == {
        "cniVersion": version,
        "interfaces": [{"name": "ib0"}, {"name": "net1", "mac": "00:11", "sandbox": "/ns"}],
        "ips": [
            {"version": "4", "interface": 1, "address": "10.0.0.2/24", "gateway": "10.0.0.1"},
            {"version": "6", "interface": 1, "address": "2001:db8::2/64"},
            {"version": "4", "address": "10.0.1.2/24"},
        ],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}, {"dst": "::/0"}],
        "dns": DNS,
    }


def test_c7_third_shape() -> None:
    assert render_result(FULL, "1.0.0") == {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "ib0"}, {"name": "net1", "mac": "00:11", "sandbox": "/ns"}],
        "ips": [
            {"interface": 1, "address": "10.0.0.2/24", "gateway": "10.0.0.1"},
            {"interface": 1, "address": "2001:db8::2/64"},
            {"address": "10.0.1.2/24"},
        ],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}, {"dst": "::/0"}],
        "dns": DNS,
    }


def test_c7_newest_shape() -> None:
    doc = render_result(FULL, "1.1.0")
    assert doc["interfaces"] == [
        {"name": "ib0"},
        {"name": "net1", "mac": "00:11", "sandbox": "/ns", "mtu": 2044, "socketPath": "/s", "pciID": "0000:3b:00.2"},
    ]
    assert doc["routes"] == [
        {"dst": "0.0.0.0/0", "gw": "10.0.0.1", "mtu": 1500, "advmss": 1400, "priority": 3, "table": 0, "scope": 253},
        {"dst": "::/0"},
    ]


def test_empty_members_are_left_out() -> None:
    assert render_result(Result(), "1.1.0") == {"cniVersion": "1.1.0"}
    assert render_result(Result(), "0.4.0") == {"cniVersion": "0.4.0", "dns": {}}
    assert render_result(Result(), "0.2.0") == {"cniVersion": "0.2.0", "dns": {}}


@pytest.mark.parametrize("version", VERSIONS)
def test_c9_rendered_and_parsed_again_is_the_same(version: str) -> None:
    doc = render_result(FULL, version)
    again = parse_result(doc, version)
    assert render_result(again, version) == doc
    if version == "1.1.0":
        assert again == FULL


def test_c9_the_documents_own_version_counts() -> None:
    assert parse_result(render_result(FULL, "0.2.0"), "1.0.0").ips[0].address == "10.0.0.2/24"
    assert parse_result({"ips": [{"address": "10.0.0.2/24"}]}, "1.0.0").ips == (Address(address="10.0.0.2/24"),)


def test_addresses_get_one_spelling() -> None:
    doc = {"ips": [{"address": "2001:DB8:0::1/64", "gateway": "2001:db8::0:2"}], "routes": [{"dst": "0::/0"}]}
    result = parse_result(doc, "1.0.0")
    assert result.ips == (Address(address="2001:db8::1/64", gateway="2001:db8::2"),)
    assert result.routes == (Route(dst="::/0"),)


@pytest.mark.parametrize("doc", [None, [], "x", 1, True])
def test_not_an_object(doc: object) -> None:
    with pytest.raises(DecodingFailure):
        parse_result(doc, "1.1.0")


JUNK: list[tuple[dict[str, object], str]] = [
    ({"interfaces": {}}, "interfaces is not a list"),
    ({"interfaces": [1]}, r"interfaces\[0\] is not an object"),
    ({"interfaces": [{}]}, r"interfaces\[0\]\.name is missing"),
    ({"interfaces": [{"name": 5}]}, r"interfaces\[0\]\.name is not a string"),
    ({"interfaces": [{"name": "a", "mtu": True}]}, r"mtu is not an integer"),
    ({"ips": [{}]}, r"ips\[0\]\.address is missing"),
    ({"ips": [{"address": "10.0.0.1"}]}, r"ips\[0\]\.address: .*prefix"),
    ({"ips": [{"address": "10.0.0.1/24", "gateway": "x"}]}, r"ips\[0\]\.gateway: 'x' is not"),
    (
        {"ips": [{"address": "10.0.0.1/24", "interface": 0}]},
        r"ips\[0\]\.interface must be an index into interfaces \(got 0, there are 0\)",
    ),
    ({"interfaces": [{"name": "a"}], "ips": [{"address": "10.0.0.1/24", "interface": -1}]}, r"\(got -1, there are 1\)"),
    ({"routes": [{"dst": 1}]}, r"routes\[0\]\.dst is not a string"),
    ({"routes": [{"dst": "::/0", "mtu": "5"}]}, r"mtu is not an integer"),
    ({"dns": []}, "dns is not an object"),
    ({"dns": {"search": [1]}}, r"dns\.search is not a list of strings"),
]


@pytest.mark.parametrize(("doc", "fault"), JUNK)
def test_faults_are_named(doc: dict[str, object], fault: str) -> None:
    with pytest.raises(InvalidConfiguration, match=fault):
        parse_result(doc, "1.1.0")


def test_all_faults_in_one_message() -> None:
    with pytest.raises(InvalidConfiguration, match=r"interfaces.*ips\[1\].*routes.*dns"):
        parse_result({"interfaces": 1, "ips": [{"address": "::1/8"}, {}], "routes": 1, "dns": 1}, "1.1.0")
    with pytest.raises(InvalidConfiguration, match=r"ip4\.ip is missing.*ip6"):
        parse_result({"ip4": {}, "ip6": []}, "0.2.0")
