"""Both executables on the same leases at the same time: no address is given out twice or lost (H5)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from tests.ipam.calls import OURS, Answer, environment, execute, leases

if TYPE_CHECKING:
    from pathlib import Path

ADDRESSES = 160
AT_ONCE = 8


def test_h5_both_at_once(go: tuple[str, ...], tmp_path: Path) -> None:
    ipam = {
        "type": "host-local",
        "dataDir": str(tmp_path),
        "ranges": [
            [{"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.20", "rangeEnd": "10.0.0.179"}],
            [{"subnet": "fd00::/64"}],
        ],
    }
    conf: dict[str, Any] = {"cniVersion": "1.0.0", "name": "net", "type": "x", "ipam": ipam}
    programs = (go, OURS)

    def add(number: int) -> Answer:
        return execute(programs[number % 2], conf, environment("ADD", f"c{number}"))

    def change(number: int) -> Answer:
        """Half of them release what the other program reserved and reserve again; the others CHECK."""
        if number % 4 > 1:
            assert execute(programs[(number + 1) % 2], conf, environment("DEL", f"c{number}")).status == 0
            return add(number)
        return execute(programs[(number + 1) % 2], conf, environment("CHECK", f"c{number}"))

    def delete(number: int) -> Answer:
        return execute(programs[(number + 1) % 2], conf, environment("DEL", f"c{number}"))

    numbers = range(ADDRESSES)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        given = [answer.ips for answer in pool.map(add, numbers)]
        assert len({ip for ips in given for ip in ips}) == 2 * ADDRESSES
        assert {ips[0] for ips in given} == {f"10.0.0.{n}/24" for n in range(20, 180)}
        for program in programs:
            assert execute(program, conf, environment("ADD", "late")).msg.startswith(
                "failed to allocate for range 0: no IP"
            )
        assert {answer.status for answer in pool.map(change, numbers)} == {0}
        held = leases(str(tmp_path / "net"))
        assert sorted(held.values()) == sorted([f"c{n}\r\neth0".encode() for n in numbers] * 2)
        assert {answer.status for answer in pool.map(delete, numbers)} == {0}
    assert leases(str(tmp_path / "net")) == {}
