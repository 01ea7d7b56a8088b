"""Door to IPAM plugins: the bundled host-local in process, any other executed from CNI_PATH (C10).

An executed plugin gets our environment and our standard input, a time limit (the configuration's ipamTimeout), and a
clean LD_LIBRARY_PATH; its stderr goes to our log. Source: libcni's pkg/invoke, specification 1.1.0 section 4.
"""

from __future__ import annotations

import os
import sys

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
SECONDS = 90.0  # unless the configuration says ipamTimeout
# What a plugin answers that is older than the command: skel gives 4, others 1 or these words alone.
NOT_KNOWN = (1, 4)
NOT_KNOWN_WORDS = "unknown CNI_COMMAND"
NOT_IMPLEMENTED_WORDS = "CHECK method is not implemented"  # whereabouts, and others made after it


class _Refusal(AddressManagement):
    """What an executed plugin answered; `answer` is the code of its error document, None without one."""

    answer: object = None


def add_addresses(request: Request, kind: str, log: Log) -> Result:
    """Have the IPAM plugin `kind` reserve addresses. Raises CniError, AddressManagement (104) for what it answers."""
    if kind == BUNDLED:
        from ipam.host_local.plugin import add

        return add(request)
    doc = _answer(kind, _execute(request, kind, "ADD", log))
    try:
        result = parse_result(doc, request.version)
    except CniError as fault:
        raise AddressManagement(f"IPAM plugin {kind} ADD: its result is not one: {fault.msg}") from None
    if not result.ips:
        raise AddressManagement(f"IPAM plugin {kind} ADD: its result has no address")
    return result


def delete_addresses(request: Request, kind: str, log: Log) -> None:
    """Have it release what the attachment holds."""
    if kind == BUNDLED:
        from ipam.host_local.plugin import delete

        delete(request)
    else:
        _execute(request, kind, "DEL", log)


def check_addresses(request: Request, kind: str, log: Log) -> None:
    """Have it say whether the attachment still holds its addresses."""
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
    """Have it release what is not on the list of valid attachments.

    The bundled one asks for the `live` containers once more when it has read its leases: an ADD that came since the
    list was made has its record before its lease.
    """
    if kind == BUNDLED:
        from ipam.host_local.plugin import gc

        gc(request, live)
    else:
        _execute_if_known(request, kind, "GC", log)


def ask_addresses(request: Request, kind: str, log: Log) -> None:
    """Have it say whether it could reserve an address."""
    if kind == BUNDLED:
        from ipam.host_local.plugin import status

        status(request)
    else:
        _execute_if_known(request, kind, "STATUS", log)


def find_plugin(kind: str, path: tuple[str, ...]) -> str:
    """Give the executable of a plugin type. AddressManagement (104) names the folders it is not in."""
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
    """Run the plugin; gives its stdout. AddressManagement quotes what it said if it failed."""
    program = find_plugin(kind, request.path)
    environ = {**request.environ, "CNI_COMMAND": command}
    if hasattr(sys, "_MEIPASS"):
        environ = _without_bootloader(environ)
    with log.step("delegate", plugin=kind, command=command) as step:
        status, out, err = run(program, environ, request.stdin, _seconds(request))
        step.note(status=status, stderr=err.decode(errors="replace").strip()[-2000:])
    if err and log.where != "standard error":
        _hand_on(err)
    doc = _error_document(out)
    if status == 0 and doc is None:
        return out
    raise _refusal(kind, command, status, doc, (out.strip() or err.strip()).decode(errors="replace")[:300])


def _without_bootloader(environ: dict[str, str]) -> dict[str, str]:
    """Take back what PyInstaller's bootloader put there for itself; the plugin must see what we were given."""
    given = {name: value for name, value in environ.items() if not name.startswith("_PYI_")}
    original = given.pop("LD_LIBRARY_PATH_ORIG", None)
    if original is None:
        given.pop("LD_LIBRARY_PATH", None)
    else:
        given["LD_LIBRARY_PATH"] = original
    return given


def _hand_on(err: bytes) -> None:
    """What it wrote to its standard error reaches ours (C10)."""
    try:
        os.write(2, err)
    except OSError:
        pass  # closed, or full: the log has it


def _execute_if_known(request: Request, kind: str, command: str, log: Log) -> None:
    """Run a command that came with version 1.1.0; a plugin that is older has nothing to say to it."""
    try:
        _execute(request, kind, command, log)
    except _Refusal as refusal:
        if refusal.answer not in NOT_KNOWN and NOT_KNOWN_WORDS not in str(refusal):
            raise
        log.debug("the IPAM plugin does not know the command", plugin=kind, command=command, answer=refusal.msg)


def _seconds(request: Request) -> float:
    """Give the time limit; a DEL is served with whatever stands in its configuration."""
    found = request.conf.get("ipamTimeout")
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 < found <= MAX_SECONDS:
        return SECONDS
    return float(found)


def _error_document(out: bytes) -> dict[str, object] | None:
    """Give the error document a plugin printed; it counts even where the plugin ended with status 0."""
    try:
        doc = loads(out)
    except ValueError:
        return None
    return doc if isinstance(doc, dict) and "code" in doc and "ips" not in doc else None


def _refusal(kind: str, command: str, status: int | str, doc: dict[str, object] | None, said: str) -> _Refusal:
    if doc is None:
        return _Refusal(f"IPAM plugin {kind} {command}: ended with {status}: {said or 'it said nothing'}")
    words = f"code {doc['code']}: {doc.get('msg', '')}"[:2000]
    refusal = _Refusal(f"IPAM plugin {kind} {command}: {words}", str(doc.get("details", ""))[:2000])
    refusal.answer = doc["code"]
    return refusal


def _answer(kind: str, out: bytes) -> object:
    try:
        return loads(out)
    except ValueError as fault:
        said = out[:200].decode(errors="replace")
        raise AddressManagement(f"IPAM plugin {kind} ADD: its answer is not JSON ({fault}): {said!r}") from None
