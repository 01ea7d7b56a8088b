"""A virtual machine of the lab with a NIC on a segment, and commands sent to it from the host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.guest.commands import PORT
from tests.cluster.segment import HOST, Segment, address
from tests.lab.commands import CommandFailed, run, wait

PROJECT = Path(__file__).resolve().parents[2]
LAB_BUILD = str(PROJECT / "tests/lab/build")
LAB_RUN = str(PROJECT / "tests/lab/run")
BOOT = """\
modprobe virtio_net && ip link set eth0 up && ip addr add {address}/24 dev eth0 && ip route add default via {host} &&
hostname {name} && exec /usr/bin/python3 -S {server}
"""
GONE = (ConnectionError, TimeoutError, OSError)


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a command of a machine ended."""

    status: int
    stdout: str
    stderr: str


class Machine:
    """The machine `number` (from 1) of a segment; `start` boots it, again after `crash` or `end`.

    One with a disk has it as /dev/vda, with a file system; what is on it outlives the machine. `kernel` is a series of
    the lab; "" is the usual one.
    """

    def __init__(
        self, segment: Segment, number: int, folder: Path, *, memory: int = 2048, disk_gib: int = 0, kernel: str = ""
    ) -> None:
        self.segment = segment
        self.number = number
        self.name = f"node{number}"
        self.address = address(number)
        self.memory = memory
        self.kernel = kernel
        self.log = folder / f"{self.name}.log"
        self.shared = folder / self.name  # the machine has it as /run/out
        self.disk = folder / f"{self.name}.disk" if disk_gib else None
        if self.disk is not None:
            folder.mkdir(parents=True, exist_ok=True)
            with open(self.disk, "wb") as file:
                file.truncate(disk_gib << 30)
            run(["mkfs.ext4", "-q", str(self.disk)])
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin to boot; `wait_until_up` waits for it."""
        devices = f"-netdev tap,id=n0,ifname=tap{self.number},script=no,downscript=no"
        devices += f" -device virtio-net-pci,netdev=n0,romfile=,mac=02:77:00:00:00:{self.number:02x}"
        if self.disk is not None:
            # unsafe: what the host's cache has outlives the machine
            devices += f" -drive if=none,id=d0,format=raw,cache=unsafe,file={self.disk} -device virtio-blk-pci,drive=d0"
        server = str(PROJECT / "tests/cluster/guest/commands.py")
        line = BOOT.format(address=self.address, host=HOST, name=self.name, server=server)
        environment = {
            "TIMEOUT": "7200",
            "BOOT_TIMEOUT": "300",
            "MEM": str(self.memory),
            **os.environ,
            **({"KERNEL": self.kernel} if self.kernel else {}),
            "QEMU_ARGS": devices,
            "OUT": str(self.shared),
        }
        with open(self.log, "ab") as log:
            # out here: nothing leads out of the segment to where a kernel is fetched from; a failure shows below
            subprocess.run([LAB_BUILD], env=environment, stdout=log, stderr=log, cwd=PROJECT, check=False)
            self._process = subprocess.Popen(
                self.segment.command([sys.executable, LAB_RUN, line]),
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=PROJECT,
            )  # fmt: skip

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.name} was not started"
        return self._process

    def wait_until_up(self) -> None:
        def is_up() -> bool:
            assert self.process.poll() is None, f"{self.name} ended: {self.said()}"
            try:
                return self.run("true", limit=10).status == 0
            except GONE:
                return False

        assert wait(is_up, 300, 0.3), f"{self.name} did not come up: {self.said()}"

    def said(self) -> str:
        """What the lab says of the machine."""
        return self.log.read_text(errors="replace")[-2000:]

    def run(self, line: str, *, check: bool = True, limit: float = 60) -> Done:
        """Run a line by the machine's shell, for at most `limit` seconds; raises CommandFailed for a status but 0."""
        with self.segment.connect(self.number, PORT, 10) as connection:
            connection.settimeout(limit + 30)
            connection.sendall(json.dumps({"line": line, "limit": limit}).encode() + b"\n")
            with connection.makefile("rb") as stream:
                answer = stream.read()
        if not answer:
            raise ConnectionError(f"{self.name} did not answer: {line}")
        status, stdout, stderr = json.loads(answer)
        done = Done(status=status, stdout=stdout, stderr=stderr)
        if check and status:
            raise CommandFailed(f"{self.name}: {line}: status {status}: {(stderr or stdout).strip()[-2000:]}")
        return done

    def output(self, line: str, *, limit: float = 60) -> str:
        """What a line that must succeed prints on stdout."""
        return self.run(line, limit=limit).stdout.strip()

    def python(self, code: str, *, limit: float = 120) -> str:
        """What Python of the machine prints that runs in the project's folder."""
        return self.output(f"cd {PROJECT} && exec {sys.executable} - <<'CODE'\n{code}\nCODE", limit=limit)

    def crash(self) -> None:
        """Pull the plug."""
        # the lab's command ends QEMU with itself; nothing in the machine notices
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """Power it off; the lab's verdict: 0 unless the kernel had a fault (tests/lab/README.md)."""
        if self.process.poll() is None:
            with suppress(*GONE):  # its answer may be lost: it goes at once
                self.run("", limit=5, check=False)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            return self.process.wait()


def start_all(machines: list[Machine]) -> float:
    """Boot machines side by side; how many seconds it took."""
    begin = time.monotonic()
    for each in machines:
        each.start()
    for each in machines:
        each.wait_until_up()
    return time.monotonic() - begin
