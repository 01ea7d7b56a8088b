"""Reading in processes of their own, all at once and with one deadline.

A question to a firmware that hangs does not come back, and its process cannot even be killed before the driver gives
up. It is left behind then: it ends with us as soon as it can, and the others' answers count.
"""

from __future__ import annotations

import os
import pickle
import time
from select import POLLIN, poll

from ib_sriov_cni.core.errors import CniError
from ib_sriov_cni.kernel import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LIMIT = 1 << 26  # bytes of an answer


class Answers:
    """What became of the questions: `found` by name, `faults` with a reason, `hung` without an answer in time."""

    def __init__(self) -> None:
        self.found: dict[str, object] = {}
        self.faults: dict[str, str] = {}
        self.hung: list[str] = []


def read_bounded(readers: Mapping[str, Callable[[], object]], seconds: float) -> Answers:
    """Run every reader in a process of its own and give their answers, after `seconds` at the latest."""
    answers = Answers()
    running: dict[int, tuple[str, int]] = {}  # our end of the pipe: name, process
    heard: dict[int, bytes] = {}
    waiter = poll()
    for name, reader in readers.items():
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _answer(reader, theirs, parent)
        os.close(theirs)
        running[ours], heard[ours] = (name, pid), b""
        waiter.register(ours, POLLIN)
    deadline = time.monotonic() + seconds
    while running and (left := deadline - time.monotonic()) > 0:
        for fd, _event in waiter.poll(int(left * 1000) + 1):
            part = os.read(fd, 1 << 16)
            heard[fd] += part
            if part and len(heard[fd]) < LIMIT:
                continue
            name, pid = running.pop(fd)
            waiter.unregister(fd)
            os.close(fd)
            _end(pid)
            _sort_in(answers, name, heard[fd])
    for fd, (name, pid) in running.items():
        os.close(fd)
        _end(pid)
        answers.hung.append(name)
        answers.faults[name] = f"no answer within {seconds:g} s"
    return answers


def _sort_in(answers: Answers, name: str, text: bytes) -> None:
    try:
        good, answer = pickle.loads(text)  # noqa: S301  # our own child wrote it
    except Exception:  # noqa: BLE001  # whatever half a pickle raises
        answers.faults[name] = "the reading process died"
        return
    if good:
        answers.found[name] = answer
    else:
        answers.faults[name] = str(answer)


def _answer(reader: Callable[[], object], pipe: int, parent: int) -> None:
    """Read, write the answer, end; nothing may escape into the parent's code."""
    try:
        syscalls.end_with_parent(parent)
        nowhere = os.open("/dev/null", os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        text = pickle.dumps((True, reader()))
    except BaseException as fault:  # noqa: BLE001  # a forked child has no caller to raise to
        text = pickle.dumps((False, describe(fault)))
    try:
        while text:
            text = text[os.write(pipe, text) :]
    finally:
        os._exit(0)


def describe(fault: BaseException) -> str:
    """Give the words of a fault, for people."""
    if isinstance(fault, CniError):
        return fault.msg
    if isinstance(fault, OSError) and fault.strerror:
        return f"{fault.filename}: {fault.strerror}" if fault.filename else fault.strerror
    return f"{type(fault).__name__}: {fault}"


def _end(pid: int) -> None:
    """Kill it and reap it if it can be: one that sleeps in the driver cannot, and must not keep us."""
    try:
        os.kill(pid, 9)
        os.waitpid(pid, os.WNOHANG)
    except (ChildProcessError, ProcessLookupError):
        pass
