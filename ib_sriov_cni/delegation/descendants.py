"""The processes that an executed plugin has started: found in /proc by their parent, and ended.

Killing its process group is not enough: what it started may have a group or a session of its own. As our process is a
child subreaper (`kernel.syscalls.adopt_orphans`), such a process becomes our child when its parent ends. So the
plugin's processes are gone when we have no other children than before it was started.

Sources: man 2 PR_SET_CHILD_SUBREAPER, man 5 proc_pid_stat, man 5 proc_tid_children (CONFIG_PROC_CHILDREN).
"""

from __future__ import annotations

import os
import time

from ib_sriov_cni.kernel.syscalls import KILL_SECONDS, adopt_orphans, await_end

FIRST_PAUSE, LAST_PAUSE = 0.001, 0.05  # seconds between looks, while killed processes end
SIGKILL = 9

_left_running: set[int] = set()  # children of ours that plugins have left running


class Descendants:
    """What one plugin starts. To be made before the plugin is."""

    def __init__(self, proc: str = "/proc") -> None:
        """Become a subreaper, and note which children there are already: the verifying process above all."""
        self._proc = proc
        _reap_ended()
        self._others: set[int] | None = None  # None: they cannot be told apart
        try:
            adopt_orphans()
            self._others = read_children(proc)
        except OSError:
            pass  # no such kernel, or no /proc of our PID namespace: only the process group can be killed

    def leave(self) -> None:
        """Leave running what the plugin has not ended itself, as it may be meant to run on."""
        try:
            if self._others is not None:
                _left_running.update(read_children(self._proc) - self._others)
        except OSError:
            pass

    def end(self, plugin: int) -> None:
        """Kill the plugin and all that it has started, and reap them; what hangs in the kernel is left behind."""
        deadline = time.monotonic() + KILL_SECONDS
        _kill(plugin, of_group=True)
        try:
            if self._others is not None:
                self._end_children(self._others, deadline)
                return
        except OSError:
            pass
        try:
            await_end(plugin, deadline)
        except ChildProcessError:
            pass

    def _end_children(self, others: set[int], deadline: float) -> None:
        """Kill and reap our children but `others` until there are none: each one that ends leaves us its own."""
        pause = FIRST_PAUSE
        while children := read_children(self._proc) - others:
            for pid in children:
                _kill(pid)
            ended = {pid for pid in children if _reap(pid)}
            if time.monotonic() > deadline:
                return
            if not ended:
                time.sleep(pause)
                pause = min(2 * pause, LAST_PAUSE)


def read_children(proc: str = "/proc") -> set[int]:
    """Return our child processes. Raises OSError if there is no /proc, or only that of another PID namespace."""
    own = os.getpid()
    if os.readlink(f"{proc}/self") != str(own):
        raise OSError(f"the numbers in {proc} are those of another PID namespace")
    try:
        # A child belongs to the thread that started it, an adopted one to any.
        threads = [int(name) for name in os.listdir(f"{proc}/self/task")]
        return {int(pid) for thread in threads for pid in _read(f"{proc}/self/task/{thread}/children").split()}
    except FileNotFoundError:  # a kernel without that file, or a thread that has just ended
        return {int(name) for name in os.listdir(proc) if name.isdecimal() and _read_parent(proc, name) == own}


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.readall()


def _read_parent(proc: str, pid: str) -> int:
    """Return the parent of a process, 0 if it has ended."""
    try:
        return int(_read(f"{proc}/{pid}/stat").rpartition(b")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _kill(pid: int, *, of_group: bool = False) -> None:
    try:
        (os.killpg if of_group else os.kill)(pid, SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # it has ended, or it has become another user's and we are not root


def _reap(pid: int) -> bool:
    """Return whether a child has ended; it is reaped."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _reap_ended() -> None:
    """Reap what earlier plugins left running and has ended by now: a process of ours may live long (the agent)."""
    for pid in tuple(_left_running):
        if _reap(pid):
            _left_running.discard(pid)
