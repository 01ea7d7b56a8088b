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


# A package that is frozen in part has its other parts below this "folder": in the archive at the program's end.
sys._stdlib_dir = ARCHIVE  # type: ignore[attr-defined]  # noqa: SLF001  # what frozen packages' __path__ is made of
encodings.__path__.append(f"{ARCHIVE}/encodings")
sys.frozen = True  # type: ignore[attr-defined]  # what packed programs call themselves
# The folder beside the program, "" for the one file; `ib-sriov install` asks.
sys.packed_tree = TREE and sys.executable.rpartition("/")[0] + "/" + TREE  # type: ignore[attr-defined]
sys.meta_path.insert(-1, Finder)  # type: ignore[arg-type]
from ib_sriov_cni.__main__ import run  # noqa: E402  # only now can it be found

run()
