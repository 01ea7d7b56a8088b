"""Runs a program with an input and a time limit. If it exceeds the limit, all that it has started is ended too."""

from __future__ import annotations

import os
import time
from _signal import (  # type: ignore[import-not-found]  # signal itself imports enum
    SIG_BLOCK,
    SIG_DFL,
    SIG_IGN,
    SIG_SETMASK,
    SIGCHLD,
    SIGPIPE,
    SIGTERM,
    SIGXFSZ,
    getsignal,
    pthread_sigmask,
    signal,
)

from ib_sriov_cni.kernel.syscalls import await_end
from ipam.protocol.bounds import DELEGATE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# Ignored by us: the first two by Python, SIGTERM while an ADD is undone, SIGCHLD perhaps by whoever started us.
RESET = (SIGPIPE, SIGXFSZ, SIGTERM, SIGCHLD)
CHUNK = 1 << 16  # bytes
LATE, TOO_MUCH = "late", f"its output is larger than {DELEGATE_BYTES} bytes"


class _Terminated(BaseException):
    """SIGTERM arrived, and nothing else in this process handles it."""


def run(program: str, environ: Mapping[str, str], stdin: bytes, seconds: float) -> tuple[int | str, bytes, bytes]:
    """Run a program with that input for up to `seconds`; return its status, stdout and stderr.

    The status is the exit status, or words if there is none: not executable, killed by a signal, too much output, no
    answer in time. At most DELEGATE_BYTES of stderr are returned. After a time-out, and if an exception ends the call
    (SIGTERM), nothing that the program has started runs on.
    """
    handled = _handle_signals()
    try:
        return _run(program, environ, stdin, seconds)
    except _Terminated:
        signal(SIGTERM, SIG_DFL)
        os.kill(os.getpid(), SIGTERM)  # end as without the handler
        raise
    finally:
        if handled:
            signal(SIGTERM, SIG_DFL)


def _handle_signals() -> bool:
    """Have SIGTERM raise _Terminated if it would end this process; return whether it does."""

    def interrupt(number: int, _frame: object) -> None:
        signal(number, SIG_IGN)
        raise _Terminated

    try:
        if getsignal(SIGCHLD) == SIG_IGN:  # the kernel would reap our children, and nobody would know their status
            signal(SIGCHLD, SIG_DFL)
        if getsignal(SIGTERM) != SIG_DFL:
            return False
        signal(SIGTERM, interrupt)
    except ValueError:  # not the main thread
        return False
    return True


def _run(program: str, environ: Mapping[str, str], stdin: bytes, seconds: float) -> tuple[int | str, bytes, bytes]:
    from ib_sriov_cni.delegation.descendants import Descendants

    descendants = Descendants()
    deadline = time.monotonic() + seconds
    process: _Process | None = None
    mask = pthread_sigmask(SIG_BLOCK, ())
    try:
        # A SIGTERM between the start and the assignment would leave a process that nobody knows of.
        pthread_sigmask(SIG_BLOCK, (SIGTERM,))
        process = _Process(program, environ)
        pthread_sigmask(SIG_SETMASK, mask)
        fault = process.exchange(stdin, deadline)
        status = None if fault else await_end(process.pid, deadline)
    except BaseException as refusal:
        if process is not None:
            descendants.end(process.pid)  # it must not reserve an address after everything is undone
        elif isinstance(refusal, (OSError, ValueError)):
            return f"cannot be executed: {refusal.strerror if isinstance(refusal, OSError) else refusal}", b"", b""
        raise
    finally:
        pthread_sigmask(SIG_SETMASK, mask)
    out, err = bytes(process.out), bytes(process.err)
    if status is None:
        descendants.end(process.pid)
        return TOO_MUCH if fault == TOO_MUCH else f"no answer within {seconds:g} s", out, err
    descendants.leave()
    if os.WIFSIGNALED(status):
        return f"killed by signal {os.WTERMSIG(status)}", out, err
    return os.WEXITSTATUS(status), out, err


class _Process:
    """A running program, and our ends of the pipes to its standard streams."""

    def __init__(self, program: str, environ: Mapping[str, str]) -> None:
        """Start it, in a process group of its own. Raises OSError, or ValueError if a text cannot be passed to it."""
        self.out, self.err = bytearray(), bytearray()
        self._ours: list[int] = []
        theirs: list[int] = []
        try:
            for stream in range(3):
                reader, writer = os.pipe2(os.O_CLOEXEC)
                self._ours.append(reader if stream else writer)
                theirs.append(writer if stream else reader)
            actions = [(os.POSIX_SPAWN_DUP2, fd, stream) for stream, fd in enumerate(theirs)]
            self.pid = os.posix_spawn(
                program, [program], environ, file_actions=actions, setpgroup=0, setsigmask=(), setsigdef=RESET
            )
        except BaseException:
            _close(self._ours)
            raise
        finally:
            _close(theirs)

    def exchange(self, stdin: bytes, deadline: float) -> str:
        """Write the input and read both outputs until the program has closed them.

        Returns "", or what went wrong: TOO_MUCH, or LATE if they are not closed by `deadline` (time.monotonic).
        """
        from select import POLLIN, POLLOUT, poll

        to_write, out, err = self._ours
        waiter = poll()
        waiter.register(out, POLLIN)
        waiter.register(err, POLLIN)
        os.set_blocking(to_write, False)
        waiter.register(to_write, POLLOUT)
        try:
            while self._ours:
                left = deadline - time.monotonic()
                if left <= 0:
                    return LATE
                for fd, _event in waiter.poll(int(left * 1000) + 1):
                    if fd == to_write:
                        stdin = _write_part(fd, stdin)
                        ended = not stdin
                    else:
                        part = os.read(fd, CHUNK)
                        ended = not part
                        if fd == out:
                            self.out += part
                        else:
                            self.err += part[: DELEGATE_BYTES - len(self.err)]  # the rest is read, but not kept
                    if ended:
                        waiter.unregister(fd)
                        self._ours.remove(fd)
                        os.close(fd)
                if len(self.out) > DELEGATE_BYTES:
                    return TOO_MUCH
            return ""
        finally:
            _close(self._ours)


def _close(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())


def _write_part(fd: int, text: bytes) -> bytes:
    """Write as much as the pipe accepts; return the rest."""
    try:
        return text[os.write(fd, text) :]
    except BlockingIOError:
        return text
    except BrokenPipeError:  # a plugin need not read its input
        return b""
