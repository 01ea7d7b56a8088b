"""Parse what a runtime asks of a CNI plugin: environment and standard input to a Request. No I/O (C1-C6, C19)."""

from __future__ import annotations

from ipam.protocol.bounds import JSON_LEVELS, VALID_ATTACHMENTS, describe_excess, join_faults
from ipam.protocol.errors import (
    DecodingFailure,
    IncompatibleVersion,
    InvalidConfiguration,
    InvalidEnvironment,
    UnknownContainer,
)
from ipam.protocol.fastjson import loads
from ipam.protocol.spelling import CONFIGURATION, respell
from ipam.protocol.value import Value
from ipam.protocol.versions import VERSIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ipam.protocol.spelling import Names

# Where GC's list of valid attachments is; the second is an older name.
VALID_KEYS = ("cni.dev/valid-attachments", "cni.dev/attachments")
COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")

_SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
_ATTACHMENT = ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH")
_REQUIRED = {
    "ADD": _ATTACHMENT,
    "CHECK": _ATTACHMENT,
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    "GC": ("CNI_PATH",),
}
_ALPHANUMERIC = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_NAME = _ALPHANUMERIC | frozenset("_.-")
_NAME_RULE = "must start with a letter or digit and contain only letters, digits, '_', '.' and '-'"
_NAME_MAX = 255  # bytes in a file name, on every file system of Linux
_IFNAME_MAX = 15  # bytes; IFNAMSIZ without the final NUL
_BY_HAND = "the runtime sets these; by hand, use `ib-sriov add`"
_TRUE = ("1", "true")
_FALSE = ("0", "false")


class Request(Value):
    """One invocation.

    `version` is the configuration's cniVersion, one of VERSIONS; `path` the folders in CNI_PATH; `args` the pairs in
    CNI_ARGS; `conf` the network configuration, with keys in their usual case. `environ` and `stdin` are unchanged, for
    delegates.

    Bytes that are not UTF-8, which a DEL may bring, are U+FFFD in `container_id`, `ifname` and `args`, and surrogates
    (PEP 383) in `netns`, `path` and `environ`.
    """

    command: str
    container_id: str = ""
    netns: str = ""
    ifname: str = ""
    path: tuple[str, ...] = ()
    args: dict[str, str]
    conf: dict[str, object]
    version: str
    environ: dict[str, str]
    stdin: bytes = b""


def version_at_least(version: str, least: str) -> bool:
    """Return whether a version of the specification, such as "0.3.1", is `least` or later."""
    return _numbers(version) >= _numbers(least)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple([int(part) for part in version.split(".")])


def is_name(text: str) -> bool:
    """Return whether `text` is a valid name of a container or network (C3)."""
    return text != "" and text[0] in _ALPHANUMERIC and _NAME.issuperset(text)


def parse_request(
    environ: Mapping[str, str], stdin: bytes, *, known_args: frozenset[str], names: Names = CONFIGURATION
) -> Request:
    """Return the request in environment and standard input. `names` are the keys that are read in any case.

    Raises a CniError that lists all faults of its kind: IncompatibleVersion (1), UnknownContainer (3),
    InvalidEnvironment (4), DecodingFailure (6) or InvalidConfiguration (7), as C1 to C6 say.
    """
    command = _parse_command(environ)
    if command == "VERSION":
        return Request(command=command, args={}, conf={}, version=VERSIONS[-1], environ=dict(environ), stdin=stdin)
    _check_environment(command, environ)
    faults: list[str] = []
    conf = respell(parse_configuration(stdin), names, faults)
    version = parse_version(conf, command)
    # DEL and GC must not fail because of a key that is there twice.
    _check_configuration(conf, [] if command in ("DEL", "GC") else faults)
    return Request(
        command=command,
        container_id=_as_text(environ.get("CNI_CONTAINERID", "")),
        netns=environ.get("CNI_NETNS", ""),
        ifname=_as_text(environ.get("CNI_IFNAME", "")),
        path=tuple([folder for folder in environ.get("CNI_PATH", "").split(":") if folder]),
        args=parse_args(_as_text(environ.get("CNI_ARGS", "")), known_args, lenient=command not in ("ADD", "CHECK")),
        conf=conf,
        version=version,
        environ=dict(environ),
        stdin=stdin,
    )


