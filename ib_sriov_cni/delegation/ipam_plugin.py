"""Door to IPAM plugins: the bundled host-local runs in this process, any other one is executed from CNI_PATH (C10).

An executed plugin gets our environment, our standard input and a time limit (the configuration's ipamTimeout). Its
stderr goes to our log and our stderr. Source: libcni's pkg/invoke, specification 1.1.0 section 4.
"""

from __future__ import annotations

import os

from ib_sriov_cni.core.configuration import MAX_SECONDS
from ib_sriov_cni.core.errors import AddressManagement, CniError
from ib_sriov_cni.delegation.execute import run
from ipam.protocol.fastjson import loads
from ipam.protocol.result import Result, parse_result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ib_sriov_cni.telemetry.log import Log
    from ipam.protocol.request import Request

BUNDLED = "host-local"
SECONDS = 90.0  # time limit without ipamTimeout
# How a plugin refuses a command that is newer than itself: CNI's skel with code 4, others with code 1 or these words.
NOT_KNOWN = (1, 4)
NOT_KNOWN_WORDS = "unknown CNI_COMMAND"
NOT_IMPLEMENTED_WORDS = "CHECK method is not implemented"  # whereabouts, and plugins that copied it


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
        result = parse_result(doc, request.version)
    except CniError as fault:
        raise AddressManagement(f"IPAM plugin {kind} ADD: its result is not valid: {fault.msg}") from None
    if not result.ips:
        raise AddressManagement(f"IPAM plugin {kind} ADD: its result has no address")
    return result


def delete_addresses(request: Request, kind: str, log: Log) -> None:
    """Have it release the attachment's addresses. Raises CniError (see `add_addresses`)."""
    if kind == BUNDLED:
        from ipam.host_local.plugin import delete

        delete(request)
    else:
        _execute(request, kind, "DEL", log)


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
        _execute_if_known(request, kind, "GC", log)


def ask_addresses(request: Request, kind: str, log: Log) -> None:
    """Have it check that it could reserve an address. Raises CniError."""
    if kind == BUNDLED:
        from ipam.host_local.plugin import status

        status(request)
    else:
        _execute_if_known(request, kind, "STATUS", log)


def find_plugin(kind: str, path: tuple[str, ...]) -> str:
    """Return the path of a plugin's executable. Raises AddressManagement (104), with the folders that were searched."""
    if "/" in kind or "\0" in kind or kind in {".", ".."}:
        raise AddressManagement(f"ipam.type {kind!r} is not the name of a plugin")
    for folder in path:
        candidate = f"{folder}/{kind}"
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    raise AddressManagement(
        f"IPAM plugin {kind}: no executable of that name in CNI_PATH ({':'.join(path) or 'empty'})",
        "install it there, or use the bundled host-local",
    )


def _execute(request: Request, kind: str, command: str, log: Log) -> bytes:
    """Run the plugin and return its stdout. Raises AddressManagement, which quotes its output, if it fails."""
    program = find_plugin(kind, request.path)
    environ = {**request.environ, "CNI_COMMAND": command}
    with log.step("delegate", plugin=kind, command=command) as step:
        status, out, err = run(program, environ, request.stdin, _time_limit(request))
        step.note(status=status, stderr=err.decode(errors="replace").strip()[-2000:])
    if err and log.where != "standard error":
        _forward_stderr(err)
    doc = _error_document(out)
    if status == 0 and doc is None:
        return out
    raise _refusal(kind, command, status, doc, (out.strip() or err.strip()).decode(errors="replace")[:300])


def _forward_stderr(err: bytes) -> None:
    """Write the plugin's stderr to ours (C10)."""
    try:
        os.write(2, err)
    except OSError:
        pass  # closed or full; the log has it


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
    words = f"code {doc['code']}: {doc.get('msg', '')}"[:2000]
    refusal = _Refusal(f"IPAM plugin {kind} {command}: {words}", str(doc.get("details", ""))[:2000])
    refusal.answer = doc["code"]
    return refusal


def _parse_answer(kind: str, out: bytes) -> object:
    try:
        return loads(out)
    except ValueError as fault:
        said = out[:200].decode(errors="replace")
        raise AddressManagement(f"IPAM plugin {kind} ADD: its answer is not JSON ({fault}): {said!r}") from None
