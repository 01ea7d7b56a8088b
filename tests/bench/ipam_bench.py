"""What ADD and DEL of host-local cost with few and with many leases, ours against the Go one, in one run.

    python tests/bench/ipam_bench.py [--folder DIR] [--rounds N] [LEASES…]

Each plugin has its own folder in DIR (default: a temporary one) with that many leases of 10.0.0.0/16. The calls
of a round run one after another: Go ADD, Go DEL, then ours. Ours is measured as an executable (a bare interpreter,
`python -I -S`), and in process, as ib-sriov calls it. Medians; ours syncs files and folder to disk, Go does not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
sys.path.insert(0, ROOT)

from tests.ipam.calls import environment, here  # noqa: E402 - found by the line above

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAM = f"import sys; sys.path.insert(0, {ROOT!r}); from ipam.host_local.plugin import main; sys.exit(main())"
OURS = (sys.executable, "-I", "-S", "-c", PROGRAM)
LEASES = (10, 1000, 60000)


def fill(folder: str, count: int) -> dict[str, Any]:
    """Create the leases as either plugin would, and return the configuration."""
    network = os.path.join(folder, "net")
    os.makedirs(network)
    name = ""
    for number in range(2, count + 2):
        name = f"10.0.{number >> 8}.{number & 255}"
        with open(os.path.join(network, name), "w", encoding="ascii") as file:
            file.write(f"{number:064x}\r\neth0")
    with open(os.path.join(network, "last_reserved_ip.0"), "w", encoding="ascii") as file:
        file.write(name)
    ipam = {"type": "host-local", "dataDir": folder, "ranges": [[{"subnet": "10.0.0.0/16"}]]}
    return {"cniVersion": "1.0.0", "name": "net", "ipam": ipam}


def execute(program: tuple[str, ...], conf: dict[str, Any], environ: dict[str, str]) -> None:
    subprocess.run(program, input=json.dumps(conf).encode(), env=environ, check=True, capture_output=True)


def inside(conf: dict[str, Any], environ: dict[str, str]) -> None:
    if here(conf, environ).status:
        raise RuntimeError("failed")


def timed(call: Callable[[], None]) -> float:
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1000


def measure(go: str, folder: str, count: int, rounds: int) -> dict[tuple[str, str], float]:
    """Median milliseconds by (plugin, what)."""
    confs = {name: fill(os.path.join(folder, f"{name}-{count}"), count) for name in ("go", "ours", "inside")}
    times: dict[tuple[str, str], list[float]] = {}
    for name in ("ours", "inside"):  # the first call reads all leases: once per boot, and after a change by others
        call = (lambda: execute(OURS, confs["ours"], environment("DEL", "x"))) if name == "ours" else (
            lambda: inside(confs["inside"], environment("DEL", "x")))  # fmt: skip
        times[name, "first"] = [timed(call)]
    for number in range(rounds):
        for command in ("ADD", "DEL"):
            environ = environment(command, f"bench{number}")
            times.setdefault(("go", command), []).append(timed(lambda: execute((go,), confs["go"], environ)))  # noqa: B023 - called at once
        for command in ("ADD", "DEL"):
            environ = environment(command, f"bench{number}")
            times.setdefault(("ours", command), []).append(timed(lambda: execute(OURS, confs["ours"], environ)))  # noqa: B023 - called at once
            times.setdefault(("inside", command), []).append(timed(lambda: inside(confs["inside"], environ)))  # noqa: B023 - called at once
    return {key: statistics.median(values) for key, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="where the leases are made; the file system decides what a sync costs")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("leases", nargs="*", type=int, default=LEASES)
    options = parser.parse_args()
    builder = os.path.join(ROOT, "tests", "tools", "go-client")
    go = subprocess.run([builder, "host-local"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    print(
        "| leases | Go ADD | Go DEL | ours ADD | ours DEL | in process ADD | in process DEL | in process, first call |"
    )
    print("|---|---|---|---|---|---|---|---|")
    columns = [("go", "ADD"), ("go", "DEL"), ("ours", "ADD"), ("ours", "DEL"), ("inside", "ADD"), ("inside", "DEL"),
               ("inside", "first")]  # fmt: skip
    for count in options.leases:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            found = measure(go, folder, count, options.rounds)
        print(f"| {count} |", " | ".join([f"{found[column]:.1f}" for column in columns]), "|", flush=True)


if __name__ == "__main__":
    main()
