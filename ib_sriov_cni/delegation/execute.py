"""Runs a program with an input and a time limit."""

from __future__ import annotations

import os
import time

from ib_sriov_cni.kernel.syscalls import KILL_SECONDS, await_end

SIGPIPE = 13
LIMIT = 1 << 20  # bytes that are read of stdout and of stderr, plus one read


def run(program: str, environ: dict[str, str], stdin: bytes, seconds: float) -> tuple[int | str, bytes, bytes]:
    """Run a program with that input for up to `seconds`; return its status, stdout and stderr.

    The status is the exit status, or words if there is none: not executable, killed by a signal, or no answer in time.
    """
    our_in, their_in, our_out, their_out, our_err, their_err = *_pipe(True), *_pipe(False), *_pipe(False)
    actions = [(os.POSIX_SPAWN_DUP2, theirs, fd) for fd, theirs in enumerate((their_in, their_out, their_err))]
    try:
        # A process group of its own, so that a timeout also ends what the plugin started. Python ignores SIGPIPE,
        # which the plugin must not inherit.
        pid = os.posix_spawn(program, [program], environ, file_actions=actions, setpgroup=0, setsigdef=[SIGPIPE])
    except OSError as fault:
        for fd in (our_in, our_out, our_err):
            os.close(fd)
        return f"cannot be executed: {fault.strerror}", b"", b""
    finally:
        for fd in (their_in, their_out, their_err):
            os.close(fd)
    deadline = time.monotonic() + seconds
    try:
        out, err, in_time = _exchange(our_in, our_out, our_err, stdin, deadline)
        status = await_end(pid, deadline) if in_time else None
    except BaseException:  # SIGTERM: the plugin must not reserve an address after everything is undone
        _kill_group(pid)
        raise
    if status is None:
        _kill_group(pid)
        return f"no answer within {seconds:g} s", out, err
    if os.WIFSIGNALED(status):
        return f"killed by signal {os.WTERMSIG(status)}", out, err
    return os.WEXITSTATUS(status), out, err


def _pipe(writing: bool) -> tuple[int, int]:  # noqa: FBT001  # two callers, side by side
    """Return (our end, their end)."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    return (writer, reader) if writing else (reader, writer)


def _kill_group(pid: int) -> None:
    """Kill a process with all that it started, and reap it; one that hangs in the kernel is left behind."""
    try:
        os.killpg(pid, 9)
        await_end(pid, time.monotonic() + KILL_SECONDS)
    except ProcessLookupError:
        pass


def _exchange(our_in: int, our_out: int, our_err: int, stdin: bytes, deadline: float) -> tuple[bytes, bytes, bool]:
    """Write the input and read both outputs, until all are closed or `deadline`; return them and whether in time."""
    from select import POLLIN, POLLOUT, poll

    outputs: dict[int, bytes] = {our_out: b"", our_err: b""}
    waiter = poll()
    for fd in outputs:
        waiter.register(fd, POLLIN)
    os.set_blocking(our_in, False)
    waiter.register(our_in, POLLOUT)
    open_ends = {our_in, our_out, our_err}

    def close(fd: int) -> None:
        waiter.unregister(fd)
        os.close(fd)
        open_ends.discard(fd)

    while open_ends and (left := deadline - time.monotonic()) > 0:
        for fd, _event in waiter.poll(int(left * 1000) + 1):
            if fd == our_in:
                stdin = _write_part(fd, stdin)
                if not stdin:
                    close(fd)
                continue
            part = os.read(fd, 65536)
            if not part or len(outputs[fd]) > LIMIT:
                close(fd)
            outputs[fd] += part
    in_time = not open_ends
    for fd in tuple(open_ends):
        close(fd)
    return outputs[our_out], outputs[our_err], in_time


def _write_part(fd: int, text: bytes) -> bytes:
    """Write as much as the pipe accepts; return the rest."""
    try:
        return text[os.write(fd, text) :]
    except BlockingIOError:
        return text
    except BrokenPipeError:  # a plugin need not read its input
        return b""
