"""The machine types that a program is made for: the compiler of each, its options, and how a step runs a command."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CACHE = os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache"), "ib-sriov", "build"
)
GCC = "12"  # of the release whose packages are linked (fetch.py)
# -fno-pie: docs/hardening.md says why. Each function gets a section of its own, so that the linker drops unused ones.
FLAGS = ("-O2", "-g0", "-w", "-fno-pie", "-fno-stack-protector", "-ffunction-sections", "-fdata-sections")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A type of machine: its name as `uname -m` has it, and Debian's."""

    name: str
    debian: str

    @property
    def triplet(self) -> str:
        return f"{self.name}-linux-gnu"

    @property
    def compiler(self) -> str:
        return f"{self.triplet}-gcc-{GCC}"

    def tool(self, name: str) -> str:
        """Return the name of one of binutils' programs for this machine."""
        return f"{self.triplet}-{name}"


MACHINES = {
    "x86_64": Machine(name="x86_64", debian="amd64"),
    "aarch64": Machine(name="aarch64", debian="arm64"),
}


def say(text: str) -> None:
    print(f"build: {text}", file=sys.stderr, flush=True)


def run(command: list[str], **options: Any) -> str:
    """Run a command of the build and return its output. If it fails, the build ends here and prints it."""
    done: subprocess.CompletedProcess[str]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    except FileNotFoundError:
        sys.exit(f"build: no program {command[0]} here: tests/tools/need build")
    if done.returncode:
        sys.exit(f"build: {shlex.join(command)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def run_all(commands: list[list[str]], **options: Any) -> None:
    """Run commands side by side, as many as there are processors."""
    with ThreadPoolExecutor(os.cpu_count()) as lanes:
        for done in [lanes.submit(run, command, **options) for command in commands]:
            done.result()


def archive(machine: Machine, target: str, objects: list[str]) -> None:
    """Write a static library that says nothing of when and by whom it was made."""
    if os.path.exists(target):
        os.remove(target)
    run([machine.tool("ar"), "rcsD", target, *sorted(objects)])


def digest(path: str) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fresh_folder(path: str) -> str:
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    return path
