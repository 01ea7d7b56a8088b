"""JSON with only CPython's C scanner and encoder: importing `json` costs 7.5 ms at start, mostly for `re`.

`_json` is private to CPython, so this module falls back to `json` where it is missing or has changed. It is stricter
than `json` where leniency would cause trouble later: no NaN or Infinity, no number beyond a double, no duplicate keys,
no unpaired surrogates (they cannot be written to a file or used in a path).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Scan = Callable[[str, int], tuple[object, int]]
    Encode = Callable[[object], str]


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"duplicate key {key[:80]!r}")
            seen.add(key)
    return members


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0:
        raise ValueError(f"number {text[:40]} is out of range")
    return number


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _no_object(obj: object) -> object:
    raise TypeError(f"{type(obj).__name__} cannot be written as JSON")


class _Options:
    """The attributes that the C scanner reads from its context."""

    strict = True
    object_hook = None
    object_pairs_hook = staticmethod(_unique)
    parse_float = staticmethod(_finite)
    parse_int = int
    parse_constant = staticmethod(_no_constant)
    memo: dict[str, str] = {}  # noqa: RUF012 - other versions' scanners read it, and never change it


def _native() -> tuple[Scan, Encode, Encode]:
    from _json import encode_basestring, encode_basestring_ascii, make_encoder, make_scanner

    def encoder(quote: Callable[[str], str]) -> Encode:
        # No markers (for circular references): the shared dictionary would keep entries after a failed call.
        chunks: Callable[[object, int], Iterable[str]] = make_encoder(
            None, _no_object, quote, None, ":", ",", False, False, False
        )
        return lambda obj: "".join(chunks(obj, 0))

    scan: Scan = make_scanner(_Options)  # type: ignore[arg-type]  # the C scanner reads only these attributes
    ascii_encode = encoder(encode_basestring_ascii)
    if scan('{"a":[1,2.5,null,"x"]}', 0) != ({"a": [1, 2.5, None, "x"]}, 22) or ascii_encode({"a": [1]}) != '{"a":[1]}':
        raise ImportError("_json has changed")
    return scan, ascii_encode, encoder(encode_basestring)


def _portable() -> tuple[Scan, Encode, Encode]:
    import json

    decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_constant)

    def encoder(*, ensure_ascii: bool) -> Encode:
        return json.JSONEncoder(ensure_ascii=ensure_ascii, allow_nan=False, separators=(",", ":")).encode

    scan: Scan = decoder.scan_once  # type: ignore[attr-defined]  # not in typeshed
    return scan, encoder(ensure_ascii=True), encoder(ensure_ascii=False)


try:
    _scan, _encode, _encode_plain = _native()
except (ImportError, TypeError, AttributeError, ValueError):
    _scan, _encode, _encode_plain = _portable()


def _reason(text: str) -> str:
    try:
        from json import loads as explain
    except ImportError:
        return "syntax error"
    try:
        explain(text)
    except ValueError as error:
        return str(error)
    return "syntax error"


def loads(text: bytes | str) -> object:
    """Return the value of one JSON document (UTF-8 if bytes). Raises ValueError with the reason on anything else."""
    if not isinstance(text, str):
        text = text.decode()
    elif not text.isascii():
        text.encode()
    text = text.strip(" \t\n\r")
    try:
        document, end = _scan(text, 0)
    except StopIteration as stop:
        raise ValueError(f"no JSON value at character {stop.value}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (SystemError, ImportError):  # the C scanner reports errors through json.decoder, which may not be loaded
        raise ValueError(_reason(text)) from None
    if end != len(text):
        raise ValueError(f"more than one value: extra data at character {end}")
    if "\\ud" in text or "\\uD" in text:
        _encode_plain(document).encode()
    return document


def dumps(obj: object) -> str:
    """Return compact ASCII JSON of dicts, lists, tuples and scalars. Raises TypeError or ValueError on others."""
    try:
        return _encode(obj)
    except RecursionError:
        raise ValueError("nested too deeply") from None
