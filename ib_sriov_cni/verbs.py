"""Door to libibverbs by pyverbs: open the VF's RDMA device in a network namespace and ask what its port says.

The asking is done by a child process. libibverbs finds devices by a sysfs of the namespace it is in, so the
child enters the namespace and, in mounts of its own, puts a fresh sysfs over /sys; and a call into a driver
that never comes back must not take the plugin with it: past the deadline the child is killed.

Sources: rdma-core pyverbs/device.pyx, libibverbs/{init,ibdev_nl}.c; IBTA port states as in <infiniband/verbs.h>.
"""

from __future__ import annotations

import errno
import os
import sys
import time

from ib_sriov_cni.errors import VerificationFailed
from ib_sriov_cni.model import Guid, PortReport
from ipam.fastjson import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ib_sriov_cni.netns import Netns

STATES = {0: "NOP", 1: "DOWN", 2: "INIT", 3: "ARMED", 4: "ACTIVE", 5: "ACTIVE_DEFER"}
LINK_LAYERS = {1: "InfiniBand", 2: "Ethernet"}
ACTIVE = "ACTIVE"
OPEN_SECONDS = 10.0  # for opening and asking, over and above the wait for the port
FIRST_PAUSE, LAST_PAUSE = 0.002, 0.1  # verbs have no waiting call in pyverbs: ask, doubling the pause


def read_port(
    device: str, *, netns: Netns, exclusive: bool, wait: float, pkeys: bool, open_seconds: float = OPEN_SECONDS
) -> PortReport:
    """Open an RDMA device in a namespace and report its first port, after up to `wait` seconds for ACTIVE.

    `exclusive`: the device is seen in its own namespace only. `pkeys`: read the P_Key table too. `open_seconds`:
    what opening and asking may take on top.
    Raises VerificationFailed (103) if it cannot be opened or does not answer.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _child(writer, parent, device, netns, exclusive=exclusive, wait=wait, pkeys=pkeys)
    os.close(writer)
    try:
        text = _read_answer(reader, wait + open_seconds)
    finally:
        os.close(reader)
        _end(pid)
    if text is None:
        raise VerificationFailed(
            f"open RDMA device {device}: no answer within {wait + open_seconds:g} s",
            "the driver or the firmware hangs: see the kernel log",
        )
    answer = loads(text) if text else None
    if not isinstance(answer, dict) or "fault" in answer:
        fault = answer["fault"] if isinstance(answer, dict) else "the verifying process died"
        raise VerificationFailed(
            f"open RDMA device {device} in {netns.path}: {fault}",
            "is ib_uverbs loaded, /dev/infiniband there, and the provider's library for this HCA installed?",
        )
    return _report(answer)


def _report(answer: dict[str, Any]) -> PortReport:
    return PortReport(
        device=answer["device"],
        node_guid=Guid.parse(answer["node_guid"]),
        port_guid=Guid.parse(answer["port_guid"]),
        link_layer=LINK_LAYERS.get(answer["link_layer"], str(answer["link_layer"])),
        state=STATES.get(answer["state"], str(answer["state"])),
        lid=answer["lid"],
        sm_lid=answer["sm_lid"],
        pkeys=tuple(answer["pkeys"]),
    )


def _read_answer(reader: int, seconds: float) -> bytes | None:
    from select import POLLIN, poll

    deadline = time.monotonic() + seconds
    waiter = poll()
    waiter.register(reader, POLLIN)
    text = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not waiter.poll(max(1, int(left * 1000))):
            return None
        part = os.read(reader, 65536)
        if not part:
            return text
        text += part


def _end(pid: int) -> None:
    """Reap the child, killing it if it has not ended: it holds nothing that needs an orderly end."""
    try:
        if os.waitpid(pid, os.WNOHANG)[0] == 0:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
    except (ChildProcessError, ProcessLookupError):
        pass


def _child(writer: int, parent: int, device: str, netns: Netns, *, exclusive: bool, wait: float, pkeys: bool) -> None:
    """Answer on the pipe and end the process; nothing may escape into the parent's code."""
    try:
        _hold_only(writer, netns.fd, parent)
        answer: dict[str, object] = _ask(device, netns, exclusive=exclusive, wait=wait, pkeys=pkeys)
    except BaseException as fault:  # noqa: BLE001  # a forked child has no caller to raise to
        answer = {"fault": f"{type(fault).__name__}: {fault}"}
    try:
        os.write(writer, dumps(answer).encode())
    finally:
        os._exit(0)


def _hold_only(writer: int, netns: int, parent: int) -> None:
    """Let go of the parent's files and end when it ends: one that hangs must keep no lock and no runtime waiting.

    Standard output is the runtime's, for one document (C5): what a library prints goes nowhere.
    """
    from ib_sriov_cni import syscalls

    syscalls.end_with_parent(parent)
    nowhere = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1):
        os.dup2(nowhere, stream)
    # Not up to the limit of open files: under containerd that is 2^30, and close_range(2) came with 5.9.
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in (0, 1, 2, writer, netns):
            try:
                os.close(int(name))
            except OSError:
                pass  # the listing's own


def _ask(device: str, netns: Netns, *, exclusive: bool, wait: float, pkeys: bool) -> dict[str, object]:
    from ib_sriov_cni import syscalls

    syscalls.set_network_namespace(netns.fd)
    if exclusive:
        syscalls.unshare_mounts()
        syscalls.mount_sysfs()
    from pyverbs.device import Context

    with _open(Context, device) as context:
        port = _await_active(context, wait)
        table = port.pkey_tbl_len if pkeys else 0
        return {
            "device": device,
            "node_guid": str(node_guid(context.query_device().node_guid)),
            "port_guid": str(context.query_gid(1, 0))[20:],
            "link_layer": int(port.link_layer),
            "state": int(port.state),
            "lid": int(port.lid),
            "sm_lid": int(port.sm_lid),
            "pkeys": [_host_order(context.query_pkey(1, index)) for index in range(table)],
        }


def _open(context: Any, device: str) -> Any:
    """Open the device, giving udev a moment to make or chmod the node of one that has just appeared."""
    pause, deadline = FIRST_PAUSE, time.monotonic() + 2
    while True:
        try:
            return context(name=device)
        except Exception as fault:  # noqa: BLE001  # pyverbs' own: permission, or not there yet
            if time.monotonic() > deadline:
                raise OSError(errno.EIO, str(fault)) from None
        time.sleep(pause)
        pause = min(pause * 2, LAST_PAUSE)


def _await_active(context: Any, wait: float) -> Any:
    pause, deadline = FIRST_PAUSE, time.monotonic() + wait
    while True:
        port = context.query_port(1)
        if int(port.state) == 4 or time.monotonic() >= deadline:
            return port
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(pause * 2, LAST_PAUSE)


def node_guid(found: int | str) -> Guid:
    """Read pyverbs' node GUID: the number as it lies in memory, big-endian, until rdma-core 44; text since then."""
    if isinstance(found, int):
        return Guid.from_bytes(found.to_bytes(8, sys.byteorder), "big")
    return Guid.parse(found)


def _host_order(pkey: int) -> int:
    """ibv_query_pkey gives network byte order."""
    return int.from_bytes(int(pkey).to_bytes(2, sys.byteorder), "big")
