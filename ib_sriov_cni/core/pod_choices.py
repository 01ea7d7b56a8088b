"""What a pod may choose for itself: the key podMayChoose of the network configuration. No I/O.

A pod's annotation reaches the plugin in runtimeConfig (capabilities), args.cni (`cni-args`) and CNI_ARGS. What the key
does not list is refused, or ignored where an attachment is released, for this plugin and its IPAM plugin alike.
"""

from __future__ import annotations

from ib_sriov_cni.core.known_keys import GUID_SOURCES, PKEY_SOURCES
from ib_sriov_cni.core.values import describe_value
from ipam.protocol.fastjson import dumps
from ipam.protocol.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ib_sriov_cni.core.known_keys import Source
    from ipam.protocol.request import Request

KEY = "podMayChoose"
# Word -> where the value can be. Case does not matter: to an IPAM plugin written in Go, "IPs" is "ips" (encoding/json).
SOURCES: dict[str, tuple[Source, ...]] = {
    "guid": tuple([source for source in GUID_SOURCES if len(source) > 1]),
    "pkey": tuple([source for source in PKEY_SOURCES if len(source) > 1]),
    "ips": (("runtimeConfig", "ips"), ("args", "cni", "ips"), ("CNI_ARGS", "IP")),
    "mac": (("runtimeConfig", "mac"), ("args", "cni", "mac"), ("CNI_ARGS", "MAC")),
}
WORDS = tuple(SOURCES)
_NOTHING: tuple[object, ...] = (None, "", [])  # what counts as not chosen
EXPECTED = f"a list of words out of {', '.join(WORDS)}"


def parse_choices(found: object, faults: list[str]) -> tuple[str, ...]:
    """Return what a pod may choose, in the order of WORDS: everything if the key is absent.

    A wrong value is added to `faults`; of a list, the words that are known remain.
    """
    if found is None:
        return WORDS
    if not isinstance(found, list):
        faults.append(f"{KEY} must be {EXPECTED} (got {describe_value(found)})")
        return WORDS
    unknown = [item for item in found if not (isinstance(item, str) and item in WORDS)]
    if unknown:
        faults.append(f"{KEY} must be {EXPECTED} (got {describe_value(unknown[0])})")
    return tuple([word for word in WORDS if word in found])


def restrict_choices(request: Request, faults: list[str]) -> Request:
    """Return the request without the values that its pod must not choose: in conf and args, stdin and environ.

    A fault for each of them is added to `faults`. ADD and CHECK are refused with these faults (parse_netconf); DEL and
    GC go on with the returned request.
    """
    conf = request.conf
    if conf.get(KEY) is None:
        return request
    forbidden = [word for word in WORDS if word not in parse_choices(conf[KEY], [])]
    runtime, args = _object(conf.get("runtimeConfig")), _object(conf.get("args"))
    holders: tuple[tuple[str, Mapping[str, object]], ...] = (
        ("runtimeConfig", runtime),
        ("args.cni", _object(args.get("cni"))),
        ("CNI_ARGS", request.args),
    )
    found: list[set[str]] = []  # keys to drop from each holder
    for place, holder in holders:
        words = {
            source[-1].casefold(): word
            for word in forbidden
            for source in SOURCES[word]
            if ".".join(source[:-1]) == place
        }
        keys = {key for key, chosen in holder.items() if key.casefold() in words and chosen not in _NOTHING}
        mark = " " if place == "CNI_ARGS" else "."
        faults += [
            f"{place}{mark}{key} must be left out: {KEY} does not list {words[key.casefold()]}" for key in sorted(keys)
        ]
        found.append(keys)
    return _without(request, *found) if any(found) else request


def _without(request: Request, from_runtime: set[str], from_args: set[str], from_cni_args: set[str]) -> Request:
    conf, environ = dict(request.conf), dict(request.environ)
    if from_runtime:
        conf["runtimeConfig"] = _drop(_object(conf["runtimeConfig"]), from_runtime)
    if from_args:
        args = _object(conf["args"])
        conf["args"] = {**args, "cni": _drop(_object(args["cni"]), from_args)}
    if from_cni_args:
        pairs = environ.get("CNI_ARGS", "").split(";")
        environ["CNI_ARGS"] = ";".join([pair for pair in pairs if pair.partition("=")[0] not in from_cni_args])
    return replace(
        request,
        conf=conf,
        args={key: text for key, text in request.args.items() if key not in from_cni_args},
        environ=environ,
        stdin=dumps(conf).encode() if from_runtime or from_args else request.stdin,
    )


def _object(found: object) -> dict[str, object]:
    return found if isinstance(found, dict) else {}


def _drop(holder: dict[str, object], names: set[str]) -> dict[str, object]:
    return {key: found for key, found in holder.items() if key not in names}
