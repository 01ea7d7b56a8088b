"""Door to libibverbs by pyverbs: open the VF's RDMA device in a network namespace and ask what its port says.

The asking is done by a child process. libibverbs finds devices by a sysfs of the namespace it is in, so the
child enters the namespace and, in mounts of its own, puts a fresh sysfs over /sys; and a call into a driver
that never comes back must not take the plugin with it: past the deadline the child is killed.

The child is started before the device is where it will be: loading pyverbs takes longer than most of what an ADD
does, and meanwhile the kernel can rebind and move. It waits on a pipe for the device's name, and ends with its parent.

Sources: rdma-core pyverbs/{device,base,enums}.pyx, libibverbs/{init,ibdev_nl}.c; IBTA port states as in
<infiniband/verbs.h>.
"""

from __future__ import annotations

import errno
import os
import sys
import time

from ib_sriov_cni.core.errors import VerificationFailed
from ib_sriov_cni.core.values import PORT_STATES, Guid, PortReport
from ib_sriov_cni.telemetry import TIMELINE
from ib_sriov_cni.telemetry.span import Span
from ipam.protocol.fastjson import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    from ib_sriov_cni.kernel.netns import Netns

LINK_LAYERS = {1: "InfiniBand", 2: "Ethernet"}
ACTIVE = "ACTIVE"
OPEN_SECONDS = 10.0  # for opening and asking, over and above the wait for the port
OPEN_TRIES = 25  # at least, as far as the caller's patience goes
FIRST_PAUSE, LAST_PAUSE = 0.002, 0.1  # verbs have no waiting call in pyverbs: ask, doubling the pause
QUESTION_MAX = 4096  # bytes


def read_port(
    device: str, *, netns: Netns, exclusive: bool, wait: float, pkeys: bool, open_seconds: float = OPEN_SECONDS
) -> PortReport:
    """Open an RDMA device in a namespace and report its first port; see Verifier."""
    with Verifier(netns, exclusive=exclusive) as verifier:
        return verifier.read_port(device, wait=wait, pkeys=pkeys, open_seconds=open_seconds)


class Verifier:
    """A child process that has pyverbs loaded and waits to be asked for one device of one namespace."""

    def __init__(self, netns: Netns, *, exclusive: bool) -> None:
        """Start the child. `exclusive`: the device is seen in its own namespace only."""
        self._where = netns.path
        self._answer, answer = os.pipe2(os.O_CLOEXEC)
        question, self._question = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            _child(question, answer, parent, netns, exclusive=exclusive)
        os.close(answer)
        os.close(question)

    def read_port(self, device: str, *, wait: float, pkeys: bool, open_seconds: float = OPEN_SECONDS) -> PortReport:
        """Open the device and report its first port, after up to `wait` seconds for ACTIVE; once.

        `pkeys`: read the P_Key table too. `open_seconds`: what opening and asking may take on top.
        Raises VerificationFailed (103) if it cannot be opened or does not answer.
        """
        try:
            os.write(self._question, dumps({"device": device, "wait": wait, "pkeys": pkeys}).encode() + b"\n")
        except BrokenPipeError:
            pass  # it is dead: its answer is empty
        text = _read_answer(self._answer, wait + open_seconds)
        if text is None:
            raise VerificationFailed(
                f"open RDMA device {device}: no answer within {wait + open_seconds:g} s",
                "the driver or the firmware hangs: see the kernel log",
            )
        answer = loads(text) if text else None
        if not isinstance(answer, dict) or "fault" in answer:
            fault = answer["fault"] if isinstance(answer, dict) else "the verifying process died"
            raise VerificationFailed(
                f"open RDMA device {device} in {self._where}: {fault}",
                "is ib_uverbs loaded, /dev/infiniband there, and the provider's library for this HCA installed?",
            )
        return _report(answer)

    def close(self) -> None:
        """End the child, whatever it does: it holds nothing that needs an orderly end."""
        if self._pid:
            os.close(self._question)
            os.close(self._answer)
            _end(self._pid)
            self._pid = 0

    def __enter__(self) -> Self:
        """For `with`: ends the child."""
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
    """Reap the child, killing it if it has not ended; not one that hangs in the kernel, which outlives even that."""
    from ib_sriov_cni.kernel.syscalls import KILL_SECONDS, await_end

    try:
        if os.waitpid(pid, os.WNOHANG)[0] == 0:
            os.kill(pid, 9)
            await_end(pid, time.monotonic() + KILL_SECONDS)
    except (ChildProcessError, ProcessLookupError):
        pass


def _child(question: int, answer: int, parent: int, netns: Netns, *, exclusive: bool) -> None:
    """Answer on the pipe and end the process; nothing may escape into the parent's code."""
    start = time.monotonic_ns()
    try:
        _hold_only({question, answer, netns.fd}, parent)
        found: dict[str, object] = _ask(question, netns, exclusive=exclusive)
    except BaseException as fault:  # noqa: BLE001  # a forked child has no caller to raise to
        found = {"fault": f"{type(fault).__name__}: {fault}"}
    if TIMELINE in os.environ:
        from ib_sriov_cni.telemetry.timeline import write_process

        write_process(f"the child of {parent}", "verify", start)
    try:
        os.write(answer, dumps(found).encode())
    finally:
        os._exit(0)


def _hold_only(wanted: set[int], parent: int) -> None:
    """Let go of the parent's files and end when it ends: one that hangs must keep no lock and no runtime waiting.

    Standard output is the runtime's, for one document (C5): what a library prints goes nowhere. A SIGTERM for the
    whole group is the parent's to undo.
    """
    import _signal  # type: ignore[import-not-found]  # signal itself brings enum

    from ib_sriov_cni.kernel import syscalls

    _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
    syscalls.end_with_parent(parent)
    nowhere = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1):
        os.dup2(nowhere, stream)
    # Not up to the limit of open files: under containerd that is 2^30, and close_range(2) came with 5.9.
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in wanted:
            try:
                os.close(int(name))
            except OSError:
                pass  # the listing's own


def _ask(question: int, netns: Netns, *, exclusive: bool) -> dict[str, object]:
    """Get everything ready, then wait for the question; its end without one is the parent's."""
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
        asked: Any = loads(os.read(question, QUESTION_MAX) or b"null")
    if asked is None:
        os._exit(0)
    with Span("open_device"):
        opened = _open(context_class, asked["device"])
    with opened as context:
        with Span("await_active"):
            port = _await_active(context, asked["wait"])
        table = port.pkey_tbl_len if asked["pkeys"] else 0
        return {
            "device": asked["device"],
            "node_guid": str(node_guid(context.query_device().node_guid)),
            "port_guid": str(context.query_gid(1, 0))[20:],
            "link_layer": int(port.link_layer),
            "state": int(port.state),
            "lid": int(port.lid),
            "sm_lid": int(port.sm_lid),
            "pkeys": [_host_order(context.query_pkey(1, index)) for index in range(table)],
        }


def _open(context: Any, device: str) -> Any:
    """Open the device, giving udev a moment to make or chmod the node of one that has just appeared.

    On a busy node libibverbs may miss it several times: its list is a dump, which leaves some out while others come
    and go (see Rdma.find_device). So time alone does not end the trying where each try takes long.
    """
    pause, deadline, tries = FIRST_PAUSE, time.monotonic() + 2, 0
    while True:
        try:
            return context(name=device)
        except Exception as fault:  # noqa: BLE001  # pyverbs' own: permission, or not there yet
            tries += 1
            if time.monotonic() > deadline and tries >= OPEN_TRIES:
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
