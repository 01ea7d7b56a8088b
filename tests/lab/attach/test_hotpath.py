"""What a whole ADD, CHECK and DEL import, and the child that verifies: a list, not a time (docs/performance.md).

tests/unit/test_hotpath.py has the lists, and goes as far as one gets without an HCA.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.pod import Pod
from tests.lab.rig import STATE, Rig, guid_of, rigs
from tests.unit.test_hotpath import FORBIDDEN, ISOLATED, MAIN, MODULES, path_of_the_source

TIMELINE = Path("/tmp/hotpath.json")


def modules(rig: Rig, command: str, pod: Pod, conf: dict[str, Any]) -> dict[str, set[str]]:
    """Run a command by a bare interpreter; what each of its processes had loaded at its end, by event name."""
    TIMELINE.unlink(missing_ok=True)
    start = f"import sys; sys.path[:0] = {path_of_the_source()!r}\n"
    environ = {**rig.cni.environment(command, pod), "IB_SRIOV_TRACE": str(TIMELINE)}
    bare_python = [sys.executable, "-I", "-S", "-c"]
    done = subprocess.run(
        [*bare_python, start + MAIN], input=json.dumps(conf).encode(), env=environ, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    bare = subprocess.run([*bare_python, "import sys; print(*sys.modules)"], check=True, stdout=subprocess.PIPE)
    events = json.loads(TIMELINE.read_text().rstrip(",\n") + "]")
    loaded = {event["name"]: set(event["args"].get("modules", ())) for event in events if event["ph"] == "X"}
    by_itself = {*bare.stdout.decode().split(), "ib_sriov_cni.telemetry.timeline"}
    return {name: found - by_itself for name, found in loaded.items() if found}


@pytest.fixture(scope="module", params=["shared", "exclusive"])
def loaded(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """One VF is enough."""
    yield from rigs(request.param, vfs=1)


def test_the_modules_of_a_whole_attachment(rig: Rig) -> None:
    pod = rig.pod("hotpath")
    # With a rebind, also in DEL, which therefore moves nothing.
    conf = rig.conf(0, guid=guid_of(1), logFile="/dev/null")
    found = {"ADD": modules(rig, "ADD", pod, conf)}
    (record,) = (STATE / "attachments").rglob("*.json")
    stored = json.loads(record.read_text())
    found["CHECK"] = modules(rig, "CHECK", pod, {**conf, "prevResult": stored["result"]})
    found["DEL"] = modules(rig, "DEL", pod, conf)
    rig.assert_as_before()
    for command, processes in found.items():
        print(command, {name: sorted(names) for name, names in processes.items()})
    for command, processes in found.items():
        assert not processes[command] & FORBIDDEN
        wanted = MODULES[command] | (ISOLATED if rig.exclusive and command != "DEL" else set())
        assert processes[command] == wanted, f"{command}: {processes[command] ^ wanted}"
    own = found["ADD"]["ADD"]
    # The child has what its parent had loaded when it was made, and pyverbs with what that really takes.
    beside = {name for name in found["ADD"]["verify"] - own if not name.startswith(("pyverbs", "_cython"))}
    assert beside == MODULES["verify"]
