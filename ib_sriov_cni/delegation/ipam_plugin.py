"""Door to IPAM plugins: the bundled host-local runs in this process, any other one is executed from CNI_PATH (C10).

An executed plugin gets our environment, our standard input and a time limit (the configuration's ipamTimeout). Its
stderr goes to our log and our stderr. Source: libcni's pkg/invoke, specification 1.1.0 section 4.

If ipam.type were ib-sriov itself, each process would start the next one. So our own executable is refused, and a copy
of it refuses by itself: it finds DELEGATED in its environment (`cni.py`).
"""

from __future__ import annotations

import os

from ib_sriov_cni.core.configuration import MAX_SECONDS
from ib_sriov_cni.core.errors import AddressManagement, CniError
from ib_sriov_cni.delegation import DELEGATED, NOT_AN_IPAM_PLUGIN
from ib_sriov_cni.delegation.execute import run
from ipam.protocol.bounds import shorten
from ipam.protocol.fastjson import loads
from ipam.protocol.result import Result, parse_result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ib_sriov_cni.telemetry.log import Log
    from ipam.protocol.request import Request

BUNDLED = "host-local"
IPAM_NAMES = (BUNDLED, "ib-host-local")  # by which this program is an IPAM plugin (`__main__.py`)
# Its ADD takes up the interface in the pod, to look for conflicts; all others serve before the VF is touched.
NEED_INTERFACE = frozenset(("spiderpool",))
OWN_EXECUTABLE = "/proc/self/exe"
SECONDS = 90.0  # time limit without ipamTimeout
# How a plugin refuses a command that is newer than itself: CNI's skel with code 4, others with code 1 or these words.
NOT_KNOWN = (1, 4)
NOT_KNOWN_WORDS = "unknown CNI_COMMAND"
NOT_IMPLEMENTED_WORDS = "CHECK method is not implemented"  # whereabouts, and plugins that copied it
# How much is quoted of what a plugin says, in bytes.
OUTPUT_BYTES, ERROR_BYTES = 300, 2_000


class _Refusal(AddressManagement):
    """An executed plugin failed; `answer` is the code in its error document, None without one."""

    answer: object = None


def add_addresses(request: Request, kind: str, log: Log) -> Result:
    """Have the IPAM plugin `kind` reserve addresses, and return its result.

    Raises AddressManagement (104) if an executed plugin fails or its result is wrong; the bundled one raises CniError.
    """
    if kind == BUNDLED:
        from ipam.host_local.plugin import add

        return add(request)
    doc = _parse_answer(kind, _execute(request, kind, "ADD", log))
    try:
        result = parse_result(doc, request.version, of_ipam=True)
    except CniError as fault:
        words = _quote(fault.msg, ERROR_BYTES)
        raise AddressManagement(f"IPAM plugin {kind} ADD: its result is not valid: {words}") from None
    if not result.ips:
        raise AddressManagement(f"IPAM plugin {kind} ADD: its result has no address")
    return result


def delete_addresses(request: Request, kind: str, log: Log) -> None:
    """Have it release the attachment's addresses. Raises CniError (see `add_addresses`)."""
    if kind == BUNDLED:
        from ipam.host_local.plugin import delete

        delete(request)
    else:
        _release(request, kind, "DEL", log)


def check_addresses(request: Request, kind: str, log: Log) -> None:
    """Have it check that the attachment still has its addresses. Raises CniError (see `add_addresses`)."""
    if kind == BUNDLED:
        from ipam.host_local.plugin import check

        check(request)
        return
    try:
        _execute(request, kind, "CHECK", log)
    except _Refusal as refusal:
        if NOT_IMPLEMENTED_WORDS not in str(refusal):
            raise
        log.debug("the IPAM plugin has no CHECK", plugin=kind, answer=refusal.msg)


def collect_addresses(request: Request, kind: str, log: Log, live: Callable[[], Iterable[str]] = tuple) -> None:
    """Have it release the addresses of attachments that are not on the list of valid ones. Raises CniError.

    The bundled one calls `live` for the containers to keep after it has read its leases: an ADD that started after the
    list was made writes its record before its lease.
    """
    if kind == BUNDLED:
        from ipam.host_local.plugin import gc

        gc(request, live)
    else:
        _release(request, kind, "GC", log)


def ask_addresses(request: Request, kind: str, log: Log) -> None:
    """Have it check that it could reserve an address. Raises CniError."""
    if kind == BUNDLED:
        from ipam.host_local.plugin import status

        status(request)
    else:
        _execute_if_known(request, kind, "STATUS", log)


