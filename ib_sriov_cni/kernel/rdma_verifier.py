"""Door to libibverbs, through pyverbs: opens an RDMA device in a network namespace and reads its first port.

A child process does it, for two reasons. libibverbs finds devices in the /sys it sees, so the child enters the
namespace and mounts a new sysfs over /sys, in a mount namespace of its own. And a call into a driver may never return:
past the deadline, the child is killed.

The child is started early, before the device is in its place: loading pyverbs takes longer than most of an ADD, and
meanwhile the kernel can rebind and move the VF. The child waits on a pipe for the device's name, and is killed when
its parent ends.

Sources: rdma-core pyverbs/{device,base,enums}.pyx, libibverbs/{init,ibdev_nl}.c; IBTA port states as in
<infiniband/verbs.h>.
"""

from __future__ import annotations

import errno
import os
import sys
import time

from ib_sriov_cni.core.errors import VerificationFailed
from ib_sriov_cni.core.values import PORT_STATES, Guid, PortReport, normalize_pkey
from ib_sriov_cni.telemetry import TIMELINE
from ib_sriov_cni.telemetry.span import Span
from ipam.protocol.fastjson import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    from ib_sriov_cni.kernel.netns import Netns

LINK_LAYERS = {1: "InfiniBand", 2: "Ethernet"}
ACTIVE = "ACTIVE"
OPEN_SECONDS = 10.0  # for opening and reading, in addition to the wait for the port
OPEN_TRIES = 25  # at least, within the caller's time limit
FIRST_PAUSE, LAST_PAUSE = 0.002, 0.1  # seconds between polls, doubled each time: pyverbs has no call that waits
PKEY_PAUSE = 0.5  # at most between looks at a P_Key table: each may ask the firmware for 128 entries
REQUEST_MAX = 4096  # bytes


def read_port(
    device: str, *, netns: Netns, exclusive: bool, wait: float, pkey: int | None, open_seconds: float = OPEN_SECONDS
) -> PortReport:
    """Open an RDMA device in a namespace and return its first port; see Verifier."""
    with Verifier(netns, exclusive=exclusive) as verifier:
        return verifier.read_port(device, wait=wait, pkey=pkey, open_seconds=open_seconds)


class Verifier:
    """A child process that has loaded pyverbs, and opens one device of one namespace when told to."""

    def __init__(self, netns: Netns, *, exclusive: bool) -> None:
        """Start the child. `exclusive`: the device is visible only in its own namespace."""
        self._netns_path = netns.path
        self._answer, answer = os.pipe2(os.O_CLOEXEC)
        request, self._request = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            _child(request, answer, parent, netns, exclusive=exclusive)
        os.close(answer)
        os.close(request)

    def read_port(
        self, device: str, *, wait: float, pkey: int | None, open_seconds: float = OPEN_SECONDS
    ) -> PortReport:
        """Open the device, wait up to `wait` seconds until its first port is ACTIVE, and return the port.

        To be called once. `pkey`: wait until this P_Key is in the port's table too, with either membership bit, and
        read the table. `open_seconds`: how long opening and reading may take, in addition. Raises VerificationFailed
        (103) if the device cannot be opened or does not answer in time.
        """
        try:
            os.write(self._request, dumps({"device": device, "wait": wait, "pkey": pkey}).encode() + b"\n")
        except BrokenPipeError:
            pass  # the child has died: its answer is empty
        text = _read_answer(self._answer, wait + open_seconds)
        if text is None:
            raise VerificationFailed(
                f"open RDMA device {device}: no answer within {wait + open_seconds:g} s",
                "the driver or the firmware hangs: see the kernel log (dmesg)",
            )
        answer = loads(text) if text else None
        if not isinstance(answer, dict) or "fault" in answer:
            fault = answer["fault"] if isinstance(answer, dict) else "the verifying process died"
            raise VerificationFailed(
                f"open RDMA device {device} in {self._netns_path}: {fault}",
                "is ib_uverbs loaded, does /dev/infiniband exist, and is the HCA's rdma-core provider installed?",
            )
        return _report(answer)

    def close(self) -> None:
        """End the child, whatever it is doing: it holds nothing that needs a clean exit."""
        if self._pid:
            os.close(self._request)
            os.close(self._answer)
            _end(self._pid)
            self._pid = 0

    def __enter__(self) -> Self:
        """Return the verifier; the end of the block ends the child."""
        return self

    def __exit__(self, *_fault: object) -> None:
        """End the child."""
        self.close()


