"""Reliable connections between QPs of two machines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.endpoint import Endpoint, endpoints, join
from tests.cluster.hca import Host

MIB = 1 << 20  # more than one packet of the wire between the kernels


@pytest.fixture
def ends(pair: list[Host]) -> Iterator[list[Endpoint]]:
    """An endpoint on VF 0 of each machine."""
    with endpoints(pair[0].device(0), pair[1].device(0)) as made:
        yield made


def test_messages_arrive_in_order(ends: list[Endpoint]) -> None:
    one, two = ends
    join(one, two)
    for offset in range(3):
        two.call("receive", length=1, offset=offset)
    one.call("fill", text="abc")
    for offset in range(3):
        one.call("post", length=1, offset=offset)
    assert one.completions(3) == ["SUCCESS"] * 3
    assert two.completions(3) == ["SUCCESS"] * 3
    assert two.call("text", length=3) == "abc"


@pytest.mark.parametrize("length", [5, MIB])
def test_write(ends: list[Endpoint], length: int) -> None:
    one, two = ends
    join(one, two)
    one.call("fill", text="w", count=length)
    two.call("fill", text="-", count=length + 1)
    one.call("post", what="write", length=length)
    assert one.completions() == ["SUCCESS"]
    assert two.call("text", length=2, offset=length - 1) == "w-"


@pytest.mark.parametrize("length", [5, MIB])
def test_read(ends: list[Endpoint], length: int) -> None:
    one, two = ends
    join(one, two)
    two.call("fill", text="r", count=length)
    one.call("fill", text="-", count=length + 1)
    one.call("post", what="read", length=length)
    assert one.completions() == ["SUCCESS"]
    assert one.call("text", length=2, offset=length - 1) == "r-"


def test_a_large_message_is_received_whole(ends: list[Endpoint]) -> None:
    one, two = ends
    join(one, two)
    two.call("receive", length=MIB)
    one.call("fill", text="m", count=MIB)
    one.call("post", length=MIB)
    assert two.completions() == one.completions() == ["SUCCESS"]
    assert two.call("text", length=3, offset=MIB - 3) == "mmm"


def test_a_message_waits_for_a_receive_buffer(ends: list[Endpoint]) -> None:
    one, two = ends
    join(one, two)
    one.call("fill", text="late")
    one.call("post", length=4)
    one.call("post", length=4)
    assert one.completions(timeout=1) == []
    for _ in range(2):
        two.call("receive")
    assert one.completions(2) == two.completions(2) == ["SUCCESS"] * 2
    assert two.call("text", length=4) == "late"


def test_without_a_receive_buffer_the_retries_end(ends: list[Endpoint]) -> None:
    one, two = ends
    join(one, two, rnr_retry=2)
    one.call("post", length=4)
    one.call("post", length=4)
    assert one.completions(2) == ["RNR_RETRY_EXC", "WR_FLUSH"]


def test_a_wrong_key_is_refused_and_ends_both(ends: list[Endpoint]) -> None:
    one, two = ends
    join(one, two)
    two.call("receive")
    one.call("post", what="write", length=4, rkey=0xDEAD)
    assert one.completions() == ["REM_ACCESS"]
    assert two.completions() == ["WR_FLUSH"]


@pytest.mark.parametrize("vfs", [(0, 1), (1, 0)], ids=["full to limited", "limited to full"])
def test_a_common_partition(pair: list[Host], vfs: tuple[int, int]) -> None:
    with endpoints(pair[0].device(vfs[0]), pair[1].device(vfs[1])) as (one, two):
        join(one, two, pkey_index=1)
        two.call("receive")
        one.call("post", length=4)
        assert one.completions() == two.completions() == ["SUCCESS"]


@pytest.mark.parametrize("vfs", [(1, 1), (0, 2)], ids=["two limited", "two partitions"])
def test_no_common_partition(pair: list[Host], vfs: tuple[int, int]) -> None:
    with endpoints(pair[0].device(vfs[0]), pair[1].device(vfs[1])) as (one, two):
        join(one, two, pkey_index=1)
        two.call("receive")
        one.call("post", length=4)
        assert one.completions() == ["RETRY_EXC"]


def test_a_port_that_goes_down_ends_the_connection(pair: list[Host], ends: list[Endpoint]) -> None:
    one, two = ends
    join(one, two)
    one.call("post", length=4)  # waits for a buffer
    pair[1].machine.run("ip link set eth100 vf 0 state disable")
    try:
        assert one.completions() == ["RETRY_EXC"]
    finally:
        pair[1].machine.run("ip link set eth100 vf 0 state auto")
