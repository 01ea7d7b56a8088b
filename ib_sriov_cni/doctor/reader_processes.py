"""Run readers in child processes, all at once and with one deadline.

A query to firmware that hangs does not return, and its process cannot even be killed until the driver gives up. Such a
process is abandoned (it dies with its parent as soon as the driver lets it), and the answers of the others count.
"""

from __future__ import annotations

import os
import pickle
import time
from select import POLLIN, poll

from ib_sriov_cni.core.errors import CniError
from ib_sriov_cni.kernel import syscalls
from ipam.protocol.bounds import READER_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Answers:
    """What the readers returned: `found` by name, `faults` with a reason, `hung` without an answer in time."""

    def __init__(self) -> None:
        self.found: dict[str, object] = {}
        self.faults: dict[str, str] = {}
        self.hung: list[str] = []


def read_bounded(readers: Mapping[str, Callable[[], object]], seconds: float) -> Answers:
    """Run each reader in its own process and return their answers, after `seconds` at the latest."""
    answers = Answers()
    running: dict[int, tuple[str, int]] = {}  # our end of the pipe: name, process
    received: dict[int, bytes] = {}
    waiter = poll()
    for name, reader in readers.items():
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _run_reader(reader, theirs, parent)
        os.close(theirs)
        running[ours], received[ours] = (name, pid), b""
        waiter.register(ours, POLLIN)
    deadline = time.monotonic() + seconds
    while running and (left := deadline - time.monotonic()) > 0:
        for fd, _event in waiter.poll(int(left * 1000) + 1):
            part = os.read(fd, 1 << 16)
            received[fd] += part
            if part and len(received[fd]) < READER_BYTES:
                continue
            name, pid = running.pop(fd)
            waiter.unregister(fd)
            os.close(fd)
            _kill(pid)
            _store_answer(answers, name, received[fd])
    for fd, (name, pid) in running.items():
        os.close(fd)
        _kill(pid)
        answers.hung.append(name)
        answers.faults[name] = f"no answer within {seconds:g} s"
    return answers


def _store_answer(answers: Answers, name: str, text: bytes) -> None:
    try:
        good, answer = pickle.loads(text)  # noqa: S301  # our own child wrote it
    except Exception:  # noqa: BLE001  # whatever half a pickle raises
        answers.faults[name] = "the reading process died"
        return
    if good:
        answers.found[name] = answer
    else:
        answers.faults[name] = str(answer)


def _run_reader(reader: Callable[[], object], pipe: int, parent: int) -> None:
    """In the child: read, write the answer, exit. No exception may reach the parent's code."""
    try:
        syscalls.end_with_parent(parent)
        nowhere = os.open("/dev/null", os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        text = pickle.dumps((True, reader()))
    except BaseException as fault:  # noqa: BLE001  # a forked child has no caller to raise to
        text = pickle.dumps((False, describe_exception(fault)))
    try:
        while text:
            text = text[os.write(pipe, text) :]
    finally:
        os._exit(0)


def describe_exception(fault: BaseException) -> str:
    """Return an exception's text as a message shows it."""
    if isinstance(fault, CniError):
        return fault.msg
    if isinstance(fault, OSError) and fault.strerror:
        return f"{fault.filename}: {fault.strerror}" if fault.filename else fault.strerror
    return f"{type(fault).__name__}: {fault}"


def _kill(pid: int) -> None:
    """Kill the process, and reap it if possible: one that sleeps in the driver stays, and we do not wait for it."""
    try:
        os.kill(pid, 9)
        os.waitpid(pid, os.WNOHANG)
    except (ChildProcessError, ProcessLookupError):
        pass
