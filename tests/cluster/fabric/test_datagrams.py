"""Datagrams, multicast and IPoIB between the HCAs of two machines."""

from __future__ import annotations

import pytest

from tests.cluster.endpoint import HEADER, endpoints, join
from tests.cluster.hca import Host
from tests.lab.commands import wait

IPOIB_VF = 3


def test_datagram(pair: list[Host]) -> None:
    with endpoints(pair[0].device(0), pair[1].device(0)) as (one, two):
        join(one, two, kind="UD")
        two.call("receive")
        one.call("fill", text="hello")
        one.call("post", length=5)
        assert one.completions() == ["SUCCESS"]
        assert two.completions() == ["SUCCESS"]
        assert two.call("text", length=5, offset=HEADER) == "hello"


@pytest.mark.parametrize(
    ("vfs", "arrives"),
    [((0, 1), True), ((1, 0), True), ((1, 1), False), ((0, 2), False)],
    ids=["full to limited", "limited to full", "two limited", "two partitions"],
)
def test_datagrams_stay_in_their_partition(pair: list[Host], vfs: tuple[int, int], arrives: bool) -> None:
    with endpoints(pair[0].device(vfs[0]), pair[1].device(vfs[1])) as (one, two):
        join(one, two, kind="UD", pkey_index=1)
        two.call("receive")
        one.call("post", length=5)
        assert one.completions() == ["SUCCESS"]
        # what has not come when a later one of the default partition has, was dropped
        assert two.completions(timeout=60 if arrives else 2) == (["SUCCESS"] if arrives else [])


def test_ipoib(pair: list[Host]) -> None:
    addresses = [each.address_up(IPOIB_VF) for each in pair]
    assert wait(lambda: pair[0].pings(addresses[1]), 60, 0.5)
    assert pair[1].pings(addresses[0])
    assert pair[0].pings(addresses[1], "-s 20000")


def test_multicast_reaches_the_other_machine(pair: list[Host]) -> None:
    addresses = [each.address_up(IPOIB_VF) for each in pair]
    netdevs = [each.vfs[IPOIB_VF].netdev for each in pair]
    assert wait(lambda: pair[0].pings(addresses[1]), 60, 0.5)
    shown = pair[1].machine.output(f"ip -6 -br addr show dev {netdevs[1]}")
    far = next(word.split("/")[0] for word in shown.split() if word.startswith("fe80"))
    answers = wait(
        lambda: f"from {far}" in pair[0].machine.run(f"ping -6 -c 2 -W 5 -I {netdevs[0]} ff02::1", check=False).stdout,
        60, 0.5,
    )  # fmt: skip
    assert answers
