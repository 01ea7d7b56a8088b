"""The configuration: keys, order of the sets, defaults, and all errors in one message (H1, H2, H3, C4, C19)."""

from __future__ import annotations

from typing import Any

import pytest

from ipam.host_local.config import DATA_DIR, LOCK_TIMEOUT, Place, parse_place, parse_settings
from ipam.host_local.ranges import render_set
from ipam.protocol.address import render_address
from ipam.protocol.errors import InvalidConfiguration
from ipam.protocol.request import Request
from ipam.protocol.result import Route


def request(ipam: object = None, version: str = "1.0.0", args: dict[str, str] | None = None, **conf: Any) -> Request:
    whole: dict[str, object] = {"name": "net", "cniVersion": version, **conf}
    if ipam is not None:
        whole["ipam"] = ipam
    return Request(
        command="ADD", container_id="c", ifname="i", args=args or {}, conf=whole, version=version, environ={}
    )


def with_args(args: object) -> Request:
    conf: dict[str, object] = {"name": "n", "ipam": {"subnet": "10.0.0.0/24"}, "args": args}
    return Request(command="ADD", args={}, conf=conf, version="1.0.0", environ={})


def sets(ipam: object, **conf: Any) -> list[str]:
    return [render_set(one) for one in parse_settings(request(ipam, **conf)).sets]


@pytest.mark.parametrize(
    ("part", "expected", "gateway"),
    [
        ({"subnet": "10.0.0.0/24"}, "10.0.0.1-10.0.0.254", "10.0.0.1"),
        ({"subnet": "10.0.0.0/30"}, "10.0.0.1-10.0.0.2", "10.0.0.1"),
        ({"subnet": "fd00::/126"}, "fd00::1-fd00::3", "fd00::1"),
        ({"subnet": "fd00::/64"}, "fd00::1-fd00::ffff:ffff:ffff:ffff", "fd00::1"),
        ({"subnet": "0.0.0.0/0"}, "0.0.0.1-255.255.255.254", "0.0.0.1"),
        ({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.0"}, "10.0.0.0-10.0.0.254", "10.0.0.1"),
        ({"subnet": "10.0.0.0/24", "rangeEnd": "10.0.0.255"}, "10.0.0.1-10.0.0.255", "10.0.0.1"),
        ({"subnet": "10.0.0.0/24", "gateway": "10.9.9.9"}, "10.0.0.1-10.0.0.254", "10.9.9.9"),
        (
            {"subnet": "10.0.0.0/24", "gateway": "", "rangeStart": "", "rangeEnd": None},
            "10.0.0.1-10.0.0.254",
            "10.0.0.1",
        ),
    ],
)
def test_h2_defaults(part: dict[str, object], expected: str, gateway: str) -> None:
    for ipam in (part, {"ranges": [[part]]}):
        found = parse_settings(request(ipam)).sets
        assert [render_set(one) for one in found] == [expected]
        assert render_address(found[0][0].gateway) == gateway


REFUSED = [
    ({"subnet": "10.0.0.0/31"}, "too small"),
    ({"subnet": "10.0.0.0/32"}, "too small"),
    ({"subnet": "fd00::/127"}, "too small"),
    ({"subnet": "fd00::/128"}, "too small"),
    ({"subnet": "10.0.0.5/24"}, r"host bits set.*10\.0\.0\.0/24"),
    ({"subnet": "fd00::5/64"}, r"host bits set.*fd00::/64"),
    ({"subnet": "10.0.0.0"}, "no prefix length"),
    ({"subnet": 5}, "subnet is not a string"),
    ({"subnet": "10.0.0.0/24", "rangeStart": "10.0.1.1"}, r"rangeStart 10\.0\.1\.1 is not in the subnet"),
    ({"subnet": "10.0.0.0/24", "rangeEnd": "fd00::1"}, "rangeEnd fd00::1 is not in the subnet"),
    ({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.8"}, "after its end"),
    ({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.255"}, "after its end"),
    ({"subnet": "10.0.0.0/24", "gateway": "x"}, "'x' is not an IP address"),
    ({"subnet": "10.0.0.0/24", "gateway": ["10.0.0.1"]}, "gateway is not a string"),
]


@pytest.mark.parametrize(("part", "fault"), REFUSED)
def test_h2_refused(part: dict[str, object], fault: str) -> None:
    with pytest.raises(InvalidConfiguration, match=rf"ranges\[0\]\[0\]: .*{fault}"):
        sets({"ranges": [[part]]})
    with pytest.raises(InvalidConfiguration, match=rf"ipam: .*{fault}"):
        sets(part)


@pytest.mark.parametrize(
    ("ipam", "fault"),
    [
        (None, "ipam is missing"),
        ({}, "no IP ranges specified"),
        ({"ranges": []}, "no IP ranges specified"),
        ({"ranges": {}}, "ranges is not a list"),
        ({"ranges": [{}]}, r"ranges\[0\] is not a list"),
        ({"ranges": [[]]}, r"ranges\[0\]: empty range set"),
        ({"ranges": [[5]]}, r"ranges\[0\]\[0\]: not an object"),
        ({"ranges": [[{}]]}, "subnet is missing"),
        ({"ranges": [[{"subnet": "10.0.0.0/24"}, {"subnet": "fd00::/64"}]]}, "mixed address families"),
        (
            {"ranges": [[{"subnet": "10.0.0.0/24"}, {"subnet": "10.0.0.0/25"}]]},
            "10.0.0.1-10.0.0.254 and 10.0.0.1-10.0.0.126",
        ),
        ({"ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.0.0.0/25"}]]}, "range set 0 overlaps with 1"),
        ({"subnet": "10.0.0.0/24", "routes": [{"dst": "x"}]}, r"ipam\.routes\[0\]\.dst"),
        ({"subnet": "10.0.0.0/24", "routes": {}}, r"ipam\.routes is not a list"),
        ({"subnet": "10.0.0.0/24", "resolvConf": 5}, r"ipam\.resolvConf is not a string"),
        ({"subnet": "10.0.0.0/24", "dataDir": []}, r"ipam\.dataDir is not a path"),
        ({"subnet": "10.0.0.0/24", "dataDir": "/a\0b"}, r"ipam\.dataDir is not a path"),
    ],
)
def test_refused(ipam: object, fault: str) -> None:
    with pytest.raises(InvalidConfiguration, match=fault):
        sets(ipam)


def test_c4_several_faults_are_listed() -> None:
    bad = {
        "dataDir": 1,
        "subnet": "x/1",
        "ranges": [[{"subnet": "10.0.0.0/31"}], [{"subnet": "10.0.0.1/24"}, {}]],
        "routes": [{}],
        "slices": 5,
    }
    with pytest.raises(InvalidConfiguration) as caught:
        parse_settings(request(bad, runtimeConfig={"ips": ["y"]}, lockTimeout="1", args={"IP": "z"}))
    for word in ("dataDir", "'x'", "10.0.0.0/31", "10.0.0.1/24", "ranges[1][1]", "routes[0].dst", "slices"):
        assert word in caught.value.msg
    for word in ("runtimeConfig.ips[0]: 'y'", "lockTimeout", "CNI_ARGS IP: 'z'"):
        assert word in caught.value.msg


def test_h1_order_of_the_sets() -> None:
    ipam = {"subnet": "10.1.0.0/30", "ranges": [[{"subnet": "10.2.0.0/30"}], [{"subnet": "fd00::/126"}]]}
    found = sets(ipam, runtimeConfig={"ipRanges": [[{"subnet": "10.0.0.0/30"}]]})
    assert found == ["10.0.0.1-10.0.0.2", "10.1.0.1-10.1.0.2", "10.2.0.1-10.2.0.2", "fd00::1-fd00::3"]


def test_h2_one_address_of_a_family_before_0_3_0() -> None:
    two = {"ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.0.1.0/24"}]]}
    assert len(sets(two, version="0.3.0")) == 2
    with pytest.raises(InvalidConfiguration, match=r"0\.2\.0 does not support more than 1 address per family"):
        sets(two, version="0.2.0")
    assert len(sets({"ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/64"}]]}, version="0.1.0")) == 2


