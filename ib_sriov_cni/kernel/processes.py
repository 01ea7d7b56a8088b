"""Door to the processes of the node: which network namespaces have one."""

from __future__ import annotations

import os

from ib_sriov_cni.core.errors import CniError
from ib_sriov_cni.kernel.netns import try_open_netns

INIT_PIDS = "pid:[4026531836]"  # the host's PID namespace: PROC_PID_INIT_INO in include/linux/proc_ns.h


class Processes:
    """The network namespaces that have a process, by namespace cookie. /proc is read once, at the first question."""

    def __init__(self, proc_root: str = "/proc") -> None:
        """Does not read anything yet."""
        self._proc = proc_root
        self._cookies: set[int] | None = None
        self._whole = False

    def has(self, cookie: int) -> bool | None:
        """Return whether a process runs in that namespace; None if not all processes of the node are visible."""
        if self._cookies is None:
            self._cookies, self._whole = self._read()
        if cookie and cookie in self._cookies:
            return True
        return False if cookie and self._whole else None

    def _read(self) -> tuple[set[int], bool]:
        whole = _link(f"{self._proc}/self/ns/pid") == INIT_PIDS
        seen: set[str] = set()
        cookies: set[int] = set()
        try:
            names = os.listdir(self._proc)
        except OSError:
            return cookies, False
        for name in names:
            if not name.isdigit():
                continue
            path = f"{self._proc}/{name}/ns/net"
            try:
                namespace = os.readlink(path)
            except PermissionError:
                whole = False
                continue
            except OSError:
                continue  # it has ended, or it is a kernel thread
            if namespace in seen:
                continue
            try:
                netns = try_open_netns(path)
            except CniError:
                whole = False
                continue
            if netns is None:
                continue  # it has ended; another process of that namespace may follow
            seen.add(namespace)
            with netns:
                try:
                    cookies.add(netns.cookie())
                except (CniError, OSError):
                    whole = False  # it cannot be entered, so nothing is known of it; the others are
        return cookies, whole


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
