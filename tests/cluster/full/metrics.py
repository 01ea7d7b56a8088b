"""What a node's agent serves as metrics."""

from __future__ import annotations

from tests.cluster.hca import Host
from tests.lab.commands import wait

ASK = "busybox wget -q -O - http://127.0.0.1:9743/metrics"
LAST_PASS = "ib_sriov_agent_last_pass_timestamp_seconds"


def read(host: Host) -> dict[str, float]:
    """The samples by name and labels, as they are written."""
    lines = [line for line in host.machine.output(ASK).splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def wait_for_passes(host: Host, seconds: float = 0) -> None:
    """Wait for a pass of the agent that ends later than the last one by so many seconds and more."""
    begin = read(host)[LAST_PASS]
    assert wait(lambda: read(host)[LAST_PASS] > begin + seconds, seconds + 120, 1), f"{host.machine.name}: no pass"