def _parse_command(environ: Mapping[str, str]) -> str:
    command = environ.get("CNI_COMMAND", "")
    if command and command not in COMMANDS:
        raise InvalidEnvironment(f"unknown CNI_COMMAND {command[:40]!r}", f"it must be one of {', '.join(COMMANDS)}")
    if not command:
        raise InvalidEnvironment("required environment variables missing: CNI_COMMAND", _BY_HAND)
    return command


def _check_environment(command: str, environ: Mapping[str, str]) -> None:
    missing = [name for name in _REQUIRED.get(command, ()) if not environ.get(name)]
    if missing == ["CNI_CONTAINERID"] and "CNI_CONTAINERID" in environ:
        raise UnknownContainer("CNI_CONTAINERID is empty", _BY_HAND)
    if missing:
        raise InvalidEnvironment(f"required environment variables missing: {', '.join(missing)}", _BY_HAND)
    if "CNI_IFNAME" not in _REQUIRED.get(command, ()):
        return
    ifname = environ["CNI_IFNAME"]
    faults = _container_faults(environ["CNI_CONTAINERID"]) + _ifname_faults(ifname)
    if command in ("ADD", "CHECK"):
        if "%" in ifname:  # dev_get_valid_name() in net/core/dev.c: net%d is a template, any other % is an error
            faults.append(f"CNI_IFNAME {ifname[:40]!r}: contains '%', which the kernel replaces or refuses")
        netns = environ["CNI_NETNS"]
        if not netns.startswith("/"):
            faults.append(f"CNI_NETNS {netns[:80]!r} is not an absolute path")
        # ADD writes them to its record, as JSON. DEL accepts them: it must not fail.
        texts = ("CNI_IFNAME", "CNI_NETNS", "CNI_ARGS")
        faults += [f"{name} is not UTF-8" for name in texts if not _is_text(environ.get(name, ""))]
    if faults:
        raise InvalidEnvironment(join_faults(faults), _BY_HAND)


def _container_faults(container: str) -> list[str]:
    if is_name(container):
        return []
    return [f"CNI_CONTAINERID {container[:80]!r} {_NAME_RULE}"]


def _ifname_faults(ifname: str) -> list[str]:
    from os import fsencode

    faults = []
    if len(fsencode(ifname)) > _IFNAME_MAX:
        faults.append(f"longer than {_IFNAME_MAX} bytes")
    if ifname in (".", ".."):
        faults.append("reserved")
    if any(letter in "/:" or letter.isspace() for letter in ifname):
        faults.append("contains '/', ':' or white space")
    return [f"CNI_IFNAME {ifname[:40]!r}: {fault}" for fault in faults]


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_text(text: str) -> str:
    """Return a variable's text with U+FFFD for bytes that are not UTF-8."""
    return text if text.isascii() else text.encode(errors="surrogateescape").decode(errors="replace")


def parse_configuration(stdin: bytes) -> dict[str, object]:
    """Return the network configuration. Raises DecodingFailure (6) if it is not a JSON object (C4)."""
    if not stdin.strip():
        raise DecodingFailure("network configuration on standard input is not JSON: it is empty", _BY_HAND)
    try:
        conf = loads(stdin)
    except ValueError as error:
        raise DecodingFailure(f"network configuration on standard input is not JSON: {error}") from None
    if not isinstance(conf, dict):
        raise DecodingFailure(f"network configuration on standard input is {_kind(conf)}, not an object")
    if stdin.count(b"{") + stdin.count(b"[") > JSON_LEVELS and _is_deeper(conf, JSON_LEVELS):
        raise DecodingFailure(f"network configuration on standard input is nested deeper than {JSON_LEVELS} levels")
    return conf


