"""A shorter start for CNI commands: what it replaces are the two thirds of the interpreter's start that they never use.

main.c runs it when the interpreter's core is there and nothing has been imported yet. A CNI command imports ninety
modules, nearly all of them frozen or built in, on one thread, and ends; so

- such a module is imported without the general import system: no finders are asked, no specification is passed from
  one to the next, no lock is taken (importlib takes 100,000 instructions for an empty module, this takes 8,000);
- what importlib needs to read files and archives is loaded by the first import of anything else;
- the interpreter opens the standard streams by the stand-ins below for `io` and `encodings`. Both are removed when it
  has started (_ib_sriov_start.py): who imports them then gets the real ones.

The command line and the agent start as Python always does.
"""

from __future__ import annotations

import _codecs  # type: ignore[import-not-found]  # no stubs
import _frozen_importlib
import _imp
import _io
import sys

import _ib_sriov  # type: ignore[import-not-found]  # main.c's

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class _Module(type(sys)):  # type: ignore[misc]
    """A module without module's own lookup of attributes, which makes two texts for an error that nobody sees.

    `from X import Y` looks for X.__path__ each time.
    """

    __getattribute__ = object.__getattribute__


_modules = sys.modules
_load_other = _frozen_importlib._find_and_load  # type: ignore[attr-defined]  # noqa: SLF001
_install_importers = _frozen_importlib._install_external_importers  # type: ignore[attr-defined]  # noqa: SLF001


def _find_and_load(name: str, import_: Callable[[str], object]) -> Any:
    """Stand in for importlib's function: import a module that is not in sys.modules, or is None there."""
    found = None if name in _modules else _imp.find_frozen(name)  # type: ignore[attr-defined]
    if found is None and (name in _modules or not _imp.is_builtin(name)):
        return _load_by_importlib(name, import_)
    parent, _, child = name.rpartition(".")
    if parent:
        if parent not in _modules:
            import_(parent)
            if name in _modules:
                return _modules[name]
        if not hasattr(_modules[parent], "__path__"):
            return _load_by_importlib(name, import_)  # which says what is wrong
    module = _load_builtin(name) if found is None else _load_frozen(name, is_package=found[1])
    if parent:
        setattr(_modules[parent], child, module)
    return module


def _load_builtin(name: str) -> Any:
    loader = _frozen_importlib.BuiltinImporter
    spec = _frozen_importlib.ModuleSpec(name, loader, origin="built-in")
    spec._initializing = False  # type: ignore[attr-defined]  # noqa: SLF001  # each import of the module asks
    module = _imp.create_builtin(spec)
    module.__loader__, module.__spec__, module.__package__ = loader, spec, name.rpartition(".")[0]
    _modules[name] = module
    try:
        _imp.exec_builtin(module)
    except BaseException:
        _modules.pop(name, None)
        raise
    return _modules[name]


def _load_frozen(name: str, *, is_package: bool) -> Any:
    loader = _frozen_importlib.FrozenImporter
    spec = _frozen_importlib.ModuleSpec(name, loader, origin="frozen", is_package=is_package)
    spec._initializing = False  # type: ignore[attr-defined]  # noqa: SLF001  # see above
    module = _Module(name)
    module.__loader__, module.__spec__ = loader, spec
    module.__package__ = name if is_package else name.rpartition(".")[0]
    if is_package:
        module.__path__ = spec.submodule_search_locations  # type: ignore[assignment]
    folder = sys._stdlib_dir  # type: ignore[attr-defined]  # noqa: SLF001
    if folder:
        path = f"{folder}/{name.replace('.', '/')}"
        module.__file__ = f"{path}/__init__.py" if is_package else f"{path}.py"
        if is_package:
            module.__path__.append(path)
    _modules[name] = module
    try:
        exec(_imp.get_frozen_object(name), module.__dict__)  # noqa: S102  # as importlib does
    except BaseException:
        _modules.pop(name, None)
        raise
    if "__getattr__" in module.__dict__:
        module.__class__ = type(sys)  # whose lookup calls it
    return _modules[name]


def _load_by_importlib(name: str, import_: Callable[[str], object]) -> Any:
    """Import anything else, or raise what importlib raises."""
    global _install_importers
    if _install_importers is not None:
        install, _install_importers = _install_importers, None
        install()
        _ib_sriov.install_zipimport()
    return _load_other(name, import_)


class _Encoder:
    """An incremental encoder, as codecs.IncrementalEncoder describes it."""

    def __init__(self, errors: str = "strict") -> None:
        self.errors = errors

    def encode(self, text: str, final: bool = False) -> bytes:  # noqa: ARG002, FBT001, FBT002  # called by position
        data: bytes = _codecs.utf_8_encode(text, self.errors)[0]
        return data

    def reset(self) -> None:
        pass

    def getstate(self) -> int:
        return 0

    def setstate(self, state: int) -> None:
        pass


class _Decoder:
    """An incremental decoder, as codecs.IncrementalDecoder describes it."""

    def __init__(self, errors: str = "strict") -> None:
        self.errors = errors
        self.rest = b""

    def decode(self, data: bytes, final: bool = False) -> str:  # noqa: FBT001, FBT002  # called by position
        data = self.rest + data
        text: str
        text, used = _codecs.utf_8_decode(data, self.errors, final)
        self.rest = data[used:]
        return text

    def reset(self) -> None:
        self.rest = b""

    def getstate(self) -> tuple[bytes, int]:
        return self.rest, 0

    def setstate(self, state: tuple[bytes, int]) -> None:
        self.rest = state[0]


class _Utf8(tuple):  # type: ignore[type-arg]
    """What the interpreter reads of codecs.CodecInfo."""

    __slots__ = ()
    name = "utf-8"
    incrementalencoder = _Encoder
    incrementaldecoder = _Decoder
    _is_text_encoding = True


def _find_codec(name: str) -> object:
    """Return the codec of UTF-8; for any other name have the real package register the function that finds it."""
    if name in ("utf-8", "utf_8", "utf8"):
        return _Utf8((_codecs.utf_8_encode, _codecs.utf_8_decode, None, None))
    if _modules.get("encodings") is _stand_in:
        del _modules["encodings"]
    import encodings

    return encodings.search_function(name)


_frozen_importlib._find_and_load = _find_and_load  # type: ignore[attr-defined]  # noqa: SLF001
_frozen_importlib._install_external_importers = lambda: None  # type: ignore[attr-defined]  # noqa: SLF001
_modules["io"] = _io
_stand_in = _modules["encodings"] = type(sys)("encodings")
_modules["encodings.utf_8"] = _stand_in
_codecs.register(_find_codec)