def test_h3_all_three_sources() -> None:
    conf = {
        "args": {"cni": {"ips": ["10.0.0.3/24", "10.0.0.2"], "other": 5}},
        "runtimeConfig": {"ips": ["FD00:0::4/64"]},
    }
    asked = Request(
        command="ADD",
        args={"IP": "10.0.0.2/16"},
        conf={"name": "n", "ipam": {"subnet": "10.0.0.0/24"}, **conf},
        version="1.0.0",
        environ={},
    )
    assert [render_address(address) for address in parse_settings(asked).requested] == [
        "10.0.0.2",
        "10.0.0.3",
        "fd00::4",
    ]


@pytest.mark.parametrize("ips", ["10.0.0.1", [5], [None], [""], ["10.0.0.1/33"], {"a": 1}])
def test_h3_junk_is_refused(ips: object) -> None:
    with pytest.raises(InvalidConfiguration, match=r"runtimeConfig\.ips"):
        sets({"subnet": "10.0.0.0/24"}, runtimeConfig={"ips": ips})
    with pytest.raises(InvalidConfiguration, match=r"args\.cni\.ips"):
        parse_settings(with_args({"cni": {"ips": ips}}))


def test_routes_and_resolv_conf() -> None:
    routes = [{"dst": "0.0.0.0/0", "gw": "10.0.0.9", "mtu": 1400, "table": 0, "priority": 0}, {"dst": "FD00::/8"}]
    settings = parse_settings(request({"subnet": "10.0.0.0/24", "routes": routes, "resolvConf": "/etc/resolv.conf"}))
    assert settings.routes == (Route(dst="0.0.0.0/0", gw="10.0.0.9", mtu=1400, table=0), Route(dst="fd00::/8"))
    assert settings.resolv_conf == "/etc/resolv.conf"


def test_h6_a_release_reads_nothing_but_the_place() -> None:
    assert parse_place({"name": "n"}) == Place(data_dir=DATA_DIR, network="n", lock_timeout=60.0)
    conf = {"name": "n", "lockTimeout": 0.5, "ipam": {"dataDir": "/x", "ranges": "junk", "subnet": 5, "slices": []}}
    assert parse_place(conf) == Place(data_dir="/x", network="n", lock_timeout=0.5)
    with pytest.raises(InvalidConfiguration, match="dataDir"):
        parse_place({"name": "n", "ipam": {"dataDir": 5}})


@pytest.mark.parametrize("timeout", ["5", True, -1, [], 1e9])
def test_lock_timeout_is_a_number_of_seconds(timeout: object) -> None:
    with pytest.raises(InvalidConfiguration, match="lockTimeout"):
        sets({"subnet": "10.0.0.0/24"}, lockTimeout=timeout)
    assert parse_place({"name": "n", "lockTimeout": timeout}).lock_timeout == LOCK_TIMEOUT
