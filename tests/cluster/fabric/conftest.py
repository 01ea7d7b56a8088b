"""Two machines whose emulated HCAs share one fabric; all tests here use them, so they are booted once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hca import Host
from tests.cluster.machine import Machine, start_all
from tests.cluster.segment import Segment

# By VF: a partition that VF 0 and VF 1 of all nodes share, as full and as limited members, and one of VF 2 alone.
PKEYS = "0:ffff,8001;1:ffff,0001;2:ffff,8002"


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Host]]:
    """The two machines; IPoIB of VF 3 is up with 192.168.77.1 and .2."""
    segment = Segment(2)
    folder: Path = tmp_path_factory.mktemp("machines")
    hosts = [Host(Machine(segment, number, folder), machines=2, pkeys=PKEYS) for number in (1, 2)]
    try:
        start_all([each.machine for each in hosts])
        for each in hosts:
            each.load()
        yield hosts
        verdicts = [each.machine.end() for each in hosts]
        assert verdicts == [0, 0], "\n".join(each.machine.said() for each in hosts)
    finally:
        segment.end()
