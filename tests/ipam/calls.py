"""Ways to call an IPAM plugin: the Go one, ours as an executable, ours in this process."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
from typing import Any, NamedTuple

from ipam.host_local import plugin
from ipam.protocol.edge import serve

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
OURS = (sys.executable, "-m", "ipam")


class Answer(NamedTuple):
    status: int
    doc: dict[str, Any] | None

    @property
    def msg(self) -> str:
        return str((self.doc or {}).get("msg"))

    @property
    def code(self) -> int | None:
        return (self.doc or {}).get("code")

    @property
    def ips(self) -> list[str]:
        assert self.status == 0, self
        return [item["address"] for item in (self.doc or {}).get("ips", [])]


def environment(command: str, container: str = "c", ifname: str = "eth0", args: str = "") -> dict[str, str]:
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container,
        "CNI_NETNS": "/nowhere",
        "CNI_IFNAME": ifname,
        "CNI_ARGS": args,
        "CNI_PATH": "/nowhere",
    }


def execute(program: tuple[str, ...], conf: object, environ: dict[str, str]) -> Answer:
    env = environ | {"PATH": os.environ["PATH"], "PYTHONPATH": ROOT, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(program, input=json.dumps(conf).encode(), env=env, capture_output=True, check=False)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return Answer(done.returncode, json.loads(done.stdout) if done.stdout else None)


def here(conf: object, environ: dict[str, str]) -> Answer:
    handlers = {
        "ADD": plugin.add,
        "DEL": plugin.delete,
        "CHECK": plugin.check,
        "GC": plugin.gc,
        "STATUS": plugin.status,
    }
    out = io.BytesIO()

    def on_fault(error: BaseException) -> str:
        raise error

    status = serve(
        handlers,
        known_args=plugin.KNOWN_ARGS,
        environ=environ,
        stdin=io.BytesIO(json.dumps(conf).encode()),
        stdout=out,
        on_fault=on_fault,
    )
    answer = Answer(status, json.loads(out.getvalue()) if out.getvalue() else None)
    assert answer.code != 100, answer
    return answer


def ask(command: str, conf: object, container: str = "c", ifname: str = "eth0", args: str = "") -> Answer:
    return here(conf, environment(command, container, ifname, args))


def files(folder: str) -> dict[str, tuple[bytes, int]]:
    """Return name to (content, mode) for all files of a network except the lock."""
    found = {}
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        if name == "lock":
            continue
        path = os.path.join(folder, name)
        with open(path, "rb") as file:
            found[name] = (file.read(), stat.S_IMODE(os.stat(path).st_mode))
    return found


def leases(folder: str) -> dict[str, bytes]:
    return {name: content for name, (content, _) in files(folder).items() if not name.startswith(("last_", "."))}
