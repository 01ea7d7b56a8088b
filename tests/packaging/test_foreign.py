"""The program for the other machine type answers as this machine's does, under QEMU's user-mode emulation.

That has no NS_GET_NSTYPE, so an ADD would end where it looks at the pod's namespace.
"""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path

import pytest

from tests.packaging.conftest import BUILDS, MACHINES, Done, call

CONF = json.dumps({"cniVersion": "1.1.0", "name": "ib", "type": "ib-sriov"}).encode()


@pytest.fixture
def foreign() -> tuple[str, str]:
    """The emulator's path and the program's."""
    (machine,) = set(MACHINES) - {platform.machine()}
    emulator = shutil.which(f"qemu-{machine}-static")
    assert emulator, "tests/tools/need build"
    return emulator, str(BUILDS[machine])


def test_version_answers(foreign: tuple[str, str], build: Path) -> None:
    done = call(*foreign, CNI_COMMAND="VERSION")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == call(build, CNI_COMMAND="VERSION").stdout


def test_what_it_stands_on_is_inside(foreign: tuple[str, str], build: Path) -> None:
    there, here = (json.loads(call(*command, "version", "-o", "json").stdout) for command in (foreign, (str(build),)))
    assert there.pop("machine") != here.pop("machine")
    assert there == here


@pytest.mark.parametrize("command", ["STATUS", "GC"])
def test_a_command_answers(foreign: tuple[str, str], build: Path, command: str) -> None:
    def answer(*program: str) -> Done:
        return call(*program, stdin=CONF, CNI_COMMAND=command, CNI_PATH="/nowhere")

    there, here = answer(*foreign), answer(str(build))
    assert (there.returncode, there.stdout) == (here.returncode, here.stdout), there.stderr


def test_the_command_line_answers(foreign: tuple[str, str], build: Path) -> None:
    there, here = (call(*command, "doctor", "--help") for command in (foreign, (str(build),)))
    assert (there.returncode, there.stdout) == (0, here.stdout), there.stderr
