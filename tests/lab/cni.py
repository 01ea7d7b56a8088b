"""Our plugin as a runtime calls it: a process with an environment, a configuration on stdin, JSON on stdout."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.pod import Pod

PROJECT = Path(__file__).resolve().parents[2]
DEFAULT_PATH = "/opt/cni/bin:/usr/lib/cni"


@dataclass(frozen=True, kw_only=True)
class CniRun:
    """One finished invocation; `out` is the parsed document on stdout, None if there was nothing."""

    status: int
    out: Any
    stdout: str
    stderr: str

    @property
    def code(self) -> int | None:
        """The error code of the document, None for a success."""
        return self.out.get("code") if isinstance(self.out, dict) and self.status else None


class Cni:
    """Calls the plugin: cni("ADD", pod, conf) and cni.start("ADD", pod, conf)."""

    def __init__(self) -> None:
        named = os.environ.get("IB_SRIOV_PLUGIN")
        self.command = shlex.split(named) if named else [sys.executable, "-m", "ib_sriov_cni"]

    def environment(
        self, command: str, pod: Pod | None, ifname: str = "net1", env: Mapping[str, str | None] | None = None
    ) -> dict[str, str]:
        """What the plugin sees; a value of None in `env` takes a variable away."""
        variables: dict[str, str | None] = {
            **os.environ,
            "CNI_COMMAND": command,
            "CNI_PATH": os.environ.get("CNI_PATH", DEFAULT_PATH),
            "CNI_IFNAME": ifname,
        }
        if pod is not None:
            variables |= {"CNI_CONTAINERID": pod.container_id, "CNI_NETNS": pod.netns}
        variables |= dict(env or {})
        return {name: value for name, value in variables.items() if value is not None}

    def start(
        self,
        command: str,
        pod: Pod | None,
        conf: object,
        ifname: str = "net1",
        env: Mapping[str, str | None] | None = None,
    ) -> subprocess.Popen[str]:
        """Start the plugin with its stdin served; for a test that kills it or runs several."""
        with tempfile.TemporaryFile() as stdin:
            text = conf if isinstance(conf, str | bytes) else json.dumps(conf)
            stdin.write(text.encode() if isinstance(text, str) else text)
            stdin.seek(0)
            return subprocess.Popen(
                self.command,
                cwd=PROJECT,
                env=self.environment(command, pod, ifname, env),
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

    def __call__(
        self,
        command: str,
        pod: Pod | None,
        conf: object,
        ifname: str = "net1",
        env: Mapping[str, str | None] | None = None,
        timeout: float = 120,
    ) -> CniRun:
        """Run the plugin to its end; `conf` is JSON text, or what becomes JSON."""
        process = self.start(command, pod, conf, ifname, env)
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            _, stderr = process.communicate()
            raise AssertionError(f"{command} did not end within {timeout:g} s; stderr: {stderr}") from None
        return finished(process.returncode, stdout, stderr)


def finished(status: int, stdout: str, stderr: str) -> CniRun:
    """C5: stdout holds one JSON document or nothing."""
    try:
        out = json.loads(stdout) if stdout.strip() else None
    except ValueError:
        raise AssertionError(f"stdout is not one JSON document (C5): {stdout!r}; stderr: {stderr}") from None
    return CniRun(status=status, out=out, stdout=stdout, stderr=stderr)