def _is_deeper(document: object, levels: int) -> bool:
    """Return whether lists and objects are nested deeper than `levels`. Does not recurse."""
    row = [document]
    for _ in range(levels + 1):
        row = [
            inner
            for item in row
            if isinstance(item, (dict, list))
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not row:
            return False
    return True


def parse_version(conf: Mapping[str, object], command: str) -> str:
    """Return the configuration's version. Raises IncompatibleVersion (1): unknown, or too old for `command` (C6)."""
    version = conf.get("cniVersion")
    if version in (None, ""):
        version = VERSIONS[0]
    if not isinstance(version, str) or version not in VERSIONS:
        raise IncompatibleVersion(
            f"cniVersion {str(version)[:40]!r} is not supported", f"supported: {', '.join(VERSIONS)}"
        )
    since = _SINCE.get(command, VERSIONS[0])
    if not version_at_least(version, since):
        raise IncompatibleVersion(f"{command} needs cniVersion {since} or later, the configuration has {version}")
    return version


def _check_configuration(conf: Mapping[str, object], faults: list[str]) -> None:
    name = conf.get("name")
    if name is None or name == "":
        faults.append("name is missing")
    elif not isinstance(name, str):
        faults.append(f"name is {_kind(name)}, not a string")
    elif not is_name(name):
        faults.append(f"name {name[:80]!r} {_NAME_RULE}")
    elif len(name) > _NAME_MAX:
        faults.append(f"name must have at most {_NAME_MAX} characters (got {len(name)})")
    faults += _object_faults(conf, ("ipam", "runtimeConfig", "args", "prevResult", "dns", "capabilities"), "")
    if isinstance(conf.get("args"), dict):
        faults += _object_faults(conf["args"], ("cni",), "args.")  # type: ignore[arg-type]  # a JSON object has string keys
    if conf.get("type") is not None and not isinstance(conf["type"], str):
        faults.append(f"type is {_kind(conf['type'])}, not a string")
    if faults:
        raise InvalidConfiguration(join_faults(faults))


def _object_faults(conf: Mapping[str, object], keys: tuple[str, ...], prefix: str) -> list[str]:
    wrong = [key for key in keys if conf.get(key) is not None and not isinstance(conf[key], dict)]
    return [f"{prefix}{key} is {_kind(conf[key])}, not an object" for key in wrong]


def _kind(document: object) -> str:
    kinds = {"NoneType": "null", "bool": "a boolean", "str": "a string", "list": "a list", "dict": "an object"}
    return kinds.get(type(document).__name__, "a number")


def find_valid_attachments(conf: Mapping[str, object]) -> list[object]:
    """Return GC's list of valid attachments. A missing list is an error, not an empty list (C16).

    Raises InvalidConfiguration (7), also for a list above VALID_ATTACHMENTS.
    """
    key = VALID_KEYS[0]
    listed = next((conf[name] for name in VALID_KEYS if conf.get(name) is not None), None)
    if not isinstance(listed, list):
        raise InvalidConfiguration(f"{key} is not a list", "nothing was released")
    if len(listed) > VALID_ATTACHMENTS:
        excess = describe_excess(key, "attachments", len(listed), VALID_ATTACHMENTS)
        raise InvalidConfiguration(excess, "nothing was released")
    return listed


def parse_args(text: str, known: frozenset[str], *, lenient: bool = False) -> dict[str, str]:
    """Return the pairs in CNI_ARGS, "K=V;K=V". Raises InvalidEnvironment (4) for malformed or unknown ones (C19).

    `lenient` ignores faults: they must not prevent a DEL.
    """
    args: dict[str, str] = {}
    faults = []
    for pair in text.split(";") if text else ():
        key, sign, content = pair.partition("=")
        if not sign or "=" in content:
            faults.append(f"{pair[:80]!r} does not have the form K=V")
        else:
            args[key] = content
    ignore = args.get("IgnoreUnknown", "false").lower()
    if ignore not in _TRUE + _FALSE:
        faults.append(f"IgnoreUnknown must be 1, true, 0 or false (got {ignore[:40]})")
    elif ignore not in _TRUE:
        faults += [f"{key[:80]} is unknown" for key in args if key not in known and key != "IgnoreUnknown"]
    if faults and not lenient:
        raise InvalidEnvironment(f"CNI_ARGS: {join_faults(faults)}", _BY_HAND)
    return args
