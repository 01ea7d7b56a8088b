"""Our command line as a person calls it: a process, with what it printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests.lab.cni import PROJECT

COMMAND = [sys.executable, "-m", "ib_sriov_cni"]


class CliRun:
    """A finished call."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.status = done.returncode
        self.stdout = done.stdout
        self.stderr = done.stderr

    @property
    def doc(self) -> Any:
        """The document of `-o json`."""
        return json.loads(self.stdout)

    def rows(self) -> list[str]:
        """The lines of a table below its head, blanks made one."""
        return [" ".join(line.split()) for line in self.stdout.splitlines()[1:]]

    def __str__(self) -> str:
        return f"status {self.status}\n{self.stdout}\n{self.stderr}"


def cli(*words: str, env: dict[str, str] | None = None) -> CliRun:
    """Run `ib-sriov WORDS`."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CNI_")} | (env or {})
    done = subprocess.run(
        [*COMMAND, *words],
        cwd=PROJECT,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return CliRun(done)


@contextmanager
def running(*words: str, env: Mapping[str, str] | None = None, terminal: int = -1) -> Iterator[subprocess.Popen[str]]:
    """Start `ib-sriov WORDS`, on a terminal or with pipes; it is killed at the end if it still runs."""
    environ = {**os.environ, **(env or {})}
    if terminal >= 0:
        process = subprocess.Popen(
            [*COMMAND, *words], cwd=PROJECT, env=environ, stdin=terminal, stdout=terminal, stderr=terminal, text=True
        )
    else:
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [*COMMAND, *words], cwd=PROJECT, env=environ, stdout=pipe, stderr=pipe, text=True, bufsize=1
        )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def json_of(*words: str, status: int = 0) -> Any:
    """Run a command that has to end with that status, and read what it printed."""
    run = cli(*words, "-o", "json")
    assert run.status == status, str(run)
    return run.doc
