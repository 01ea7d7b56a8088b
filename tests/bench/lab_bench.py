"""What one invocation costs on an emulated HCA, ours against Go's host-device with host-local, in one run.

    tests/bench/lab_bench.py [--rounds N]     boots the lab's VM for it

The same work for both: the VF's IPoIB netdev into the pod, renamed, up, an address from host-local and a route, and
back to the host. Ours also checks the RDMA device, and writes to disk what Go does not. The rebind alone (unbind, bind,
until the devices are there) is shown next to an ADD with a new GUID. Results: .test-results/bench/lab.json, and
trace.json with the timeline of one ADD.

PACKED: the packed program, if it is not in dist; PEER: another CNI plugin.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench import measure  # noqa: E402  # found by the line above
from tests.bench.measure import GO, OURS, Cost, Program, Running, Table  # noqa: E402  # likewise
from tests.lab import commands, emulated_hca  # noqa: E402  # likewise
from tests.lab.pod import Pod  # noqa: E402  # likewise
from tests.lab.rig import IPV4, guid_of  # noqa: E402  # likewise

OUT = Path("/run/out")
AT_ONCE = 8
SECONDS = {"one by one": 80.0, "new GUID": 50.0, "at once": 60.0}  # for each part, unless three rounds take longer


class Bench:
    """The loaded HCA, the programs, and what they cost."""

    def __init__(self, folder: Path, rounds: int) -> None:
        host_device, self._host_local = measure.go_plugins("host-device", "host-local", built=True)
        self.programs = measure.programs(folder, host_device)
        measure.copied(Path(self._host_local), folder / "go")
        self.path = str(folder / "go")
        self.rounds = rounds
        self.table = Table()
        self.hca = emulated_hca.load(vfs=AT_ONCE, preset=True, mode="shared")
        self.pods = [Pod(f"p{number}", serial=number) for number in range(AT_ONCE)]

    def conf(self, program: Program, vf: int, **more: Any) -> dict[str, Any]:
        """Return the configuration for the same work as the other programs, with its own leases and records."""
        place = f"/var/lib/cni/{program.name.replace(' ', '-')}"
        base = {"cniVersion": "1.1.0", "name": "bench", "ipam": {**IPV4, "dataDir": f"{place}/leases"}}
        if program.kind == GO:
            return {**base, "type": "host-device", "pciBusID": self.hca.pci(vf)}
        if program.kind == OURS:
            ours = {"stateDir": f"{place}/state", "logFile": "/dev/null", "portTimeout": 0}
            return {**base, "type": "ib-sriov", "deviceID": self.hca.pci(vf), **ours, **more}
        device = {"deviceID": self.hca.pci(vf), "pciBusID": self.hca.pci(vf)}
        return {**base, "type": os.path.basename(program.command[0]), **device}

    def environ(self, verb: str, vf: int) -> dict[str, str]:
        pod = self.pods[vf]
        environ = {"CNI_COMMAND": verb, "CNI_PATH": self.path, "CNI_IFNAME": "net1", "PATH": os.environ["PATH"]}
        return {**environ, "CNI_CONTAINERID": pod.container_id, "CNI_NETNS": pod.netns}

    def call(self, program: Program, verb: str, vf: int = 0, **more: Any) -> Cost:
        return measure.run(program.command, self.environ(verb, vf), self.conf(program, vf, **more))

    def settle(self) -> None:
        """Wait for the VFs' devices, which the kernel moves back to the host a little after a call has ended."""
        if not self.hca.settled():
            raise measure.Failed("the VFs' devices did not come home")

    # ---- the parts

    def one_by_one(self, number: int) -> None:
        for program in self.programs:
            for verb in ("VERSION", "STATUS", "ADD", "DEL"):
                cost = self.call(program, verb)
                if number >= 0:
                    self.table.add(verb, program.name, cost)
            self.settle()

    def peaks(self) -> None:
        for program in self.programs:
            for verb in ("VERSION", "STATUS", "ADD", "DEL"):
                environ, conf = self.environ(verb, 0), self.conf(program, 0)
                self.table.row(verb, program.name).peak = measure.peak(program.command, environ, conf)
            self.settle()

    def new_guid(self, number: int) -> None:
        self.table.add("rebind alone", "kernel", self.rebind())
        for program in self.programs:
            if program.kind == OURS:
                guid = guid_of(number + 1)
                self.table.add("ADD, new GUID", program.name, self.call(program, "ADD", guid=guid))
                self.table.add("DEL, new GUID", program.name, self.call(program, "DEL", guid=guid))
                self.settle()

    def rebind(self) -> Cost:
        pci = self.hca.pci(0)
        driver = f"/sys/bus/pci/devices/{pci}/driver"
        folder = os.path.realpath(driver)
        start = time.perf_counter()
        for file in ("unbind", "bind"):
            if commands.write(f"{folder}/{file}", pci) != "OK":
                raise measure.Failed(f"{file} {pci}")
        while not (commands.names(f"/sys/bus/pci/devices/{pci}/net") and self.hca.rdma(0)):
            time.sleep(0.002)
        return Cost(wall=(time.perf_counter() - start) * 1000, cpu=0.0)

    def at_once(self, _number: int) -> None:
        """All VFs in parallel: wall time until the last one has ended; processor time of all."""
        for program in self.programs:
            for verb in ("ADD", "DEL"):
                start = time.perf_counter()
                calls = [
                    Running(program.command, self.environ(verb, vf), self.conf(program, vf), (0,))
                    for vf in range(AT_ONCE)
                ]
                costs = [call.end() for call in calls]
                wall = (time.perf_counter() - start) * 1000
                cost = Cost(wall=wall, cpu=sum(each.cpu for each in costs))
                self.table.add(f"{AT_ONCE} {verb} at once", program.name, cost)
            self.settle()

    def timeline(self) -> None:
        """Trace one ADD with all the slow options, run from the source so that its steps are readable."""
        source = next(program for program in self.programs if program.name == "source")
        trace = Path("/tmp/bench-trace.json")  # not on the shared folder, where every write is slow
        environ = {**self.environ("ADD", 0), "IB_SRIOV_TRACE": str(trace)}
        more: dict[str, Any] = {"guid": guid_of(0x77), "portTimeout": 10}
        measure.run(source.command, environ, self.conf(source, 0, **more))
        self.call(source, "DEL", **more)
        self.settle()
        shutil.copy(trace, OUT / "trace.json")

    def run(self) -> None:
        self.one_by_one(-1)  # warm up: the first run reads from disk
        measure.rounds(self.rounds, SECONDS["one by one"], self.one_by_one)
        self.peaks()
        measure.rounds(self.rounds, SECONDS["new GUID"], self.new_guid)
        measure.rounds(max(3, self.rounds // 2), SECONDS["at once"], self.at_once)
        self.timeline()


def localize(folder: Path) -> None:
    """Put the interpreter's libraries on the guest's tmpfs, where Go's programs are too: 9p is slow."""
    places = {sysconfig.get_paths()["stdlib"], *[f"{place}/pyverbs" for place in measure.library_path()]}
    places |= {f"{place}/pyroute2" for place in measure.library_path()}
    for place in sorted(filter(os.path.isdir, places)):
        copy = folder / place.replace("/", "_")
        ignored = shutil.ignore_patterns("test", "tests", "idlelib", "tkinter", "ensurepip", "config-*", "*-packages")
        shutil.copytree(place, copy, symlinks=True, ignore=ignored)
        subprocess.run(["mount", "--bind", copy, place], check=True)


def inside(rounds: int) -> None:
    """The benchmark itself, in the VM; programs on a tmpfs."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        localize(Path(folder, "libraries"))
        bench = Bench(Path(folder), rounds)
        try:
            bench.run()
        finally:
            (OUT / "lab.json").write_text(json.dumps(bench.table.dump()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--inside", action="store_true", help="in the VM")
    options = parser.parse_args()
    if options.inside:
        inside(options.rounds)
        return 0
    measure.go_plugins("host-device", "host-local")
    measure.RESULTS.mkdir(parents=True, exist_ok=True)
    for name in ("lab.json", "trace.json"):
        (measure.RESULTS / name).unlink(missing_ok=True)
    environ = {**os.environ, "OUT": str(measure.RESULTS), "PASS": "PACKED PEER", "PYTHONPATH": str(ROOT)}
    environ.setdefault("TIMEOUT", "560")
    lab = [str(ROOT / "tests/lab/run"), ".venv/bin/python", "tests/bench/lab_bench.py", "--inside"]
    command = [*lab, "--rounds", str(options.rounds)]
    status = subprocess.run(command, env=environ, cwd=ROOT, check=False).returncode
    results = measure.RESULTS / "lab.json"
    if results.exists():
        print(measure.render(json.loads(results.read_text())))
    return status


if __name__ == "__main__":
    sys.exit(main())
