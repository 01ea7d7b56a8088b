"""Slices of a cluster-wide subnet: every node has its own part, and errors name the file and the numbers (H8, N7)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam.host_local.ranges import parse_range, render_set
from ipam.host_local.slices import (
    SUBNET_ENV,
    Slice,
    SliceSource,
    cut_range,
    cut_sets,
    find_slice,
    parse_flannel,
    parse_slices,
)
from ipam.protocol.errors import CniError, InvalidConfiguration, TryAgainLater
from tests.ipam.calls import ask

FLANNEL = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.{node}.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"


def find_slice_of(source: SliceSource) -> Slice:
    return find_slice(source, lambda path: Path(path).read_bytes().decode())


def numbered(index: int, count: int) -> Slice:
    return Slice(index=index, count=count, origin="test")


def test_three_nodes(tmp_path: Path) -> None:
    """The picture in docs/ipam.md: one definition, three nodes, three parts, one prefix."""
    given_out = []
    for node in range(3):
        env = tmp_path / f"subnet{node}.env"
        env.write_text(FLANNEL.format(node=node))
        ipam = {
            "dataDir": str(tmp_path / f"node{node}"),
            "ranges": [[{"subnet": "192.168.0.0/16"}], [{"subnet": "fd00::/64"}]],
            "slices": {"flannel": str(env)},
        }
        conf = {"cniVersion": "1.1.0", "name": "ib", "ipam": ipam}
        assert ask("STATUS", conf).status == 0
        given_out += [ask("ADD", conf, f"c{n}").ips for n in range(2)]
        assert ask("CHECK", conf, "c0").status == 0
    assert given_out == [
        ["192.168.0.2/16", "fd00::2/64"],
        ["192.168.0.3/16", "fd00::3/64"],
        ["192.168.1.1/16", "fd00::100:0:0:0/64"],
        ["192.168.1.2/16", "fd00::100:0:0:1/64"],
        ["192.168.2.1/16", "fd00::200:0:0:0/64"],
        ["192.168.2.2/16", "fd00::200:0:0:1/64"],
    ]


def test_a_slice_is_given_out_to_its_last_address(tmp_path: Path) -> None:
    ipam = {"dataDir": str(tmp_path), "subnet": "10.0.0.0/28", "slices": {"index": 3, "count": 4}}
    conf = {"cniVersion": "1.1.0", "name": "ib", "ipam": ipam}
    assert [ask("ADD", conf, f"c{n}").ips for n in range(3)] == [["10.0.0.12/28"], ["10.0.0.13/28"], ["10.0.0.14/28"]]
    answer = ask("ADD", conf, "late")
    assert "no IP addresses available in range set: 10.0.0.12-10.0.0.14" in answer.msg
    ipam["slices"] = {"index": 2, "count": 4}
    assert ask("ADD", conf, "asked", args="IP=10.0.0.12").status == 1
    assert ask("DEL", conf, "c0").status == 0


@given(host_bits=st.integers(2, 8), count=st.integers(1, 40), explicit=st.booleans())
def test_slices_are_distinct_and_equal(host_bits: int, count: int, *, explicit: bool) -> None:
    part: dict[str, object] = {"subnet": f"10.0.0.0/{32 - host_bits}"}
    if explicit:
        part |= {"rangeStart": "10.0.0.1", "rangeEnd": "10.0.0.3"}
    whole = parse_range(part)
    seen: list[int] = []
    sizes = set()
    for index in range(count):
        try:
            mine = cut_range(whole, numbered(index, count))
        except InvalidConfiguration:
            continue
        assert whole.start <= mine.start <= mine.end <= whole.end
        assert (mine.prefix, mine.gateway) == (whole.prefix, whole.gateway)
        seen += range(mine.start, mine.end + 1)
        sizes.add(mine.end - mine.start + 1)
    assert len(seen) == len(set(seen))
    if sizes:
        assert max(sizes) - min(sizes) <= 2  # x.x.x.0 and x.x.x.255 at their ends


@pytest.mark.parametrize(
    ("part", "index", "count", "expected"),
    [
        ({"subnet": "10.0.0.0/16"}, 0, 256, "10.0.0.1-10.0.0.254"),
        ({"subnet": "10.0.0.0/16"}, 3, 256, "10.0.3.1-10.0.3.254"),
        ({"subnet": "10.0.0.0/16"}, 255, 256, "10.0.255.1-10.0.255.254"),
        (
            {"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.100", "rangeEnd": "10.0.0.199"},
            1,
            4,
            "10.0.0.125-10.0.0.149",
        ),
        ({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.56"}, 0, 2, "10.0.0.56-10.0.0.154"),
        ({"subnet": "10.0.0.0/24"}, 2, 3, "10.0.0.170-10.0.0.254"),
        ({"subnet": "fd00::/64"}, 1, 65536, "fd00::1:0:0:0-fd00::1:ffff:ffff:ffff"),
    ],
)
def test_where_the_cuts_are(part: dict[str, object], index: int, count: int, expected: str) -> None:
    assert render_set(cut_sets(((parse_range(part),),), numbered(index, count))[0]) == expected


@pytest.mark.parametrize(
    ("subnet", "index", "count"),
    [("10.0.0.0/24", 0, 256), ("10.0.0.0/24", 255, 256), ("10.0.0.0/24", 3, 300), ("10.0.0.0/24", 0, 128)],
)
def test_a_slice_too_small_names_the_numbers(subnet: str, index: int, count: int) -> None:
    """Of one-address slices the first is the network and the last the broadcast; of two, only the gateway is left."""
    with pytest.raises(
        InvalidConfiguration, match=rf"slice {index} of {count} \(test\) of 10\.0\.0\.0-.*256 addresses"
    ):
        cut_range(parse_range({"subnet": subnet}), numbered(index, count))


@pytest.mark.parametrize(
    ("network", "subnet", "expected"),
    [
        ("10.244.0.0/16", "10.244.3.1/24", (3, 256)),
        ("10.244.0.0/16", "10.244.255.1/24", (255, 256)),
        ("10.0.0.0/8", "10.1.16.1/20", (17, 4096)),
        ("10.0.0.0/24", "10.0.0.1/24", (0, 1)),
    ],
)
def test_n7_flannel(network: str, subnet: str, expected: tuple[int, int]) -> None:
    assert parse_flannel(f"FLANNEL_NETWORK={network}\nFLANNEL_SUBNET={subnet}\n") == expected


def test_n7_flannel_with_ipv6_alone() -> None:
    text = "FLANNEL_IPV6_NETWORK=fd00::/48\nFLANNEL_IPV6_SUBNET=fd00:0:0:5::1/64\n"
    assert parse_flannel(text) == (5, 65536)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "FLANNEL_NETWORK=10.244.0.0/16\n",
        "FLANNEL_SUBNET=10.244.0.1/24\n",
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUB",
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244",
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.9.3.1/24\n",
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.0.0.1/8\n",
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=fd00::/64\n",
        "FLANNEL_NETWORK=10.244.0.0/16,10.245.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n",
        "\0" * 100,
    ],
)
def test_n7_a_torn_file_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    path.write_text(text)
    with pytest.raises(TryAgainLater, match=str(path)):
        find_slice_of(SliceSource(kind="flannel", path=str(path)))


@pytest.mark.parametrize("kind", ["flannel", "indexFile"])
def test_a_missing_or_unreadable_file_is_named(kind: str, tmp_path: Path) -> None:
    junk = tmp_path / "junk"
    junk.write_bytes(b"\xff\xfe")
    for path in (tmp_path / "none", tmp_path, junk):
        with pytest.raises(TryAgainLater, match=str(path)):
            find_slice_of(SliceSource(kind=kind, path=str(path), count=4))


@pytest.mark.parametrize(("text", "index"), [("3", 3), (" 0\n", 0), ("007\n", 7)])
def test_an_index_file(text: str, index: int, tmp_path: Path) -> None:
    path = tmp_path / "index"
    path.write_text(text)
    source = SliceSource(kind="indexFile", path=str(path), count=16)
    assert find_slice_of(source) == Slice(index=index, count=16, origin=str(path))


@pytest.mark.parametrize("text", ["", "x", "-1", "1.0", "1 2", "\u0663", "9" * 12])
def test_an_index_file_without_a_number(text: str, tmp_path: Path) -> None:
    path = tmp_path / "index"
    path.write_text(text)
    with pytest.raises(TryAgainLater, match=str(path)):
        find_slice_of(SliceSource(kind="indexFile", path=str(path), count=16))


def test_more_nodes_than_slices(tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    path.write_text(FLANNEL.format(node=64))
    with pytest.raises(InvalidConfiguration, match=rf"index 64 \({path}\).*only 64 slices, 0 to 63") as caught:
        find_slice_of(SliceSource(kind="flannel", path=str(path), count=64))
    assert "ipam.slices.count" in caught.value.details
    assert find_slice_of(SliceSource(kind="flannel", path=str(path), count=65)).index == 64
    with pytest.raises(CniError, match="index 4 "):
        find_slice_of(SliceSource(kind="index", index=4, count=4))


@pytest.mark.parametrize(
    ("item", "source"),
    [
        ({"flannel": True}, SliceSource(kind="flannel", path=SUBNET_ENV)),
        ({"flannel": "/x", "count": 5}, SliceSource(kind="flannel", path="/x", count=5)),
        ({"index": 0, "count": 1}, SliceSource(kind="index", index=0, count=1)),
        ({"indexFile": "/y", "count": 9, "note": "ignored"}, SliceSource(kind="indexFile", path="/y", count=9)),
    ],
)
def test_the_keys(item: object, source: SliceSource) -> None:
    faults: list[str] = []
    assert parse_slices(item, faults) == source
    assert faults == []


JUNK: list[Any] = [
    [], "flannel", {}, {"flannel": False}, {"flannel": True, "index": 0}, {"index": 0}, {"index": -1, "count": 4},
    {"index": "0", "count": 4}, {"index": True, "count": 4}, {"index": False, "count": 4}, {"index": 0, "count": 0},
    {"index": 0, "count": "4"}, {"index": 0, "count": True}, {"indexFile": "/x"}, {"indexFile": "x", "count": 4},
    {"indexFile": True, "count": 4}, {"flannel": 5}, {"flannel": "/a\0b"}, {"flannel": True, "count": 1.5},
]  # fmt: skip


@pytest.mark.parametrize("item", JUNK, ids=repr)
def test_junk_is_refused(item: object) -> None:
    faults: list[str] = []
    assert parse_slices(item, faults) is None
    assert len(faults) == 1
    assert faults[0].startswith("ipam.slices")
