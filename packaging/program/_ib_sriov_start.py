"""What the one file runs: the finder of its shared objects, then the program."""

from __future__ import annotations

import encodings
import sys

import _ib_sriov
from _ib_sriov_tables import EXTENSIONS, NEEDED, TREE

ARCHIVE = "/proc/self/exe"  # the file that was started, whatever has its name by now

_linked: dict[str, str] = {}


def link(name: str) -> str:
    """Have the dynamic linker take a shared object of this program, after those it needs; gives its path."""
    path = _linked.get(name)
    if path is None:
        for other in NEEDED[name]:
            link(other)
        path = _linked[name] = _ib_sriov.load(name)
    return path


class Finder:
    """Importer of the extension modules; those that are linked in statically are found before."""

    @staticmethod
    def find_spec(fullname: str, _path: object = None, _target: object = None) -> object:
        """Give the spec of an extension module, None for any other."""
        name = EXTENSIONS.get(fullname)
        if name is None:
            return None
        import _frozen_importlib
        import _frozen_importlib_external

        origin = link(name)
        loader = _frozen_importlib_external.ExtensionFileLoader(fullname, origin)
        return _frozen_importlib.ModuleSpec(fullname, loader, origin=origin)


class Mapping:
    """What os.environ is made of, in a verb: the class of _collections_abc without the twenty-four beside it."""

    def get(self, key: str, default: object = None) -> object:
        """Give what belongs to the key, or the default."""
        try:
            return self[key]  # type: ignore[index]  # os._Environ has it
        except KeyError:
            return default

    def __contains__(self, key: str) -> bool:
        """Whether it is set."""
        try:
            self[key]  # type: ignore[index]  # likewise
        except KeyError:
            return False
        return True

    def keys(self) -> list[str]:
        """Give the names."""
        return list(self)  # type: ignore[call-overload, no-any-return]  # likewise

    def values(self) -> list[str]:
        """Give the values."""
        return [self[key] for key in self]  # type: ignore[attr-defined, index]  # likewise

    def items(self) -> list[tuple[str, str]]:
        """Give names and values."""
        return [(key, self[key]) for key in self]  # type: ignore[attr-defined, index]  # likewise

    def pop(self, key: str, default: object = None) -> object:
        """Take it out."""
        found = self.get(key, default)
        if key in self:
            del self[key]  # type: ignore[attr-defined]  # likewise
        return found


def has_methods(kind: type, *names: str) -> object:
    """Whether a class has these methods, as os.PathLike asks."""
    return all(hasattr(kind, name) for name in names) or NotImplemented


def import_os() -> None:
    """Import os with a part of _collections_abc, which costs more than os itself; it is not left in sys.modules."""
    part = type(sys)("_collections_abc")
    part.__dict__.update(_check_methods=has_methods, Mapping=Mapping, MutableMapping=Mapping)
    sys.modules["_collections_abc"] = part
    import os

    del sys.modules["_collections_abc"], os


def run() -> None:
    verb = _is_verb()
    if verb:
        import_os()
    from ib_sriov_cni.__main__ import main

    if verb:
        # One short call: no garbage to collect, and at its end no module to take apart.
        import gc
        from posix import _exit

        gc.disable()
        status = main()
        for stream in (sys.stdout, sys.stderr):
            try:
                if stream is not None:
                    stream.flush()
            except (OSError, ValueError):
                status = status or 1
        _exit(status)
    sys.exit(main())


def _is_verb() -> bool:
    from posix import environ

    return bool(environ.get(b"CNI_COMMAND"))


# A package that is frozen in part has its other parts below this "folder": in the archive at the program's end.
sys._stdlib_dir = ARCHIVE  # type: ignore[attr-defined]  # noqa: SLF001  # what frozen packages' __path__ is made of
encodings.__path__.append(f"{ARCHIVE}/encodings")
sys.frozen = True  # type: ignore[attr-defined]  # what packed programs call themselves
# The folder beside the program, "" for the one file; `ib-sriov install` asks.
sys.packed_tree = TREE and sys.executable.rpartition("/")[0] + "/" + TREE  # type: ignore[attr-defined]
sys.meta_path.insert(-1, Finder)  # type: ignore[arg-type]
run()
