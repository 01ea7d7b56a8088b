"""Running a program with an input and a time limit."""

from __future__ import annotations

import os
import time

from ib_sriov_cni.kernel.syscalls import KILL_SECONDS, await_end

SIGPIPE = 13
LIMIT = 1 << 20  # bytes of an answer


def run(program: str, environ: dict[str, str], stdin: bytes, seconds: float) -> tuple[int | str, bytes, bytes]:
    """Run a program with that input; status (or the words for a signal or time-out), stdout, stderr."""
    our_in, their_in, our_out, their_out, our_err, their_err = *_pipe(True), *_pipe(False), *_pipe(False)
    actions = [(os.POSIX_SPAWN_DUP2, theirs, fd) for fd, theirs in enumerate((their_in, their_out, their_err))]
    try:
        # A group of its own, so that a time-out reaches what the plugin started too; Python ignores SIGPIPE.
        pid = os.posix_spawn(program, [program], environ, file_actions=actions, setpgroup=0, setsigdef=[SIGPIPE])
    except OSError as fault:
        for fd in (our_in, our_out, our_err):
            os.close(fd)
        return f"{fault.strerror} (it cannot be executed)", b"", b""
    finally:
        for fd in (their_in, their_out, their_err):
            os.close(fd)
    deadline = time.monotonic() + seconds
    try:
        out, err, in_time = _converse(our_in, our_out, our_err, stdin, deadline)
        status = await_end(pid, deadline) if in_time else None
    except BaseException:  # SIGTERM: it must not reserve an address after we have undone everything
        _kill_group(pid)
        raise
    if status is None:
        _kill_group(pid)
        return f"no answer within {seconds:g} s", out, err
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}", out, err
    return os.WEXITSTATUS(status), out, err


def _pipe(writing: bool) -> tuple[int, int]:  # noqa: FBT001  # two callers, side by side
    """Give (our end, their end)."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    return (writer, reader) if writing else (reader, writer)


def _kill_group(pid: int) -> None:
    """Kill it with what it started, and reap it; one that hangs in the kernel is left behind."""
    try:
        os.killpg(pid, 9)
        await_end(pid, time.monotonic() + KILL_SECONDS)
    except ProcessLookupError:
        pass


def _converse(our_in: int, our_out: int, our_err: int, stdin: bytes, deadline: float) -> tuple[bytes, bytes, bool]:
    """Feed the input and collect both outputs until they close, or until the time is up."""
    from select import POLLIN, POLLOUT, poll

    heard: dict[int, bytes] = {our_out: b"", our_err: b""}
    waiter = poll()
    for fd in heard:
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
                stdin = _feed(fd, stdin)
                if not stdin:
                    close(fd)
                continue
            part = os.read(fd, 65536)
            if not part or len(heard[fd]) > LIMIT:
                close(fd)
            heard[fd] += part
    in_time = not open_ends
    for fd in tuple(open_ends):
        close(fd)
    return heard[our_out], heard[our_err], in_time


def _feed(fd: int, text: bytes) -> bytes:
    try:
        return text[os.write(fd, text) :]
    except BlockingIOError:
        return text
    except BrokenPipeError:  # it does not read its input: allowed
        return b""
