"""A runtime as the specification has it: variables, an input, and what may come back."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import jsonschema

from tests.conformance.schemas import ERROR
from tests.lab.cni import PROJECT, Cni, CniRun, finished

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST = VERSIONS[-1]
CONTAINER = "0123abc"
CONF: dict[str, Any] = {"cniVersion": NEWEST, "name": "ibnet", "type": "ib-sriov"}
ABSENT: dict[str, str | None] = dict.fromkeys(("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH", "CNI_ARGS"))
MULTUS_ARGS = (
    "IgnoreUnknown=true;K8S_POD_NAMESPACE=train;K8S_POD_NAME=worker-0;"
    "K8S_POD_INFRA_CONTAINER_ID=0123abc;K8S_POD_UID=6f9d3c5e-0000-4000-8000-000000000001"
)


def since(least: str) -> tuple[str, ...]:
    """The versions from one on."""
    return VERSIONS[VERSIONS.index(least) :]


def refused(run: CniRun, code: int, *words: str, version: str = NEWEST) -> Any:
    """Demand an error document of that code whose message has these words; gives the document (C5)."""
    assert run.status != 0, run
    jsonschema.validate(run.out, ERROR)
    assert (run.out["code"], run.out["cniVersion"]) == (code, version), run.out
    text = f"{run.out['msg']}\n{run.out['details']}"
    assert [word for word in words if word not in text] == [], text
    assert "Traceback" not in run.stdout
    return run.out


def silent(run: CniRun) -> None:
    """Demand success without a word on stdout."""
    assert (run.status, run.stdout) == (0, ""), run


class Runtime:
    """Calls the plugin for a container that has no namespace here."""

    def __init__(self) -> None:
        self.cni = Cni()

    def __call__(self, command: str | None, conf: Any = None, **environ: str | None) -> CniRun:
        """`conf` is bytes, text, or what becomes JSON; a variable that is None is absent."""
        variables: dict[str, str | None] = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": CONTAINER,
            "CNI_NETNS": "/run/netns/none",
            "CNI_IFNAME": "net1",
            "CNI_ARGS": None,
            **environ,
        }
        return self.cni("", None, CONF if conf is None else conf, env=variables)

    def shell(self, line: str, command: str, **environ: str | None) -> CniRun:
        """Run a line of the shell in which "$@" is the plugin."""
        done = self.run_shell(line, command, **environ)
        return finished(done.returncode, done.stdout, done.stderr)

    def run_shell(self, line: str, command: str | None, **environ: str | None) -> subprocess.CompletedProcess[str]:
        variables = {"CNI_CONTAINERID": CONTAINER, "CNI_COMMAND": command, "PYTHONPATH": str(PROJECT), **environ}
        env = self.cni.environment("", None, env=variables)
        argv = ["bash", "-c", line, "plugin", *self.cni.command]
        return subprocess.run(argv, cwd=PROJECT, env=env, capture_output=True, text=True, check=False, timeout=120)


class StandIn:
    """An IPAM plugin called `standin`: a script that notes each call and gives the answers that the test has set."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "standin.d"
        self.folder.mkdir()
        self.program = self.folder / "standin"
        self.program.write_text(
            f"""#!/bin/sh
here={self.folder}
echo "$CNI_COMMAND" >> $here/calls
cat > $here/$CNI_COMMAND.stdin
env > $here/$CNI_COMMAND.env
[ ! -r $here/$CNI_COMMAND.sh ] || . $here/$CNI_COMMAND.sh
"""
        )
        self.program.chmod(0o755)
        self.path = {"CNI_PATH": str(self.folder)}

    def on(self, command: str, script: str) -> None:
        """What it does when asked: lines of the shell."""
        (self.folder / f"{command}.sh").write_text(script + "\n")

    def answers(self, command: str, document: object, status: int = 0) -> None:
        """Let it print a document and end."""
        (self.folder / f"{command}.json").write_text(json.dumps(document))
        self.on(command, f"cat $here/{command}.json; exit {status}")

    def calls(self) -> list[str]:
        """The commands it was asked, in order; forgotten with that."""
        log = self.folder / "calls"
        found = log.read_text().split() if log.exists() else []
        log.write_text("")
        return found

    def stdin(self, command: str) -> Any:
        return json.loads((self.folder / f"{command}.stdin").read_text())

    def environ(self, command: str) -> dict[str, str]:
        lines = (self.folder / f"{command}.env").read_text().splitlines()
        return dict(line.partition("=")[::2] for line in lines)


def locked(path: str) -> int:
    """Take the lock of a VF as another process would; gives the file descriptor."""
    import fcntl

    os.makedirs(os.path.dirname(path), exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd
