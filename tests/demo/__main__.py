"""`make demo`, the host's side: build what is missing, boot the lab, and show the story that the guest prints.

Exit status 0 only if everything was built, the guest came up and ended well, and every step succeeded.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import time

from tests.demo.terminal import Progress, Story, run_with_progress, wants_colour

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
TOOLS = os.path.join(ROOT, "tests", "tools")
LAB = os.path.join(ROOT, "tests", "lab")


def boot(story: Story, command: list[str], environ: dict[str, str]) -> int:
    """Run a command in the lab and pass its lines on; show a progress line until the first one comes."""
    progress = Progress(story, "the virtual machine's boot")
    process = subprocess.Popen(
        [os.path.join(LAB, "run"), *command],
        cwd=ROOT,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    told, notes = process.stdout.fileno(), process.stderr.fileno()
    silent = True
    open_pipes = {told, notes}
    while open_pipes:
        ready = select.select(open_pipes, [], [], 0.1)[0]
        if silent and not ready:
            progress.tick()
        for pipe in ready:
            chunk = os.read(pipe, 65536)
            if not chunk:
                open_pipes.remove(pipe)
            elif pipe == notes:
                progress.clear()
            elif silent:
                progress.end()
                silent = False
            # The guest's terminal ends lines with CR and LF.
            sys.stdout.buffer.write(chunk.replace(b"\r\n", b"\n"))
            sys.stdout.flush()
    if silent:
        progress.end("nothing came of it")
    return process.wait()


def main() -> int:
    colour = wants_colour(sys.stdout)
    story = Story(colour=colour)
    start = time.monotonic()
    story.line(story.paint("ib-sriov: two pods on InfiniBand, in a virtual machine with an emulated HCA", "1"))
    story.line()
    with tempfile.TemporaryDirectory(prefix="ib-sriov-demo.") as folder:
        log = os.path.join(folder, "log")
        # Compiled here once instead of by every process in the guest, whose writes stay in its own memory.
        compileall = [sys.executable, "-m", "compileall", "-q", "ib_sriov_cni", "ipam", "tests"]
        subprocess.run(compileall, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
        for what, command in (
            ("cnitool", [os.path.join(TOOLS, "go-client"), "cnitool"]),
            ("the lab's kernel, HCA module and initial file system", [os.path.join(LAB, "build")]),
        ):
            if not run_with_progress(story, what, command, log):
                return 1
    built = time.monotonic()
    cnitool = subprocess.run(
        [os.path.join(TOOLS, "go-client"), "cnitool"], check=True, capture_output=True, text=True
    ).stdout.strip()
    environ = os.environ | {"LAB_DEMO_CNITOOL": cnitool, "LAB_DEMO_COLOUR": str(int(colour))}
    status = boot(story, [os.path.join(ROOT, ".venv", "bin", "python"), "-m", "tests.demo.story"], environ)
    seconds = f"{time.monotonic() - built:.0f} s, and {built - start:.0f} s before it to build"
    story.line()
    if status:
        story.line(story.paint(f"The demo failed (status {status}) after {seconds}.", "31"))
    else:
        story.line(story.paint(f"Every step held. It took {seconds}.", "32"))
    return int(status != 0)


if __name__ == "__main__":
    sys.exit(main())