def find_plugin(kind: str, path: tuple[str, ...]) -> str:
    """Return the path of a plugin's executable.

    Raises AddressManagement (104), with the folders that were searched, or if it is our own executable.
    """
    if "/" in kind or "\0" in kind or kind in {".", ".."}:
        raise AddressManagement(f"ipam.type {kind!r} is not the name of a plugin")
    for folder in path:
        candidate = f"{folder}/{kind}"
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            if kind not in IPAM_NAMES and _is_own_executable(candidate):
                raise AddressManagement(
                    f"ipam.type {kind}: {NOT_AN_IPAM_PLUGIN}", "set ipam.type to host-local or another IPAM plugin"
                )
            return candidate
    raise AddressManagement(
        f"IPAM plugin {kind}: no executable of that name in CNI_PATH ({':'.join(path) or 'empty'})",
        "install it there, or use the bundled host-local",
    )


def _is_own_executable(path: str) -> bool:
    try:
        return os.path.samefile(path, OWN_EXECUTABLE)
    except OSError:
        return False  # it has just been removed, or there is no /proc


def _execute(request: Request, kind: str, command: str, log: Log) -> bytes:
    """Run the plugin and return its stdout. Raises AddressManagement, which quotes its output, if it fails."""
    program = find_plugin(kind, request.path)
    environ = {**request.environ, "CNI_COMMAND": command, DELEGATED: "1"}
    with log.step("delegate", plugin=kind, command=command) as step:
        status, out, err = run(program, environ, request.stdin, _time_limit(request))
        step.note(status=status, stderr=err.decode(errors="replace").strip()[-2000:])
    if err and log.where != "standard error":
        _forward_stderr(err)
    doc = _error_document(out)
    if status == 0 and doc is None:
        return out
    said = (out.strip() or err.strip()).decode(errors="replace")
    raise _refusal(kind, command, status, doc, _quote(said, OUTPUT_BYTES))


def _forward_stderr(err: bytes) -> None:
    """Write the plugin's stderr to ours (C10)."""
    try:
        os.write(2, err)
    except OSError:
        pass  # closed or full; the log has it


def _release(request: Request, kind: str, command: str, log: Log) -> None:
    """Run DEL or GC. ib-sriov itself, which has not reserved any address, need not release one."""
    try:
        if command == "DEL":
            _execute(request, kind, command, log)
        else:
            _execute_if_known(request, kind, command, log)
    except AddressManagement as refusal:
        if NOT_AN_IPAM_PLUGIN not in refusal.msg:
            raise
        log.warning("no addresses to release", plugin=kind, answer=refusal.msg)


def _execute_if_known(request: Request, kind: str, command: str, log: Log) -> None:
    """Run a command of version 1.1.0, and ignore that an older plugin does not know it."""
    try:
        _execute(request, kind, command, log)
    except _Refusal as refusal:
        if refusal.answer not in NOT_KNOWN and NOT_KNOWN_WORDS not in str(refusal):
            raise
        log.debug("the IPAM plugin does not know the command", plugin=kind, command=command, answer=refusal.msg)


def _time_limit(request: Request) -> float:
    """Return the time limit in seconds; a wrong ipamTimeout, which DEL accepts, means the default."""
    found = request.conf.get("ipamTimeout")
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 < found <= MAX_SECONDS:
        return SECONDS
    return float(found)


def _error_document(out: bytes) -> dict[str, object] | None:
    """Return the error document that a plugin printed, which is an error even if its exit status is 0."""
    try:
        doc = loads(out)
    except ValueError:
        return None
    return doc if isinstance(doc, dict) and "code" in doc and "ips" not in doc else None


def _refusal(kind: str, command: str, status: int | str, doc: dict[str, object] | None, said: str) -> _Refusal:
    if doc is None:
        words = f"exit status {status}" if isinstance(status, int) else status
        return _Refusal(f"IPAM plugin {kind} {command}: {words}" + (f": {said}" if said else " (no output)"))
    code, msg, details = [_quote(_text(doc.get(key)), ERROR_BYTES) for key in ("code", "msg", "details")]
    refusal = _Refusal(f"IPAM plugin {kind} {command}: code {code}: {msg}", details)
    refusal.answer = doc["code"]
    return refusal


def _text(found: object) -> str:
    return str(found) if isinstance(found, (str, int, float)) else ""


def _quote(text: str, most: int) -> str:
    """Return what a plugin said in one line, without control characters and cut to `most` bytes."""
    line = shorten(" ".join(text.split()), most)
    return line if line.isprintable() else "".join([c if c.isprintable() else f"\\u{ord(c):04x}" for c in line])


def _parse_answer(kind: str, out: bytes) -> object:
    try:
        return loads(out)
    except ValueError as fault:
        why, said = _quote(str(fault), OUTPUT_BYTES), _quote(out.decode(errors="replace"), OUTPUT_BYTES)
        raise AddressManagement(f"IPAM plugin {kind} ADD: its answer is not JSON ({why}): '{said}'") from None
