"""What eight pods at once cost compared with one, when a VF's rebind takes long (as on hardware), in one run.

    python tests/bench/at_once_bench.py [--pods N] [--delay MS] [--rounds N] [--modes shared,exclusive]

Boots the lab's virtual machine and runs there: the emulated driver's probe sleeps for --delay. Each round measures bare
rebinds (unbind and bind by sysfs, no plugin), one and all at once, then ADD and DEL of one pod and of all at once: each
with a new GUID, so that each is rebound, and each with the GUID that the VF has. Calls that rebind wait for each other,
bare rebinds do not (and give the VFs each other's numbers). Medians of the rounds; `ratio` is all at once over one.
Below that, for one ADD and for the slowest of those at once, the milliseconds of each step from its log: time not spent
waiting is processor time, which is scarce in a virtual machine without KVM. Runs dist/ib-sriov if it exists;
IB_SRIOV_PLUGIN names another program. Results: .test-results/bench/at_once.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.lab.pod import Pod
    from tests.lab.rig import Rig

LOG = Path("/tmp/at_once.log")
LINE = re.compile(r"cmd=ADD .*container=(\w+) .*step=(\w+) .*ms=([\d.]+)")
SERIAL = iter(range(1, 1 << 16))


def timed(calls: Sequence[Callable[[], object]]) -> float:
    """Return the seconds until the last of them has ended."""
    from tests.lab.rig import at_once

    begin = time.monotonic()
    at_once(calls)
    return time.monotonic() - begin


def rebinds(rig: Rig, count: int) -> float:
    took = timed([partial(rig.hca.rebind, vf) for vf in range(count)])
    assert rig.hca.settled()
    return took


def pods_at_once(rig: Rig, count: int, *, kept: bool = False) -> tuple[float, float, dict[str, dict[str, float]]]:
    """ADD and DEL that many pods; return the seconds of each, and the steps of each ADD by container."""
    pods = [rig.pod() for _ in range(count)]
    confs = [{**new_guid(rig.mode), **({"guid": None} if kept else {})} for _ in pods]
    LOG.unlink(missing_ok=True)
    add = timed([partial(rig.add, pod, vf, **confs[vf]) for vf, pod in enumerate(pods)])
    steps: dict[str, dict[str, float]] = {}
    for container, step, ms in LINE.findall(LOG.read_text()):
        steps.setdefault(container, {})[step] = float(ms)
    delete = timed([partial(rig.delete, pod, vf, **confs[vf]) for vf, pod in enumerate(pods)])
    rig.assert_as_before()
    end(pods)
    return add, delete, steps


def new_guid(mode: str) -> dict[str, Any]:
    serial = next(SERIAL)
    guid = f"02:11:22:33:44:55:{serial >> 8:02x}:{serial & 255:02x}"
    return {"guid": guid, "logFile": str(LOG), "rdmaIsolation": mode == "exclusive"}


def end(pods: list[Pod]) -> None:
    for pod in pods:
        pod.delete()


def measure(mode: str, pods: int, delay: int, rounds: int) -> list[dict[str, Any]]:
    """Measure one mode: a row for "bare rebind" and each command, with the seconds of one and of all at once."""
    from tests.lab.rig import Rig

    rig = Rig(mode, vfs=pods, total_vfs=max(8, pods))
    try:
        pods_at_once(rig, 1)  # the first run reads files from the host
        names = ("bare rebind", "ADD", "DEL", "ADD, GUID kept", "DEL, GUID kept")
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        one: dict[str, dict[str, float]] = {}
        many: dict[str, dict[str, float]] = {}
        for _ in range(rounds):
            rig.hca.knob("probe_delay_ms", delay)
            found["bare rebind"].append((rebinds(rig, 1), rebinds(rig, pods)))
            rig.load()  # bare rebinds change the devices' names
            rig.hca.knob("probe_delay_ms", delay)
            add_one, delete_one, one = pods_at_once(rig, 1)
            add_all, delete_all, many = pods_at_once(rig, pods)
            found["ADD"].append((add_one, add_all))
            found["DEL"].append((delete_one, delete_all))
            add_one, delete_one, _ = pods_at_once(rig, 1, kept=True)
            add_all, delete_all, _ = pods_at_once(rig, pods, kept=True)
            found["ADD, GUID kept"].append((add_one, add_all))
            found["DEL, GUID kept"].append((delete_one, delete_all))
        print(f"\n{mode} mode, {pods} pods, probe_delay_ms={delay}, {rounds} rounds; {machine()}")
        print(f"{'':16}{'one, s':>10}{f'{pods} at once, s':>16}{'ratio':>8}")
        rows = []
        for name, pairs in found.items():
            single, together = (statistics.median(column) for column in zip(*pairs, strict=True))
            print(f"{name:16}{single:10.2f}{together:16.2f}{together / single:8.2f}")
            about = {"mode": mode, "pods": pods, "delay_ms": delay, "rounds": rounds}
            rows.append({"case": name, **about, "one_s": single, "all_s": together})
        tell_steps(one, many)
        return rows
    finally:
        rig.close()


def tell_steps(one: dict[str, dict[str, float]], many: dict[str, dict[str, float]]) -> None:
    """Print the steps of the last round's single ADD, and of the slowest of those at once."""
    (alone,) = one.values()
    slowest = max(many.values(), key=lambda steps: sum(steps.values()))
    print(f"\n{'step of ADD, ms':22}{'alone':>10}{'slowest':>10}")
    for step in dict.fromkeys((*alone, *slowest)):
        print(f"{step:22}{alone.get(step, 0):10.1f}{slowest.get(step, 0):10.1f}")
    print(f"{'all steps':22}{sum(alone.values()):10.1f}{sum(slowest.values()):10.1f}", flush=True)


def machine() -> str:
    return f"Linux {os.uname().release}, {os.cpu_count()} processors"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, default=8)
    parser.add_argument("--delay", type=int, default=1000, help="of a VF's probe, ms")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--modes", default="shared,exclusive")
    arguments = parser.parse_args()
    if os.environ.get("LAB_GUEST") != "1":
        os.environ.setdefault("TIMEOUT", "1200")
        os.environ.setdefault("OUT", str(ROOT / ".test-results" / "bench"))
        if (packed := ROOT / "dist" / "ib-sriov").exists():
            os.environ.setdefault("IB_SRIOV_PLUGIN", str(packed))
        here = [str(ROOT / "tests/lab/run"), sys.executable, str(Path(__file__).resolve()), *sys.argv[1:]]
        os.execv(here[0], here)  # noqa: S606 - the same program, in the virtual machine
    rows = []
    for mode in arguments.modes.split(","):
        rows += measure(mode, arguments.pods, arguments.delay, arguments.rounds)
        Path("/run/out/at_once.json").write_text(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