def _report(answer: dict[str, Any]) -> PortReport:
    return PortReport(
        device=answer["device"],
        node_guid=Guid.parse(answer["node_guid"]),
        port_guid=Guid.parse(answer["port_guid"]),
        link_layer=LINK_LAYERS.get(answer["link_layer"], str(answer["link_layer"])),
        state=PORT_STATES.get(answer["state"], str(answer["state"])),
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
    """Kill the child unless it has ended, and reap it; one that hangs in the kernel is left behind."""
    from ib_sriov_cni.kernel.syscalls import KILL_SECONDS, await_end

    try:
        if os.waitpid(pid, os.WNOHANG)[0] == 0:
            os.kill(pid, 9)
            await_end(pid, time.monotonic() + KILL_SECONDS)
    except (ChildProcessError, ProcessLookupError):
        pass


def _child(request: int, answer: int, parent: int, netns: Netns, *, exclusive: bool) -> None:
    """Run as the child: write an answer and end the process, never returning into the parent's code."""
    start = time.monotonic_ns()
    try:
        _detach({request, answer, netns.fd}, parent)
        found: dict[str, object] = _serve(request, netns, exclusive=exclusive)
    except BaseException as fault:  # noqa: BLE001  # a forked child has no caller to raise to
        found = {"fault": f"{type(fault).__name__}: {fault}"}
    if TIMELINE in os.environ:
        from ib_sriov_cni.telemetry.timeline import write_process

        write_process(f"the child of {parent}", "verify", start)
    try:
        os.write(answer, dumps(found).encode())
    finally:
        os._exit(0)


def _detach(wanted: set[int], parent: int) -> None:
    """Close all of the parent's files but `wanted`, and end with it: a child that hangs must not hold a lock or a pipe.

    Standard output is for the one document of the runtime (C5), so it becomes /dev/null for what a library may print.
    SIGTERM, which may go to the whole group, is handled by the parent.
    """
    import _signal  # type: ignore[import-not-found]  # the signal module would import enum

    from ib_sriov_cni.kernel import syscalls

    _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
    syscalls.end_with_parent(parent)
    null = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1):
        os.dup2(null, stream)
    # Not a loop up to the limit of open files, which is 2^30 under containerd; close_range(2) came with Linux 5.9.
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in wanted:
            try:
                os.close(int(name))
            except OSError:
                pass  # the descriptor of the listing itself


def _serve(request: int, netns: Netns, *, exclusive: bool) -> dict[str, object]:
    """Prepare everything, wait for the request and return the answer; end the process if the parent has closed."""
    from ib_sriov_cni.kernel import syscalls

    with Span("enter_namespace"):
        syscalls.set_network_namespace(netns.fd)
        if exclusive:
            syscalls.unshare_mounts()
            syscalls.mount_sysfs()
    with Span("load_pyverbs"):
        from ib_sriov_cni.kernel.pyverbs_loader import load_context

        context_class = load_context()
    with Span("await_question"):
        asked: Any = loads(os.read(request, REQUEST_MAX) or b"null")
    if asked is None:
        os._exit(0)
    with Span("open_device"):
        opened = _open(context_class, asked["device"])
    with opened as context:
        with Span("await_active"):
            deadline = time.monotonic() + asked["wait"]
            port = _await_active(context, deadline)
        pkeys = [] if asked["pkey"] is None else _await_pkey(context, port.pkey_tbl_len, asked["pkey"], deadline)
        return {
            "device": asked["device"],
            "node_guid": str(node_guid(context.query_device().node_guid)),
            "port_guid": str(context.query_gid(1, 0))[20:],
            "link_layer": int(port.link_layer),
            "state": int(port.state),
            "lid": int(port.lid),
            "sm_lid": int(port.sm_lid),
            "pkeys": pkeys,
        }


def _open(context: Any, device: str) -> Any:
    """Open the device. Try for 2 s, and at least OPEN_TRIES times.

    udev may still have to make the node of a device that has just appeared. And libibverbs finds devices by a dump,
    which can skip some while others appear or disappear (see Rdma.find_device).
    """
    pause, deadline, tries = FIRST_PAUSE, time.monotonic() + 2, 0
    while True:
        try:
            return context(name=device)
        except Exception as fault:  # noqa: BLE001  # a class of pyverbs: not permitted, or not there yet
            tries += 1
            if time.monotonic() > deadline and tries >= OPEN_TRIES:
                raise OSError(errno.EIO, str(fault)) from None
        time.sleep(pause)
        pause = min(pause * 2, LAST_PAUSE)


def _await_active(context: Any, deadline: float) -> Any:
    pause = FIRST_PAUSE
    while True:
        port = context.query_port(1)
        if int(port.state) == 4 or time.monotonic() >= deadline:
            return port
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(pause * 2, LAST_PAUSE)


def _await_pkey(context: Any, length: int, pkey: int, deadline: float) -> list[int]:
    """Return the port's P_Key table, when it has the P_Key or at the deadline: the subnet manager may add it late."""
    pause = FIRST_PAUSE
    while True:
        table = [_host_order(context.query_pkey(1, index)) for index in range(length)]
        if normalize_pkey(pkey) in map(normalize_pkey, table) or time.monotonic() >= deadline:
            return table
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(pause * 2, PKEY_PAUSE)


def node_guid(found: int | str) -> Guid:
    """Return the GUID in pyverbs' node_guid: a native number of its big-endian bytes up to rdma-core 44, then text."""
    if isinstance(found, int):
        return Guid.from_bytes(found.to_bytes(8, sys.byteorder), "big")
    return Guid.parse(found)


def _host_order(pkey: int) -> int:
    """Return a P_Key of ibv_query_pkey, which is in network byte order."""
    return int.from_bytes(int(pkey).to_bytes(2, sys.byteorder), "big")
