"""What a start costs without an HCA, on this host, ours against the Go plugins in one run.

    tests/bench/start_bench.py [--rounds N]

VERSION; an ADD that is refused at once (there is no such VF, no such netdev); STATUS, which has to read the state of
the node; an ADD and a DEL of host-local as a program; and the work on a netdev alone, where ours is a program of a few
lines (tests/bench/netdev.py) that does with the plugin's own modules what Go's host-device does with a netdev: into the
pod, renamed, up, address, route, and back. From what `make build` left in build/ that program is packed, too, in the
same way as the plugin. Results: .test-results/bench/start.json.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench import measure  # noqa: E402  # found by the line above
from tests.bench.measure import OURS, Program, Table  # noqa: E402  # likewise

SECONDS = 40.0
IPAM = {"type": "host-local", "ranges": [[{"subnet": "10.56.0.0/24"}]], "routes": [{"dst": "10.99.0.0/16"}]}
NOT_THERE = "0000:ff:1f.7"


class Bench:
    """Two namespaces, the programs and what they cost."""

    def __init__(self, folder: Path) -> None:
        host_device, host_local = measure.go_plugins("host-device", "host-local")
        self.programs = measure.programs(folder, host_device)
        self.path = str(Path(measure.copied(Path(host_local), folder / "go")).parent)
        self.folder = folder
        self.table = Table()
        bare = (sys.executable, "-I", "-S")
        source = str(folder / "source")
        here = str(ROOT / "tests/bench/netdev.py")
        self.netdev = {"Go": self.programs[0].command, "source": (*bare, here, source, *measure.library_path())}
        self.netdev |= packed_netdev(folder)
        serve = f"import sys; sys.path.insert(0, {source!r}); from ipam.host_local.plugin import main; sys.exit(main())"
        self.host_local = {"Go": (str(folder / "go/host-local"),), "source": (*bare, "-c", serve)}

    def environ(self, verb: str) -> dict[str, str]:
        environ = {"CNI_COMMAND": verb, "CNI_PATH": self.path, "CNI_IFNAME": "net1", "PATH": os.environ["PATH"]}
        return {**environ, "CNI_CONTAINERID": "bench", "CNI_NETNS": "/run/netns/bench-pod"}

    def conf(self, program: Program, **more: Any) -> dict[str, Any]:
        kind = {"type": "ib-sriov"} if program.kind == OURS else {"type": "host-device"}
        place = self.folder / "state" / program.name
        state = {"stateDir": str(place), "logFile": "/dev/null"} if program.kind == OURS else {}
        ipam = {**IPAM, "dataDir": f"{place}/leases"}
        return {"cniVersion": "1.1.0", "name": "bench", "ipam": ipam, **kind, **state, **more}

    def cases(self, program: Program) -> list[tuple[str, tuple[str, ...], dict[str, str], Any, tuple[int, ...]]]:
        """Return what a program is run with: the case, the command, environment, configuration and allowed statuses."""
        ours = program.kind == OURS
        absent = {"deviceID": NOT_THERE} if ours else {"pciBusID": NOT_THERE}
        found: list[tuple[str, tuple[str, ...], dict[str, str], Any, tuple[int, ...]]] = [
            ("VERSION", program.command, self.environ("VERSION"), {}, (0,)),
            ("STATUS", program.command, self.environ("STATUS"), self.conf(program), (0, 1)),
            ("ADD, refused", program.command, self.environ("ADD"), self.conf(program, **absent), (1,)),
        ]
        if program.name in self.host_local:
            command = self.host_local[program.name]
            conf = self.conf(program)
            found += [(f"host-local {verb}", command, self.environ(verb), conf, (0,)) for verb in ("ADD", "DEL")]
        if program.name in self.netdev:
            command = self.netdev[program.name]
            conf = {**self.conf(program), "device": "bench0", "name": "netdev"}
            found += [(f"{verb} of a netdev", command, self.environ(verb), conf, (0,)) for verb in ("ADD", "DEL")]
        return found

    def round(self, number: int) -> None:
        for program in self.programs:
            for case, command, environ, conf, statuses in self.cases(program):
                cost = measure.run(command, environ, conf, statuses)
                if number >= 0:
                    self.table.add(case, program.name, cost)

    def peaks(self) -> None:
        for program in self.programs:
            for case, *how in self.cases(program):
                self.table.row(case, program.name).peak = measure.peak(*how)


def packed_netdev(folder: Path) -> dict[str, tuple[str, ...]]:
    """Pack netdev.py instead of the plugin; return its command by the name of the packed program."""
    if not (ROOT / "dist" / "ib-sriov").exists():
        return {}
    environ = {**os.environ, "MAIN": str(ROOT / "tests/bench/netdev.py")}
    for step in (("contents",), ("interpreter", platform.machine())):
        command = [ROOT / "packaging" / "build", "--step", *step]
        subprocess.run(command, check=True, capture_output=True, env=environ)
    made = ROOT / "build" / f"interpreter-{platform.machine()}"
    return {measure.PACKED: (measure.copied(made, folder / "netdev"),)}


def ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, stderr=None if check else subprocess.DEVNULL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--inside", action="store_true", help="in a network namespace of its own")
    options = parser.parse_args()
    if not options.inside:
        # In its own namespace, so that its netdev does not appear on the host.
        words = ["unshare", "--net", "--mount", sys.executable, __file__, "--inside", "--rounds", str(options.rounds)]
        return subprocess.run(words, check=False).returncode
    ip("netns", "del", "bench-pod", check=False)
    ip("netns", "add", "bench-pod")
    try:
        ip("-n", "bench-pod", "link", "set", "lo", "up")
        ip("link", "add", "bench0", "type", "veth", "peer", "name", "bench1")
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(Path(folder))
            bench.round(-1)
            measure.rounds(options.rounds, SECONDS, bench.round)
            bench.peaks()
    finally:
        ip("netns", "del", "bench-pod", check=False)
    rows = bench.table.dump()
    measure.save("start", rows)
    print(measure.render(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
