"""The guest's processor does what the kernel relies on."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from tests.lab.commands import run

PROGRAM = Path(__file__).with_name("cmpxchg16b.c")


def test_cmpxchg16b_leaves_the_flags_alone_or_is_not_there(tmp_path: Path) -> None:
    """The kernel allocates memory by it where the processor says that it has it."""
    program = tmp_path / "cmpxchg16b"
    run(["gcc", "-O1", "-o", str(program), str(PROGRAM)])
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode in (0, -signal.SIGILL), done.stdout
