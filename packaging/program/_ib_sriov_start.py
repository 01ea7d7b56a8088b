"""What the program runs first: it makes its own modules importable, then starts the plugin."""

from __future__ import annotations

import _frozen_importlib
import _imp
import sys

ARCHIVE = sys.path[0]  # the file that was started, whatever has its name by now (main.c)


class Finder:
    """Importer of built-in modules that belong to a package, pyverbs': Python's own refuses any but top-level ones."""

    @staticmethod
    def find_spec(fullname: str, path: object = None, _target: object = None) -> object:
        """Give the spec of such a module, None for any other."""
        if path is None or not _imp.is_builtin(fullname):
            return None
        return _frozen_importlib.ModuleSpec(fullname, _frozen_importlib.BuiltinImporter, origin="built-in")


# A package that is frozen in part has its other parts below this "folder": in the archive at the program's end.
sys._stdlib_dir = ARCHIVE  # type: ignore[attr-defined]  # noqa: SLF001  # what frozen packages' __path__ is made of
if "_ib_sriov_boot" in sys.modules:  # a CNI command: what follows may want the real ones
    for _name in ("io", "encodings", "encodings.utf_8"):
        del sys.modules[_name]
else:
    import encodings

    encodings.__path__.append(f"{ARCHIVE}/encodings")
sys.frozen = True  # type: ignore[attr-defined]  # what packed programs call themselves
sys.meta_path.insert(-1, Finder)  # type: ignore[arg-type]
from ib_sriov_cni.__main__ import run  # noqa: E402  # only now can it be found

run()
