"""What a runtime asks of a CNI plugin: environment and standard input to a Request, with no effect (C1-C6, C19)."""

from __future__ import annotations

from ipam.protocol.errors import (
    DecodingFailure,
    IncompatibleVersion,
    InvalidConfiguration,
    InvalidEnvironment,
    UnknownContainer,
)
from ipam.protocol.fastjson import loads
from ipam.protocol.value import Value
from ipam.protocol.versions import VERSIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

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
_NAME_MAX = 255  # of a file, in bytes, on every file system of Linux
_DEPTH_MAX = 200  # what was read must also be written again: to a record, to a delegate
_IFNAME_MAX = 15  # IFNAMSIZ less the final zero byte
_TRUE = ("1", "true")
_FALSE = ("0", "false")


class Request(Value):
    """One invocation.

    `version` is the configuration's cniVersion, one of VERSIONS; `path` the folders of CNI_PATH; `args` the
    pairs of CNI_ARGS; `conf` the network configuration; `environ` and `stdin` are as they came, for delegates.
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
    """Compare two versions of the specification, such as "0.3.1" and "1.0.0"."""
    return _numbers(version) >= _numbers(least)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple([int(part) for part in version.split(".")])


def is_name(text: str) -> bool:
    """Tell whether `text` may name a container or a network (C3)."""
    return text != "" and text[0] in _ALPHANUMERIC and _NAME.issuperset(text)


def parse_request(environ: Mapping[str, str], stdin: bytes, *, known_args: frozenset[str]) -> Request:
    """Read environment and standard input; CniError of the code that C1 to C6 give, naming every fault."""
    command = _parse_command(environ)
    if command == "VERSION":
        return Request(command=command, args={}, conf={}, version=VERSIONS[-1], environ=dict(environ), stdin=stdin)
    _check_environment(command, environ)
    conf = parse_configuration(stdin)
    version = parse_version(conf, command)
    _check_configuration(conf)
    return Request(
        command=command,
        container_id=environ.get("CNI_CONTAINERID", ""),
        netns=environ.get("CNI_NETNS", ""),
        ifname=environ.get("CNI_IFNAME", ""),
        path=tuple([folder for folder in environ.get("CNI_PATH", "").split(":") if folder]),
        args=parse_args(environ.get("CNI_ARGS", ""), known_args, lenient=command not in ("ADD", "CHECK")),
        conf=conf,
        version=version,
        environ=dict(environ),
        stdin=stdin,
    )


def _parse_command(environ: Mapping[str, str]) -> str:
    command = environ.get("CNI_COMMAND", "")
    if command and command not in COMMANDS:
        raise InvalidEnvironment(f"unknown CNI_COMMAND {command[:40]!r}", f"one of {', '.join(COMMANDS)}")
    if not command:
        raise InvalidEnvironment("required environment variables missing: CNI_COMMAND")
    return command


def _check_environment(command: str, environ: Mapping[str, str]) -> None:
    missing = [name for name in _REQUIRED.get(command, ()) if not environ.get(name)]
    if missing == ["CNI_CONTAINERID"] and "CNI_CONTAINERID" in environ:
        raise UnknownContainer("CNI_CONTAINERID is empty")
    if missing:
        raise InvalidEnvironment(f"required environment variables missing: {', '.join(missing)}")
    if "CNI_IFNAME" not in _REQUIRED.get(command, ()):
        return
    faults = _container_faults(environ["CNI_CONTAINERID"]) + _ifname_faults(environ["CNI_IFNAME"])
    if command in ("ADD", "CHECK"):
        # Both are written down, as JSON. What was never attached with them, a DEL need not refuse.
        faults += [f"{name} is not UTF-8" for name in ("CNI_NETNS", "CNI_ARGS") if not _is_text(environ.get(name, ""))]
    if faults:
        raise InvalidEnvironment("; ".join(faults))


def _container_faults(container: str) -> list[str]:
    if is_name(container):
        return []
    return [f"CNI_CONTAINERID {container[:80]!r}: only letters, digits, '_', '.', '-', the first a letter or digit"]


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


def parse_configuration(stdin: bytes) -> dict[str, object]:
    """Give the network configuration; DecodingFailure if it is not a JSON object (C4)."""
    try:
        conf = loads(stdin)
    except ValueError as error:
        raise DecodingFailure(f"network configuration on standard input is not JSON: {error}") from None
    if not isinstance(conf, dict):
        raise DecodingFailure(f"network configuration on standard input is {_kind(conf)}, not an object")
    if stdin.count(b"{") + stdin.count(b"[") > _DEPTH_MAX and _is_deeper(conf, _DEPTH_MAX):
        raise DecodingFailure(f"network configuration on standard input is nested deeper than {_DEPTH_MAX} levels")
    return conf


def _is_deeper(document: object, levels: int) -> bool:
    """Whether lists and objects are nested deeper than that, without recursion of our own."""
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
    """Give the configuration's version; IncompatibleVersion if it is none of ours or too old for `command` (C6)."""
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


def _check_configuration(conf: Mapping[str, object]) -> None:
    faults = []
    name = conf.get("name")
    if name is None or name == "":
        faults.append("name is missing")
    elif not isinstance(name, str):
        faults.append(f"name is {_kind(name)}, not a string")
    elif not is_name(name):
        faults.append(f"name {name[:80]!r}: only letters, digits, '_', '.', '-', the first a letter or digit")
    elif len(name) > _NAME_MAX:
        faults.append(f"name is {len(name)} characters long, more than the {_NAME_MAX} of a file name")
    faults += _object_faults(conf, ("ipam", "runtimeConfig", "args", "prevResult", "dns", "capabilities"), "")
    if isinstance(conf.get("args"), dict):
        faults += _object_faults(conf["args"], ("cni",), "args.")  # type: ignore[arg-type]  # keys of JSON objects
    if conf.get("type") is not None and not isinstance(conf["type"], str):
        faults.append(f"type is {_kind(conf['type'])}, not a string")
    if faults:
        raise InvalidConfiguration("; ".join(faults))


def _object_faults(conf: Mapping[str, object], keys: tuple[str, ...], prefix: str) -> list[str]:
    wrong = [key for key in keys if conf.get(key) is not None and not isinstance(conf[key], dict)]
    return [f"{prefix}{key} is {_kind(conf[key])}, not an object" for key in wrong]


def _kind(value_of: object) -> str:
    kinds = {"NoneType": "null", "bool": "a boolean", "str": "a string", "list": "a list", "dict": "an object"}
    return kinds.get(type(value_of).__name__, "a number")


def parse_args(text: str, known: frozenset[str], *, lenient: bool = False) -> dict[str, str]:
    """Give the pairs of CNI_ARGS, "K=V;K=V"; InvalidEnvironment on malformed or unknown ones (C19).

    Lenient, faults are passed over: they must not keep a DEL from releasing.
    """
    args: dict[str, str] = {}
    faults = []
    for pair in text.split(";") if text else ():
        key, sign, content = pair.partition("=")
        if not sign or "=" in content:
            faults.append(f"{pair[:80]!r} is not of the form K=V")
        else:
            args[key] = content
    ignore = args.get("IgnoreUnknown", "false").lower()
    if ignore not in _TRUE + _FALSE:
        faults.append(f"IgnoreUnknown={ignore[:40]} is neither 1 or true nor 0 or false")
    elif ignore not in _TRUE:
        faults += [f"{key} is unknown" for key in args if key not in known and key != "IgnoreUnknown"]
    if faults and not lenient:
        raise InvalidEnvironment(f"CNI_ARGS: {'; '.join(faults)}")
    return args
